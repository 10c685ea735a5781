/**
 * Tells the data path's share from the driver's: cases call {@link Meter.enter} and
 * {@link Meter.leave} around the former. What is measured is CPU time, so that waiting
 * for peers does not count: the thread's, less what the driver took by the clock.
 */
import { Arena } from "../../../ffi/arena.ts";
import { libc } from "../../../ffi/libc.ts";

const sys = libc({
  /** int clock_gettime(clockid_t clockid, struct timespec *tp) */
  clock_gettime: { parameters: ["i32", "pointer"], result: "i32" },
  /** int getrusage(int who, struct rusage *usage) */
  getrusage: { parameters: ["i32", "pointer"], result: "i32" },
});
const CLOCK_THREAD_CPUTIME_ID = 3;
const RUSAGE_THREAD = 1;

const arena = new Arena(4096);
const at = arena.take(16);
const pointer = arena.pointer(at);
const usageAt = arena.take(144);
const usagePointer = arena.pointer(usageAt);

/** CPU time of this thread, nanoseconds. */
function threadTime(): number {
  sys.clock_gettime(CLOCK_THREAD_CPUTIME_ID, pointer);
  return arena.view.getUint32(at, true) * 1e9 + arena.view.getUint32(at + 8, true);
}

/** Time that this thread spent in the kernel, nanoseconds. */
function kernelTime(): number {
  sys.getrusage(RUSAGE_THREAD, usagePointer);
  const { view } = arena;
  return view.getUint32(usageAt + 16, true) * 1e9 +
    view.getUint32(usageAt + 24, true) * 1e3;
}

export interface Times {
  /** Nanoseconds of CPU of the data path, and those of them spent in the kernel. */
  path: number;
  kernel: number;
  /** Nanoseconds of the driver. */
  driver: number;
  /** Nanoseconds in all, waiting included. */
  wall: number;
}

/** What the marks are for: nothing while a case warms up. */
export type Mode = "off" | "time" | "heap" | "count";

export class Meter {
  mode: Mode = "off";
  /** Bytes allocated between marks, but for rounds that met a collection. */
  heap = 0;
  /** When the driver began, its sum so far, marks set; time {@link aside}, kernel's. */
  readonly #clock = new Float64Array(5);
  #heapBefore = 0;
  #heapCost = 0;
  #markCost = 0;

  /** @param counter switched on where calls of libc count */
  constructor(readonly counter = { on: false }) {}

  /** Measures what the marks themselves cost. */
  calibrate(): void {
    const rounds = 2000;
    this.mode = "time";
    this.#clock.fill(0);
    const start = performance.now();
    for (let i = 0; i < rounds; i++) {
      this.enter();
      this.leave();
    }
    this.#markCost = (performance.now() - start) * 1e6 / rounds;
    this.mode = "heap";
    this.#heapCost = Infinity;
    for (let i = 0; i < 50; i++) {
      const before = Deno.memoryUsage().heapUsed;
      const after = Deno.memoryUsage().heapUsed;
      if (after >= before) this.#heapCost = Math.min(this.#heapCost, after - before);
    }
    this.mode = "off";
  }

  enter(): void {
    switch (this.mode) {
      case "time":
        this.#clock[1] += performance.now() - this.#clock[0];
        this.#clock[2]++;
        return;
      case "heap":
        this.#heapBefore = Deno.memoryUsage().heapUsed;
        return;
      case "count":
        this.counter.on = true;
    }
  }

  leave(): void {
    switch (this.mode) {
      case "time":
        this.#clock[0] = performance.now();
        return;
      case "heap": {
        const grown = Deno.memoryUsage().heapUsed - this.#heapBefore - this.#heapCost;
        if (grown > 0) this.heap += grown;
        return;
      }
      case "count":
        this.counter.on = false;
    }
  }

  /** Runs something that belongs to neither: what it takes does not count. */
  aside(run: () => void): void {
    const { mode } = this;
    if (mode !== "time") {
      this.mode = "off";
      run();
      this.mode = mode;
      return;
    }
    const cpu = threadTime();
    const kernel = kernelTime();
    this.#clock[1] += performance.now() - this.#clock[0];
    this.mode = "off";
    run();
    this.mode = mode;
    this.#clock[0] = performance.now();
    this.#clock[3] += threadTime() - cpu;
    this.#clock[4] += kernelTime() - kernel;
  }

  /** Runs `rounds` with marks that take the time. */
  time(rounds: () => void): Times {
    this.mode = "time";
    this.#clock.fill(0);
    const wall = performance.now();
    const kernel = kernelTime();
    const cpu = threadTime();
    this.#clock[0] = performance.now();
    rounds();
    this.#clock[1] += performance.now() - this.#clock[0];
    const used = threadTime() - cpu;
    const inKernel = kernelTime() - kernel - this.#clock[4];
    this.mode = "off";
    const driver = this.#clock[1] * 1e6;
    const marks = this.#clock[2] * this.#markCost;
    return {
      path: Math.max(0, used - this.#clock[3] - driver - marks / 2),
      kernel: Math.max(0, inKernel),
      driver: Math.max(0, driver - marks / 2),
      wall: (performance.now() - wall) * 1e6,
    };
  }
}
