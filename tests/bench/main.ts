/**
 * `deno task bench`: what each hot path of the data path costs per packet, as a table.
 * A driver in the same process plays the guest's rings; what flows talk to is another
 * process on loopback, whose time does not count. See --help.
 */
import { parseArgs } from "@std/cli";
import type { Case } from "./micro/cases.ts";
import { CASES } from "./micro/cases.ts";
import { HEADINGS, type Measured, row, toJson } from "./micro/report.ts";
import type { CountResult, TimeResult } from "./micro/worker.ts";

const HELP = `deno task bench [--filter REGEX] [--seconds N] [--json FILE]

  --filter REGEX  only the cases whose names match, e.g. 'UDP|from guest'
  --seconds N     time for each case (default 0.8)
  --json FILE     write all figures to FILE, too

Columns, per packet (or what the case counts):
  ns         CPU time of the data path, the kernel's part of it included
  kernel     the kernel's part of that, loopback up to the peer's socket included
  packets/s  that one core could do at that cost; Gbit/s of payload likewise
  calls      system calls, counted in a run of its own
  bytes      allocated on V8's heap
  driver     ns of the driver that plays the guest, not included above
`;

/** A case that takes this long beyond its time makes no progress (ms). */
const PATIENCE = 60_000;
const WORKER = import.meta.resolve("./micro/worker.ts");

async function run<T>(pass: string, { name }: Case, seconds: number): Promise<T> {
  const flags = pass === "time" ? ["--v8-flags=--expose-gc"] : [];
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--allow-all",
      "--no-check",
      ...flags,
      WORKER,
      pass,
      name,
      String(seconds),
    ],
    stderr: "inherit",
    signal: AbortSignal.timeout(PATIENCE + 3000 * seconds),
  }).output();
  if (!success) throw new Error(`'${name}' failed or got stuck`);
  return JSON.parse(new TextDecoder().decode(stdout)) as T;
}

async function measure(one: Case, seconds: number): Promise<Measured> {
  const { calls, packets } = await run<CountResult>("count", one, seconds);
  const times = await run<TimeResult>("time", one, seconds);
  const perPacket = Object.entries(calls).map(([name, n]) => [name, n / packets]);
  return {
    name: one.name,
    unit: one.unit,
    payload: one.payload,
    packets: times.packets,
    nanoseconds: times.path / times.packets,
    kernelNanoseconds: times.kernel / times.packets,
    driverNanoseconds: times.driver / times.packets,
    wallNanoseconds: times.wall / times.packets,
    allocatedBytes: times.bytes,
    calls: Object.fromEntries(perPacket),
  };
}

function wanted(filter: string | undefined): readonly Case[] {
  if (filter === undefined) return CASES;
  const pattern = new RegExp(filter, "i");
  return CASES.filter(({ name }) => pattern.test(name));
}

async function main(): Promise<number> {
  const args = parseArgs(Deno.args, {
    string: ["filter", "json", "seconds"],
    boolean: ["help"],
    alias: { h: "help" },
  });
  if (args.help) {
    console.log(HELP.trimEnd());
    return 0;
  }
  const seconds = Number(args.seconds ?? 0.8);
  const cases = wanted(args.filter as string | undefined);
  if (!(seconds > 0) || cases.length === 0) {
    console.error(
      cases.length === 0
        ? `bench: no case matches '${args.filter}'`
        : `bench: --seconds ${args.seconds}: not a number above 0`,
    );
    return 2;
  }
  const results: Measured[] = [];
  console.log(HEADINGS);
  for (const one of cases) {
    const result = await measure(one, seconds);
    results.push(result);
    console.log(row(result));
  }
  if (args.json !== undefined) {
    await Deno.writeTextFile(args.json as string, toJson(results, seconds));
  }
  return 0;
}

if (import.meta.main) Deno.exit(await main());
