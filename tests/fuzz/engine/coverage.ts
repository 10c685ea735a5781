/**
 * What instrumented modules report while they run: a counter per branch, and the two sides
 * of comparisons that came out unequal. Modules ask for their part as they are loaded, so
 * this one has to be loaded before them.
 */

const SIZE = 1 << 16;
const MAX_PAIRS = 512;

/** What the first line of an instrumented module calls. */
interface Hooks {
  /** The module's counters; `literals` are constants that its code mentions. */
  cover(
    path: string,
    count: number,
    literals: readonly (number | string)[],
  ): Uint8Array;
  /** a === b, noted if wanted. */
  same(a: unknown, b: unknown): boolean;
}

const counters = new Uint8Array(SIZE);
const words = new Int32Array(counters.buffer);
let used = 0;

/** Constants of the modules that are loaded. */
export const literals = new Set<number | string>();
/** Unequal pairs of the last run, one after the other. */
export const pairs: (number | bigint)[] = [];
let watching = false;

const hooks: Hooks = {
  cover(_path, count, mentioned) {
    const part = counters.subarray(used, used + count);
    used += count;
    if (used > SIZE) throw new RangeError("more branches than counters");
    for (const literal of mentioned) literals.add(literal);
    return part;
  },
  same(a, b) {
    if (watching && a !== b) note(a, b);
    return a === b;
  },
};
(globalThis as { vueloFuzz?: Hooks }).vueloFuzz = hooks;

function note(a: unknown, b: unknown): void {
  const type = typeof a;
  if (type !== typeof b || pairs.length >= MAX_PAIRS) return;
  if (type === "number" || type === "bigint") pairs.push(a as number, b as number);
}

/** Branches of all modules that are loaded. */
export function branches(): number {
  return used;
}

/** Starts or ends the writing down of comparisons. */
export function watch(on: boolean): void {
  watching = on;
  if (on) pairs.length = 0;
}

/** How often, in classes of AFL: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more. */
const CLASS = Uint8Array.from({ length: 256 }, (_, count) => {
  if (count < 4) return [0, 1, 2, 4][count];
  return count < 8 ? 8 : count < 16 ? 16 : count < 32 ? 32 : count < 128 ? 64 : 128;
});

/** All that any run has done so far. */
export class Coverage {
  readonly #seen = new Uint8Array(SIZE);
  /** Branches that were taken. */
  edges = 0;
  /** Branches with classes of counts. */
  features = 0;
  /** Of the last run: branches taken, with the class above 16 bits. */
  readonly trace: number[] = [];

  /** Before a run. */
  clear(): void {
    counters.fill(0, 0, used);
  }

  /** Fills {@link trace} with a run's counters, and learns nothing of them. */
  readTrace(): void {
    this.trace.length = 0;
    for (let at = 0; at < used; at++) {
      if (counters[at] !== 0) this.trace.push(CLASS[counters[at]] << 16 | at);
    }
  }

  /**
   * Takes in the counters of a run.
   *
   * @returns 2 if a branch was new, 1 if a class of counts was, else 0
   */
  collect(): number {
    let news = 0;
    const end = used + 3 >> 2;
    for (let i = 0; i < end; i++) {
      if (words[i] === 0) continue;
      for (let at = 4 * i; at < 4 * i + 4; at++) {
        const bit = CLASS[counters[at]];
        if (bit === 0) continue;
        if ((this.#seen[at] & bit) === 0) news = Math.max(news, this.#add(at, bit));
      }
    }
    return news;
  }

  #add(at: number, bit: number): number {
    const before = this.#seen[at];
    this.#seen[at] = before | bit;
    this.features++;
    if (before !== 0) return 1;
    this.edges++;
    return 2;
  }
}
