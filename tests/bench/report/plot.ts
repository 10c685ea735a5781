/**
 * `deno task bench:plot FOLDER FILE...`: draws what `deno task bench --json` wrote, one
 * chart for each figure behind each frontend, and writes README.md with the same as tables.
 */
import { type Measured } from "../micro/report.ts";
import { HEADINGS, heapRow, row as microRow } from "../micro/report.ts";
import { comparisonChart, microChart } from "./chart.ts";
import type { Figures } from "./figures.ts";
import { type Row, rowsOf, spread } from "./ratio.ts";
import { asMarkdown, digits, sections } from "./table.ts";

const USAGE = "usage: deno task bench:plot FOLDER FILE...";

/** Several runs as one; what was measured later replaces what was measured before. */
export function merge(runs: readonly Figures[]): Omit<Figures, "about"> {
  const micro = new Map(runs.flatMap((run) => run.micro).map((one) => [one.name, one]));
  const heap = new Map(runs.flatMap((run) => run.heap).map((one) => [one.name, one]));
  const keyOf = ({ level, frontend, mtu, name }: Figures["samples"][number]) =>
    `${level}|${frontend}|${mtu}|${name}`;
  const samples = new Map<string, Figures["samples"]>();
  for (const run of runs) {
    for (const [key, group] of Map.groupBy(run.samples, keyOf)) samples.set(key, group);
  }
  return {
    backends: Object.assign({}, ...runs.map((run) => run.backends)),
    micro: [...micro.values()],
    heap: [...heap.values()],
    samples: inOrder([...samples.values()].flat()),
  };
}

/** Frontends in the order in which they are shown, with what to know of each. */
const FRONTENDS: Readonly<Record<string, string>> = {
  tap: "The benchmark's own frontend: the kernel of a namespace is the guest.",
  dpdk:
    "testpmd takes each frame from its tap by a call of its own, with no offloads, and " +
    "polls on a processor: it bounds what it measures.",
  uml: "Linux as a process. Its driver virtio_uml finds no device behind passt.",
  qemu:
    "Linux in QEMU, by translation where KVM is not usable: the guest's own processors " +
    "bound what is measured.",
};

function inOrder(samples: Figures["samples"]): Figures["samples"] {
  const names = Object.keys(FRONTENDS);
  const place = (name: string) => names.indexOf(name);
  return samples.toSorted((a, b) =>
    place(a.frontend) - place(b.frontend) || a.mtu - b.mtu
  );
}

const fileName = (text: string) => text.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");

/** Draws each figure; names of the files by frontend. */
async function draw(
  folder: string,
  rows: readonly Row[],
  backends: readonly string[],
): Promise<Map<string, string[]>> {
  const byFrontend = new Map<string, string[]>();
  const groups = Map.groupBy(rows, ({ frontend, figure }) => `${frontend} ${figure}`);
  for (const [key, group] of groups) {
    const drawn = group.filter(({ byBackend }) => byBackend.size > 0);
    if (drawn.length === 0) continue;
    const name = `${fileName(key)}.svg`;
    await Deno.writeTextFile(`${folder}/${name}`, comparisonChart(drawn, backends));
    const { level, frontend } = drawn[0];
    const title = `${level}: ${frontend}`;
    byFrontend.set(title, [...byFrontend.get(title) ?? [], name]);
  }
  return byFrontend;
}

const code = (lines: readonly string[]) => ["```", ...lines, "```", ""];

/** What others took of the machine meanwhile, in words. */
function noiseOf(samples: Figures["samples"]): string {
  const known = samples.flatMap(({ noise }) => noise ?? []);
  if (known.length === 0) return "";
  const { median, most } = spread(known);
  return ` Other processes took ${digits(median)} processors meanwhile in the median, ` +
    `${digits(most)} at most.`;
}

function aboutRuns(runs: readonly Figures[]): string[] {
  const { processor, cpus, kernel, deno } = runs[0].about;
  const { backends, samples } = merge(runs);
  const dates = runs.map(({ about }) => String(about.date)).toSorted();
  return [
    `Measured from ${dates[0]} to ${dates[dates.length - 1]} on ${cpus} processors ` +
    `(${processor}), Linux ${kernel}, Deno ${deno}:`,
    "",
    ...Object.entries(backends).map(([name, text]) => `- ${name}: ${text}`),
    "",
    "Cells hold the median, then the lowest and the highest of the rounds; a ratio is of " +
    "figures of the same round. The time from start to listening includes the programs " +
    "that enter the namespace (some milliseconds), peak memory what a back-end touched of " +
    "the guest's." + noiseOf(samples),
    "",
    "The commands:",
    "",
    ...code([
      ...new Set(runs.map(({ about }) => String(about.command))),
      "deno task bench:plot docs/bench docs/bench/*.json",
    ]),
  ];
}

/** What costs above this (ns) would leave the rest too small to see. */
const LARGE_COST = 3000;

function microCharts(micro: readonly Measured[]) {
  const small = micro.filter(({ nanoseconds }) => nanoseconds < LARGE_COST);
  const large = micro.filter(({ nanoseconds }) => nanoseconds >= LARGE_COST);
  return [
    { file: "micro-packets.svg", title: "packets", results: small },
    { file: "micro-large.svg", title: "segments and connections", results: large },
  ].filter(({ results }) => results.length > 0);
}

function microPart(micro: readonly Measured[], heap: Figures["heap"]): string[] {
  if (micro.length + heap.length === 0) return [];
  const rows = micro.length > 0 ? [HEADINGS, ...micro.map(microRow)] : [];
  const pictures = microCharts(micro).flatMap(({ file, title }) => [
    `![CPU time of ${title}](${file})`,
    "",
  ]);
  return ["## micro", "", ...pictures, ...code([...rows, "", ...heap.map(heapRow)])];
}

async function main([folder, ...files]: readonly string[]): Promise<number> {
  if (files.length === 0) {
    console.error(USAGE);
    return 2;
  }
  const runs = await Promise.all(
    files.map(async (file) => JSON.parse(await Deno.readTextFile(file)) as Figures),
  );
  await Deno.mkdir(folder, { recursive: true });
  const { backends: known, micro, heap, samples } = merge(runs);
  const backends = Object.keys(known);
  const pictures = await draw(folder, rowsOf(samples, backends), backends);
  for (const { file, title, results } of microCharts(micro)) {
    await Deno.writeTextFile(`${folder}/${file}`, microChart(title, results));
  }
  const tables = sections(samples, backends);
  const text = ["# Figures", "", ...aboutRuns(runs), ...microPart(micro, heap)];
  for (const [title, names] of pictures) {
    text.push(`## ${title}`, "", FRONTENDS[title.split(": ")[1]] ?? "", "");
    for (const name of names) text.push(`![${name.replace(".svg", "")}](${name})`, "");
    const own = tables.filter((table) => table.title.startsWith(`${title},`));
    text.push(...own.map(asMarkdown));
  }
  const page = `${folder}/README.md`;
  await Deno.writeTextFile(page, text.join("\n"));
  const format = new Deno.Command(Deno.execPath(), { args: ["fmt", "-q", page] });
  return (await format.output()).code;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
