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
  #high = 0;

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
    return this.#high >>> 0;
  }

  /**
   * Hashes the first `count` words (an even number) of `words`.
   *
   * @returns the lower 32 bits of the 64-bit result as a signed number; {@link high} has
   *   the rest
   */
  hash(words: Uint32Array, count: number): number {
    // v0 = (a, b), v1 = (c, d), v2 = (e, f), v3 = (g, h), low word first. All of it in
    // one function, so that V8 keeps them in registers.
    let a = this.#k0 ^ 0x70736575, b = this.#k1 ^ 0x736f6d65;
    let c = this.#k2 ^ 0x6e646f6d, d = this.#k3 ^ 0x646f7261;
    let e = this.#k0 ^ 0x6e657261, f = this.#k1 ^ 0x6c796765;
    let g = this.#k2 ^ 0x79746573, h = this.#k3 ^ 0x74656462;
    // After the message comes its length in bytes, then the finalization.
    for (let at = 0; at <= count + 2; at += 2) {
      let low = 0;
      let high = 0;
      let rounds = this.#compression;
      if (at < count) {
        low = words[at] | 0;
        high = words[at + 1] | 0;
      } else if (at === count) high = (count * 4) << 24;
      else {
        rounds = this.#finalization;
        e ^= 0xff;
      }
      g ^= low;
      h ^= high;
      for (let i = 0; i < rounds; i++) {
        let sum = a + c | 0;
        b = b + d + carry(a, c, sum) | 0;
        let left = (c << 13) | (d >>> 19);
        let right = (d << 13) | (c >>> 19);
        c = left ^ sum;
        d = right ^ b;
        a = b;
        b = sum;
        sum = e + g | 0;
        f = f + h + carry(e, g, sum) | 0;
        e = sum;
        left = (g << 16) | (h >>> 16);
        right = (h << 16) | (g >>> 16);
        g = left ^ e;
        h = right ^ f;
        sum = a + g | 0;
        b = b + h + carry(a, g, sum) | 0;
        a = sum;
        left = (g << 21) | (h >>> 11);
        right = (h << 21) | (g >>> 11);
        g = left ^ a;
        h = right ^ b;
        sum = e + c | 0;
        f = f + d + carry(e, c, sum) | 0;
        left = (c << 17) | (d >>> 15);
        right = (d << 17) | (c >>> 15);
        c = left ^ sum;
        d = right ^ f;
        e = f;
        f = sum;
      }
      a ^= low;
      b ^= high;
    }
    this.#high = b ^ d ^ f ^ h;
    return a ^ c ^ e ^ g;
  }
}

/** The bit that `sum`, the lower 32 bits of `a + b`, has lost: integers all the way. */
function carry(a: number, b: number, sum: number): number {
  return ((a & b) | ((a | b) & ~sum)) >>> 31;
}
