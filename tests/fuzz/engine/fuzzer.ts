/**
 * Coverage-guided fuzzing in the manner of AFL and libFuzzer: an input that takes a branch
 * that none has taken before, or takes one more often, is kept and mutated further.
 */
import { branches, Coverage, literals, pairs, watch } from "./coverage.ts";
import { minimized } from "./corpus.ts";
import { encodings, Mutator, type Swap, swapsOf } from "./mutate.ts";
import { Random } from "./random.ts";
import type { Target } from "./target.ts";

/** A defect, and the smallest input found that shows it. */
export interface Finding {
  readonly signature: string;
  readonly message: string;
  input: Uint8Array;
}

interface Entry {
  readonly data: Uint8Array<ArrayBuffer>;
  readonly features: readonly number[];
  /** Of what the code compared when it ran. */
  swaps: readonly Swap[];
  picked: number;
}

const ENERGY = 128;
const TRIM_RUNS = 200;
const MAX_FINDINGS = 10;
const MINIMIZE_RUNS = 4000;

/** What differs between two defects: what was thrown, and where, without the numbers. */
export function signatureOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const frame = /\n\s+at ([^\n]*)/.exec(error.stack ?? "")?.[1] ?? "";
  const place = frame.replace(/^.*\/(?:tree\/)?((?:src|ffi|tests)\/)/, "$1");
  return `${error.name}: ${error.message.replace(/\d+/g, "N")} at ${place}`;
}

export class Fuzzer {
  readonly coverage = new Coverage();
  readonly findings: Finding[] = [];
  executions = 0;
  readonly #target: Target;
  readonly #random: Random;
  readonly #mutator: Mutator;
  readonly #entries: Entry[] = [];
  /** The shortest entry that takes a branch: those are picked most often. */
  readonly #champions = new Map<number, Entry>();
  #favoured: Entry[] = [];
  /** Is told of each input before it runs. */
  readonly #before: (input: Uint8Array, executions: number) => void;

  constructor(
    target: Target,
    seed: number,
    before: (input: Uint8Array, executions: number) => void = () => {},
  ) {
    this.#target = target;
    this.#before = before;
    this.#random = new Random(seed);
    const words = [...target.dictionary ?? [], ...wordsOf(literals)];
    this.#mutator = new Mutator(this.#random, target.maxLength, words);
  }

  get corpus(): number {
    return this.#entries.length;
  }
  get branches(): number {
    return branches();
  }

  /** Runs an input that is known; keeps it if it reaches something. */
  add(input: Uint8Array): void {
    const data = input.slice(0, this.#target.maxLength);
    if (this.#run(data) > 0) this.#keep(data);
  }

  /** Picks an entry and runs mutations of it. */
  step(): void {
    if (this.#entries.length === 0) this.#force(new Uint8Array(0));
    const entry = this.#pick();
    if (entry.picked++ === 0) entry.swaps = this.#watched(entry.data);
    this.#mutator.swaps = entry.swaps;
    for (let i = 0; i < ENERGY; i++) {
      const other = this.#random.pick(this.#entries).data;
      const input = this.#mutator.mutate(entry.data, other);
      if (this.#run(input) > 0) this.#keep(input);
    }
  }

  /** As few inputs as reach the same, see {@link minimized}. */
  minimized(limit: number): Uint8Array[] {
    return minimized(this.#entries, limit);
  }

  inputs(): Uint8Array[] {
    return this.#entries.map(({ data }) => data);
  }

  #force(data: Uint8Array<ArrayBuffer>): void {
    this.#run(data);
    this.#entries.push({ data, features: [], swaps: [], picked: 0 });
  }

  #pick(): Entry {
    const favoured = this.#random.below(4) > 0 && this.#favoured.length > 0;
    return this.#random.pick(favoured ? this.#favoured : this.#entries);
  }

  /** Runs an input; see {@link Coverage.collect}. What fails is not gone on from. */
  #run(input: Uint8Array<ArrayBuffer>): number {
    const error = this.#execute(input);
    if (error === undefined) return this.coverage.collect();
    this.#found(input, error.thrown);
    return 0;
  }

  /** Runs an input for {@link Coverage.trace}. */
  #traced(input: Uint8Array<ArrayBuffer>): readonly number[] {
    if (this.#execute(input) === undefined) this.coverage.readTrace();
    else this.coverage.trace.length = 0;
    return this.coverage.trace;
  }

  #execute(input: Uint8Array<ArrayBuffer>): { thrown: unknown } | undefined {
    this.#before(input, ++this.executions);
    this.coverage.clear();
    try {
      this.#target.run(input.slice());
    } catch (thrown) {
      return { thrown };
    }
  }

  /** Swaps of what the code compares on this input. */
  #watched(input: Uint8Array<ArrayBuffer>): Swap[] {
    watch(true);
    this.#run(input);
    watch(false);
    return swapsOf(pairs);
  }

