/**
 * Runs one case in a process of its own, so that no other case has shaped the code that
 * V8 made: `worker.ts PASS NAME SECONDS`. Prints one line of JSON. Passes:
 * - time: CPU time and allocated bytes; needs `--v8-flags=--expose-gc`
 * - count: calls of libc, through wrapped functions
 * - heap: what V8's heap has grown by after so many packets; SECONDS is their number
 */
import { interpose } from "../../../ffi/libc.ts";
import type { Case } from "./cases.ts";
import type { Meter, Times } from "./meter.ts";

export interface TimeResult extends Times {
  readonly packets: number;
  /** Bytes of V8's heap allocated per packet. */
  readonly bytes: number;
}
export interface CountResult {
  readonly packets: number;
  /** Calls of libc by function. */
  readonly calls: Record<string, number>;
  /** Calls per packet in the best of stretches: where the peer kept nobody waiting. */
  readonly fewest: number;
}

export interface HeapResult {
  readonly packets: number;
  /** Bytes that a full collection leaves more at the end than at the beginning. */
  readonly growth: number;
}

const WARM_UP = 0.3;
const HEAP_SHARE = 0.2;
/** Packets of a stretch in which calls are counted. */
const STRETCH = 100;

/** Runs rounds for `seconds`, at least one that moves something; packets. */
function runFor(seconds: number, round: () => number): number {
  const end = performance.now() + seconds * 1000;
  let packets = 0;
  do packets += round(); while (packets === 0 || performance.now() < end);
  return packets;
}

function time(meter: Meter, seconds: number, round: () => number): TimeResult {
  runFor(seconds * WARM_UP, round);
  meter.calibrate();
  let packets = 0;
  const times = meter.time(() => packets = runFor(seconds, round));
  (globalThis as { gc?: () => void }).gc?.();
  meter.mode = "heap";
  const packetsOnHeap = runFor(seconds * HEAP_SHARE, round);
  meter.mode = "off";
  return { ...times, packets, bytes: meter.heap / packetsOnHeap };
}

function countCalls(
  meter: Meter,
  seconds: number,
  round: () => number,
  calls: { readonly byName: Map<string, number> },
): CountResult {
  runFor(seconds * WARM_UP, round);
  meter.mode = "count";
  const { byName } = calls;
  const all = () => byName.values().reduce((sum, n) => sum + n, 0);
  let fewest = Infinity;
  const stretch = () => {
    const before = all();
    let moved = 0;
    while (moved < STRETCH) moved += round();
    fewest = Math.min(fewest, (all() - before) / moved);
    return moved;
  };
  const packets = runFor(seconds * WARM_UP, stretch);
  return { packets, calls: Object.fromEntries(byName), fewest };
}

/** Of all packets, those that come before the heap is first looked at. */
const SETTLING = 0.1;

function heapAfterCollection(): number {
  const { gc } = globalThis as { gc?: () => void };
  // What a first one finds dead may keep more alive until a second.
  for (let i = 0; i < 3; i++) gc?.();
  return Deno.memoryUsage().heapUsed;
}

function grow(packets: number, round: () => number): HeapResult {
  for (let done = 0; done < packets * SETTLING;) done += round();
  const before = heapAfterCollection();
  let done = 0;
  while (done < packets) done += round();
  return { packets: done, growth: heapAfterCollection() - before };
}

/** Starts what the case talks to and returns its port. */
async function startPeer(role: string) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-all", "--no-check", import.meta.resolve("./peer.ts"), role],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  return { child, port: Number(new TextDecoder().decode(value)) };
}

async function main(pass: string, name: string, seconds: number): Promise<void> {
  const counter = { on: false, byName: new Map<string, number>() };
  if (pass === "count") {
    interpose((called, call) => (...args) => {
      if (counter.on) counter.byName.set(called, (counter.byName.get(called) ?? 0) + 1);
      return call(...args);
    });
  }
  const { CASES } = await import("./cases.ts");
  const { Meter } = await import("./meter.ts");
  const found: Case | undefined = CASES.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no case '${name}'`);
  const meter = new Meter(counter);
  const peer = found.peer === undefined ? undefined : await startPeer(found.peer);
  const round = found.start(meter, peer?.port ?? 0);
  const passes: Record<string, () => TimeResult | CountResult | HeapResult> = {
    count: () => countCalls(meter, seconds, round, counter),
    time: () => time(meter, seconds, round),
    heap: () => grow(seconds, round),
  };
  console.log(JSON.stringify(passes[pass]()));
  peer?.child.kill("SIGKILL");
  Deno.exit(0);
}

if (import.meta.main) await main(Deno.args[0], Deno.args[1], Number(Deno.args[2]));
