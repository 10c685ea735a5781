/** Runs the cases of level micro, each in two processes of its own: see worker.ts. */
import { type Case, CASES } from "./cases.ts";
import type { Heap, Measured } from "./report.ts";
import type { CountResult, HeapResult, TimeResult } from "./worker.ts";

/** A case that takes this long beyond its time makes no progress (ms). */
const PATIENCE = 60_000;
const WORKER = import.meta.resolve("./worker.ts");

/** Slower than this (packets/s), a case that watches the heap has got stuck. */
const SLOWEST = 10_000;
/** Cases in which memory could stay behind for each packet. */
const ON_HEAP = [
  "TCP to guest, MTU 1500",
  "TCP from guest, 1460 bytes",
  "TCP acknowledgement from guest",
  "UDP from guest, 64 bytes",
  "UDP to guest, 64 bytes",
];

async function run<T>(
  pass: string,
  { name }: Case,
  seconds: number,
  limit = PATIENCE + 3000 * seconds,
): Promise<T> {
  const flags = pass === "count" ? [] : ["--v8-flags=--expose-gc"];
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
    signal: AbortSignal.timeout(limit),
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

/** Moves `packets` packets through the wanted cases, and tells how the heap has grown. */
export async function runHeap(
  wanted: (name: string) => boolean,
  packets: number,
  tell: (result: Heap) => void,
): Promise<void> {
  for (const one of CASES.filter(({ name }) => ON_HEAP.includes(name))) {
    const name = `heap: ${one.name}`;
    if (!wanted(name)) continue;
    const limit = PATIENCE + packets / SLOWEST * 1000;
    tell({ name, ...await run<HeapResult>("heap", one, packets, limit) });
  }
}