  /** Keeps an input, cut down as far as it still does the same. */
  #keep(input: Uint8Array<ArrayBuffer>): void {
    const features = [...this.#traced(input)];
    const data = this.#trimmed(input, features);
    const entry: Entry = { data, features, swaps: [], picked: 0 };
    this.#entries.push(entry);
    let better = false;
    for (const feature of features) {
      const champion = this.#champions.get(feature);
      if (champion !== undefined && champion.data.length <= data.length) continue;
      this.#champions.set(feature, entry);
      better = true;
    }
    if (better) this.#favoured = [...new Set(this.#champions.values())];
  }

  #trimmed(
    input: Uint8Array<ArrayBuffer>,
    features: readonly number[],
  ): Uint8Array<ArrayBuffer> {
    const same = (shorter: Uint8Array<ArrayBuffer>) => {
      const trace = this.#traced(shorter);
      return trace.length === features.length && trace.every((f, i) => f === features[i]);
    };
    return shortened(input, TRIM_RUNS, same);
  }

  #found(input: Uint8Array<ArrayBuffer>, error: unknown): void {
    const signature = signatureOf(error);
    const known = this.findings.find((finding) => finding.signature === signature);
    if (known !== undefined) {
      if (input.length < known.input.length) known.input = input.slice();
      return;
    }
    if (this.findings.length >= MAX_FINDINGS) return;
    const message = error instanceof Error ? error.stack ?? error.message : String(error);
    const finding: Finding = { signature, message, input: input.slice() };
    this.findings.push(finding);
    const fails = (shorter: Uint8Array<ArrayBuffer>) => {
      const again = this.#execute(shorter);
      return again !== undefined && signatureOf(again.thrown) === signature;
    };
    finding.input = shortened(input, MINIMIZE_RUNS, fails);
    this.coverage.clear();
  }
}

/** Leaves out parts of an input, large ones first, as long as `holds` says yes. */
export function shortened(
  input: Uint8Array<ArrayBuffer>,
  runs: number,
  holds: (input: Uint8Array<ArrayBuffer>) => boolean,
): Uint8Array<ArrayBuffer> {
  let best = input.slice();
  for (let size = best.length >> 1; size > 0 && runs > 0; size >>= 1) {
    for (let at = best.length - size; at >= 0 && runs > 0; at -= size, runs--) {
      const shorter = new Uint8Array(best.length - size);
      shorter.set(best.subarray(0, at));
      shorter.set(best.subarray(at + size), at);
      if (holds(shorter)) best = shorter;
      at = Math.min(at, best.length);
    }
  }
  return best;
}

/** Constants of the code as they may lie in an input. */
function wordsOf(values: Iterable<number | string>): Uint8Array[] {
  const words: Uint8Array[] = [];
  for (const value of values) {
    if (typeof value === "string") words.push(new TextEncoder().encode(value));
    else if (Number.isSafeInteger(value)) words.push(...encodings(value));
  }
  return words.filter((word) => word.length > 0);
}
