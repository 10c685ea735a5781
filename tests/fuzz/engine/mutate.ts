/** Makes new inputs out of old ones. */
import type { Random } from "./random.ts";

const INTERESTING = [
  ...[0, 1, 2, 3, 4, 7, 8, 12, 16, 20, 28, 32, 40, 60, 64, 100, 127, 128, 255, 256, 512],
  ...[1000, 1024, 1280, 1500, 4096, 32767, 32768, 65535, 65536, 0x7fffffff, 0x80000000],
  ...[0xffffffff, 0xfffffffe, 0xffff0000, 0xfffff000],
];
/** Mutations on top of each other: 1 to 2^5. */
const MAX_STACK_BITS = 5;
const MAX_BLOCK = 64;

/** Writes the lower `size` bytes of a number at `at`. */
function put(
  bytes: Uint8Array,
  at: number,
  size: number,
  value: number,
  little: boolean,
) {
  for (let i = 0; i < size; i++) {
    bytes[at + (little ? i : size - 1 - i)] = value / 2 ** (8 * i) & 0xff;
  }
}

function get(bytes: Uint8Array, at: number, size: number, little: boolean): number {
  let value = 0;
  for (let i = 0; i < size; i++) {
    value += bytes[at + (little ? i : size - 1 - i)] * 2 ** (8 * i);
  }
  return value;
}

/** A number as it may lie in an input: 1, 2, 4 or 8 bytes, either end first. */
export function encodings(value: number | bigint): Uint8Array[] {
  const found: Uint8Array[] = [];
  for (const size of [1, 2, 4, 8]) {
    const whole = BigInt.asUintN(8 * size, BigInt(value));
    if (BigInt.asIntN(8 * size, whole) !== BigInt(value) && whole !== BigInt(value)) {
      continue;
    }
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, whole);
    const big = bytes.slice(8 - size);
    found.push(big);
    if (size > 1) found.push(big.toReversed());
  }
  return found;
}

/** Bytes that were compared with others, in vain. */
export interface Swap {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

/** Both ways, of pairs one after the other and in each encoding; each once. */
export function swapsOf(pairs: readonly (number | bigint)[]): Swap[] {
  const swaps = new Map<string, Swap>();
  for (let i = 0; i < pairs.length; i++) {
    const [have, want] = i % 2 === 0
      ? [pairs[i], pairs[i + 1]]
      : [pairs[i], pairs[i - 1]];
    if (!isWhole(have) || !isWhole(want)) continue;
    const targets = encodings(want);
    for (const from of encodings(have)) {
      for (const to of targets) {
        if (to.length !== from.length) continue;
        swaps.set(`${from.toHex()} ${to.toHex()}`, { from, to });
      }
    }
  }
  return [...swaps.values()];
}

export class Mutator {
  readonly #random: Random;
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #max: number;
  readonly words: Uint8Array[];
  /** What may help the input at hand. */
  swaps: readonly Swap[] = [];
  #length = 0;

  constructor(random: Random, max: number, words: readonly Uint8Array[]) {
    this.#random = random;
    this.#max = max;
    this.#buffer = new Uint8Array(max);
    this.words = [...words];
  }

  /** A changed copy of `input`; `other` is another input to take parts of. */
  mutate(input: Uint8Array, other: Uint8Array): Uint8Array<ArrayBuffer> {
    this.#length = Math.min(input.length, this.#max);
    this.#buffer.set(input.subarray(0, this.#length));
    const count = 1 << this.#random.below(MAX_STACK_BITS + 1);
    for (let i = 0; i < count; i++) this.#once(other);
    return this.#buffer.slice(0, this.#length);
  }

  #once(other: Uint8Array): void {
    const { swaps } = this;
    const random = this.#random;
    if (this.#length === 0) return this.#insert(Uint8Array.of(random.below(256)));
    switch (random.below(14)) {
      case 0:
        this.#buffer[random.below(this.#length)] ^= 1 << random.below(8);
        return;
      case 1:
        this.#buffer[random.below(this.#length)] = random.below(256);
        return;
      case 2:
      case 3:
        return this.#number();
      case 4:
        return this.#remove();
      case 5:
        return this.#insertBlock();
      case 6:
        return this.#copyInside();
      case 7:
        return this.#splice(other);
      case 8:
      case 9:
        if (this.words.length === 0) return;
        return this.#word(random.pick(this.words));
      case 10:
        return this.#cut();
      case 11:
        return this.#fill();
      default:
        if (swaps.length > 0) this.#substitute(random.pick(swaps));
    }
  }

