/**
 * The memory that a process has mapped through its table of libc, as the table saw it: not
 * all that /proc/self/maps lists, but what vuelo itself asked for. Kept in memory that the
 * threads of the process share, and backed by a file, so that it can be read after the
 * process has ended in whichever way.
 */

/** Bytes of a registry. */
export const REGISTRY_SIZE = 0x2_0000;

const WORD = { lock: 0, count: 1, threads: 2, violation: 3, origins: 4 } as const;
const TALLIES_AT = 0x100;
const MAX_THREADS = 80;
const VIOLATION_AT = 0x600;
const VIOLATION_SIZE = 0x800;
const ENTRIES_AT = 0x1000;
const MAX_ENTRIES = (REGISTRY_SIZE - ENTRIES_AT) / 32;

/** Addresses from `start` up to `end`, mapped by one call. */
export interface Region {
  readonly start: number;
  readonly end: number;
  /** Whether the process may touch it: a reservation has no memory behind it. */
  readonly accessible: boolean;
  /** The same for all that lies in one reservation. */
  readonly origin: number;
}

/** What one thread has checked. */
export interface Tally {
  calls: number;
  ranges: number;
}

/** Sorted, disjoint regions in shared memory. */
export class Registry {
  readonly #words: Int32Array;
  readonly #numbers: Float64Array;
  readonly #bytes: Uint8Array;

  /** @param memory {@link REGISTRY_SIZE} bytes, at first zero */
  constructor(memory: ArrayBuffer) {
    this.#words = new Int32Array(memory, 0, 16);
    this.#numbers = new Float64Array(memory);
    this.#bytes = new Uint8Array(memory);
  }

  #locked<T>(body: () => T): T {
    while (Atomics.compareExchange(this.#words, WORD.lock, 0, 1) !== 0);
    try {
      return body();
    } finally {
      Atomics.store(this.#words, WORD.lock, 0);
    }
  }

  /** A place to count in that no other thread writes to. */
  enter(): Tally {
    const thread = Atomics.add(this.#words, WORD.threads, 1);
    if (thread >= MAX_THREADS) throw new RangeError("too many threads to be checked");
    const numbers = this.#numbers;
    const at = TALLIES_AT / 8 + 2 * thread;
    return {
      get calls() {
        return numbers[at];
      },
      set calls(value) {
        numbers[at] = value;
      },
      get ranges() {
        return numbers[at + 1];
      },
      set ranges(value) {
        numbers[at + 1] = value;
      },
    };
  }

  /** What all threads together have checked. */
  get total(): Tally {
    const total = { calls: 0, ranges: 0 };
    for (let thread = 0; thread < Math.min(this.#words[WORD.threads], MAX_THREADS);) {
      const at = TALLIES_AT / 8 + 2 * thread++;
      total.calls += this.#numbers[at];
      total.ranges += this.#numbers[at + 1];
    }
    return total;
  }

  /** The first violation that was seen, "" if there was none. */
  get violation(): string {
    const at = VIOLATION_AT;
    const length = this.#words[WORD.violation];
    return new TextDecoder().decode(this.#bytes.slice(at, at + length));
  }
  set violation(text: string) {
    if (Atomics.load(this.#words, WORD.violation) !== 0) return;
    const room = this.#bytes.subarray(VIOLATION_AT, VIOLATION_AT + VIOLATION_SIZE);
    const { written } = new TextEncoder().encodeInto(text, room);
    Atomics.store(this.#words, WORD.violation, written);
  }

  #region(i: number): Region {
    const at = ENTRIES_AT / 8 + 4 * i;
    const [start, end, accessible, origin] = this.#numbers.subarray(at, at + 4);
    return { start, end, accessible: accessible === 1, origin };
  }

  /** Number of regions that start at or below `address`. */
  #upTo(address: number): number {
    let low = 0;
    let high = this.#words[WORD.count];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#numbers[ENTRIES_AT / 8 + 4 * middle] <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The region that `address` lies in. */
  find(address: number): Region | undefined {
    return this.#locked(() => {
      const i = this.#upTo(address) - 1;
      const region = i < 0 ? undefined : this.#region(i);
      return region !== undefined && address < region.end ? region : undefined;
    });
  }

  /** The regions that lie, at least in part, between `start` and `end`. */
  within(start: number, end: number): Region[] {
    return this.#locked(() => this.#all().filter((r) => r.start < end && r.end > start));
  }

  #all(): Region[] {
    return Array.from({ length: this.#words[WORD.count] }, (_, i) => this.#region(i));
  }

  /** Takes in a new mapping, in the place of what was there. */
  map(start: number, end: number, accessible: boolean): void {
    this.#locked(() => {
      const before = this.#all().find((r) => r.start <= start && start < r.end);
      const origin = before?.origin ?? ++this.#words[WORD.origins];
      const rest = this.#without(start, end);
      this.#write([...rest, { start, end, accessible, origin }]);
    });
  }

  /** Forgets what lies between `start` and `end`. */
  unmap(start: number, end: number): void {
    this.#locked(() => this.#write(this.#without(start, end)));
  }

  #without(start: number, end: number): Region[] {
    return this.#all().flatMap((region) => {
      if (region.end <= start || region.start >= end) return [region];
      const kept: Region[] = [];
      if (region.start < start) kept.push({ ...region, end: start });
      if (region.end > end) kept.push({ ...region, start: end });
      return kept;
    });
  }

  #write(regions: Region[]): void {
    if (regions.length > MAX_ENTRIES) throw new RangeError("too many regions to check");
    regions.sort((a, b) => a.start - b.start);
    regions.forEach(({ start, end, accessible, origin }, i) => {
      const at = ENTRIES_AT / 8 + 4 * i;
      this.#numbers.set([start, end, accessible ? 1 : 0, origin], at);
    });
    this.#words[WORD.count] = regions.length;
  }
}
