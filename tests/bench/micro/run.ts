/** Runs the cases of level micro, each in two processes of its own: see worker.ts. */
import { type Case, CASES } from "./cases.ts";
import type { Measured } from "./report.ts";
import type { CountResult, TimeResult } from "./worker.ts";

/** A case that takes this long beyond its time makes no progress (ms). */
const PATIENCE = 60_000;
const WORKER = import.meta.resolve("./worker.ts");

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

/** Measures the wanted cases for `seconds` each, and tells of each result. */
export async function runMicro(
  wanted: (name: string) => boolean,
  seconds: number,
  tell: (result: Measured) => void,
): Promise<void> {
  for (const one of CASES.filter(({ name }) => wanted(name))) {
    tell(await measure(one, seconds));
  }
}
