/**
 * `deno task bench`: what the data path costs, and how fast guests are behind vuelo and
 * behind other back-ends, as tables and JSON. See --help.
 */
import { LabError } from "../../scripts/lab/cache.ts";
import { missingRights, reenter, reentered, rights } from "../support/lab_userns.ts";
import { HEADINGS, type Heap, heapRow, type Measured, row } from "./micro/report.ts";
import { runHeap, runMicro } from "./micro/run.ts";
import { type Contender, peer, vuelo } from "./net/contender.ts";
import type { Sample } from "./net/results.ts";
import { fetchAll, runNet } from "./net/run.ts";
import { HELP, type Options, parse, UsageError } from "./options.ts";
import { about, type Figures } from "./report/figures.ts";
import { asText, digits, sections } from "./report/table.ts";

const SELF = new URL(import.meta.url).pathname;

/** Whether this process may make namespaces; undefined after another one did it all. */
async function enter(options: Options): Promise<number | undefined> {
  if (options.levels.size === 1 && options.levels.has("micro")) return undefined;
  if (!reentered()) await fetchAll();
  const may = await rights();
  if (may === "none") throw new LabError(await missingRights());
  return may === "namespace" ? await reenter(SELF, Deno.args) : undefined;
}

/** One line for each sample as it comes, so that nobody waits in the dark. */
function tellSample(sample: Sample): void {
  const { frontend, mtu, name, backend, figures, error, noise } = sample;
  const said = Object.entries(figures).map(([key, value]) => `${key} ${digits(value)}`);
  if (noise !== undefined) said.push(`others ${digits(noise)} CPU`);
  const text = error ?? said.join(", ");
  console.error(`${frontend} MTU ${mtu} ${name}: ${backend}: ${text}`);
}

async function contenders({ peer: text, queues }: Options): Promise<Contender[]> {
  const ours = vuelo(queues);
  return text === undefined ? [ours] : [ours, await peer(text)];
}

async function run(options: Options): Promise<Figures> {
  const micro: Measured[] = [];
  const heap: Heap[] = [];
  if (options.levels.has("micro")) {
    console.log(HEADINGS);
    await runMicro(options.wanted, options.seconds, (result) => {
      micro.push(result);
      console.log(row(result));
    });
    await runHeap(options.wanted, options.packets, (result) => {
      heap.push(result);
      console.log(heapRow(result));
    });
  }
  const samples: Sample[] = [];
  const all = await contenders(options);
  const onSample = (sample: Sample) => {
    samples.push(sample);
    tellSample(sample);
  };
  const plan = { ...options, contenders: all, onSample };
  await runNet(plan, options.levels, options.wanted);
  const names = all.map(({ name }) => name);
  for (const section of sections(samples, names)) console.log(`\n${asText(section)}`);
  const backends = Object.fromEntries(all.map((c) => [c.name, c.shown]));
  return {
    about: about(options.seconds, options.rounds),
    backends,
    micro,
    heap,
    samples,
  };
}

async function main(): Promise<number> {
  const options = parse(Deno.args);
  if (options === undefined) {
    console.log(HELP.trimEnd());
    return 0;
  }
  const elsewhere = await enter(options);
  if (elsewhere !== undefined) return elsewhere;
  const figures = await run(options);
  const { micro, heap, samples } = figures;
  if (micro.length + heap.length + samples.length === 0) {
    throw new UsageError("no case matches --filter");
  }
  if (options.json !== undefined) {
    await Deno.writeTextFile(options.json, JSON.stringify(figures, null, 2) + "\n");
  }
  return 0;
}

if (import.meta.main) {
  try {
    Deno.exit(await main());
  } catch (error) {
    const known = error instanceof UsageError || error instanceof LabError;
    console.error(known ? `bench: ${error.message}` : error);
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}
