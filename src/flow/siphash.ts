/**
 * SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF"), on 32-bit words, with
 * the number of rounds as parameters. The flow table uses SipHash-1-3 with a random key:
 * peers cannot choose addresses and ports that all fall on one slot.
 */

/** A message of whole 32-bit words is hashed from here: see {@link SipHash.hash}. */
export class SipHash {
  readonly #k0: number;
  readonly #k1: number;
  readonly #k2: number;
  readonly #k3: number;
  readonly #compression: number;
  readonly #finalization: number;
  #a = 0;
  #b = 0;
  #c = 0;
  #d = 0;
  #e = 0;
  #f = 0;
  #g = 0;
  #h = 0;

  /** @param key 16 bytes as four little-endian words */
  constructor(key: Uint32Array, compression = 1, finalization = 3) {
    this.#k0 = key[0] | 0;
    this.#k1 = key[1] | 0;
    this.#k2 = key[2] | 0;
    this.#k3 = key[3] | 0;
    this.#compression = compression;
    this.#finalization = finalization;
  }

  /** Upper half of the last result. */
  get high(): number {
    return this.#b >>> 0;
  }

  /**
   * Hashes the first `count` words (an even number) of `words`.
   *
   * @returns the lower 32 bits of the 64-bit result; {@link high} has the rest
   */
  hash(words: Uint32Array, count: number): number {
    this.#a = this.#k0 ^ 0x70736575;
    this.#b = this.#k1 ^ 0x736f6d65;
    this.#c = this.#k2 ^ 0x6e646f6d;
    this.#d = this.#k3 ^ 0x646f7261;
    this.#e = this.#k0 ^ 0x6e657261;
    this.#f = this.#k1 ^ 0x6c796765;
    this.#g = this.#k2 ^ 0x79746573;
    this.#h = this.#k3 ^ 0x74656462;
    for (let i = 0; i < count; i += 2) this.#absorb(words[i] | 0, words[i + 1] | 0);
    this.#absorb(0, (count * 4) << 24);
    this.#e ^= 0xff;
    this.#rounds(this.#finalization);
    const low = this.#a ^ this.#c ^ this.#e ^ this.#g;
    this.#b = this.#b ^ this.#d ^ this.#f ^ this.#h;
    return low >>> 0;
  }

  #absorb(low: number, high: number): void {
    this.#g ^= low;
    this.#h ^= high;
    this.#rounds(this.#compression);
    this.#a ^= low;
    this.#b ^= high;
  }

  /** v0 = (a, b), v1 = (c, d), v2 = (e, f), v3 = (g, h), low word first. */
  #rounds(count: number): void {
    let a = this.#a, b = this.#b, c = this.#c, d = this.#d;
    let e = this.#e, f = this.#f, g = this.#g, h = this.#h;
    for (let i = 0; i < count; i++) {
      let sum = (a >>> 0) + (c >>> 0);
      a = sum | 0;
      b = b + d + (sum > 0xffffffff ? 1 : 0) | 0;
      let low = (c << 13) | (d >>> 19);
      let high = (d << 13) | (c >>> 19);
      c = low ^ a;
      d = high ^ b;
      low = a;
      a = b;
      b = low;
      sum = (e >>> 0) + (g >>> 0);
      e = sum | 0;
      f = f + h + (sum > 0xffffffff ? 1 : 0) | 0;
      low = (g << 16) | (h >>> 16);
      high = (h << 16) | (g >>> 16);
      g = low ^ e;
      h = high ^ f;
      sum = (a >>> 0) + (g >>> 0);
      a = sum | 0;
      b = b + h + (sum > 0xffffffff ? 1 : 0) | 0;
      low = (g << 21) | (h >>> 11);
      high = (h << 21) | (g >>> 11);
      g = low ^ a;
      h = high ^ b;
      sum = (e >>> 0) + (c >>> 0);
      e = sum | 0;
      f = f + d + (sum > 0xffffffff ? 1 : 0) | 0;
      low = (c << 17) | (d >>> 15);
      high = (d << 17) | (c >>> 15);
      c = low ^ e;
      d = high ^ f;
      low = e;
      e = f;
      f = low;
    }
    this.#a = a;
    this.#b = b;
    this.#c = c;
    this.#d = d;
    this.#e = e;
    this.#f = f;
    this.#g = g;
    this.#h = h;
  }
}