  /** Adds a little to a number, or sets it to a telling one. */
  #number(): void {
    const random = this.#random;
    const size = Math.min(1 << random.below(3), this.#length);
    const at = random.below(this.#length - size + 1);
    const little = random.below(2) === 0;
    if (random.below(2) === 0) {
      const change = random.below(35) + 1;
      const sign = random.below(2) === 0 ? 1 : -1;
      const value = get(this.#buffer, at, size, little) + sign * change;
      put(this.#buffer, at, size, value < 0 ? value + 2 ** (8 * size) : value, little);
    } else put(this.#buffer, at, size, random.pick(INTERESTING), little);
  }

  #block(limit: number): number {
    const most = this.#random.below(4) === 0 ? limit : Math.min(limit, MAX_BLOCK);
    return 1 + this.#random.below(most);
  }

  #remove(): void {
    const size = this.#block(this.#length);
    const at = this.#random.below(this.#length - size + 1);
    this.#buffer.copyWithin(at, at + size, this.#length);
    this.#length -= size;
  }

  /** Puts bytes in, as far as there is room. */
  #insert(bytes: Uint8Array, at = this.#random.below(this.#length + 1)): void {
    const size = Math.min(bytes.length, this.#max - this.#length);
    this.#buffer.copyWithin(at + size, at, this.#length);
    this.#buffer.set(bytes.subarray(0, size), at);
    this.#length += size;
  }

  /** Repeats a part, or inserts equal or random bytes. */
  #insertBlock(): void {
    const random = this.#random;
    const size = this.#block(this.#max);
    if (random.below(2) === 0) {
      const from = random.below(this.#length);
      return this.#insert(this.#buffer.slice(from, Math.min(this.#length, from + size)));
    }
    const block = new Uint8Array(Math.min(size, MAX_BLOCK)).fill(random.below(256));
    if (random.below(2) === 0) block.forEach((_, i) => block[i] = random.below(256));
    this.#insert(block);
  }

  #copyInside(): void {
    const size = this.#block(this.#length);
    const from = this.#random.below(this.#length - size + 1);
    const to = this.#random.below(this.#length - size + 1);
    this.#buffer.copyWithin(to, from, from + size);
  }

  /** Takes a part of another input. */
  #splice(other: Uint8Array): void {
    if (other.length === 0) return;
    const random = this.#random;
    const from = random.below(other.length);
    const part = other.subarray(from, from + this.#block(other.length - from));
    if (random.below(2) === 0) return this.#insert(part);
    const at = random.below(this.#length);
    const size = Math.min(part.length, this.#max - at);
    this.#buffer.set(part.subarray(0, size), at);
    this.#length = Math.max(this.#length, at + size);
  }

  #word(word: Uint8Array): void {
    if (this.#random.below(2) === 0) return this.#insert(word);
    if (word.length > this.#length) return;
    this.#buffer.set(word, this.#random.below(this.#length - word.length + 1));
  }

  #cut(): void {
    if (this.#random.below(4) === 0) this.#length = this.#random.below(this.#length + 1);
    else this.#length = Math.max(0, this.#length - 1 - this.#random.below(8));
  }

  #fill(): void {
    const size = this.#block(this.#length);
    const at = this.#random.below(this.#length - size + 1);
    this.#buffer.fill(this.#random.pick([0, 0xff, 1]), at, at + size);
  }

  /** Puts what was compared with in place of what was there. */
  #substitute({ from, to }: Swap): void {
    const place = this.#find(from);
    if (place >= 0) this.#buffer.set(to, place);
  }

  /** Where the bytes lie, from a random place on and around; -1 if nowhere. */
  #find(bytes: Uint8Array): number {
    const places = this.#length - bytes.length + 1;
    if (places <= 0) return -1;
    const start = this.#random.below(places);
    for (let i = 0; i < places; i++) {
      const at = (start + i) % places;
      let same = 0;
      while (same < bytes.length && this.#buffer[at + same] === bytes[same]) same++;
      if (same === bytes.length) return at;
    }
    return -1;
  }
}

function isWhole(value: number | bigint): boolean {
  return typeof value === "bigint"
    ? value >= -(2n ** 63n) && value < 2n ** 64n
    : Number.isSafeInteger(value);
}
