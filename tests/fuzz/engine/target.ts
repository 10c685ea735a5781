/** What the fuzzer runs. */

export interface Target {
  /** Longest input in bytes. */
  readonly maxLength: number;
  /** Valid inputs to begin with. */
  readonly seeds: readonly Uint8Array[];
  /** Words that mean something, beside the constants of the code. */
  readonly dictionary?: readonly Uint8Array[];
  /**
   * Runs the code on an input, which it may change. What is thrown is a finding: refusals
   * that the code promises are caught here.
   */
  run(input: Uint8Array<ArrayBuffer>): void;
  /** Called once at the end. */
  close?(): void;
}

/** Takes an input apart into numbers and bytes; zeros once it is used up. */
export class Script {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  #at = 0;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  u8(): number {
    return this.#at < this.#bytes.length ? this.#bytes[this.#at++] : 0;
  }
  u16(): number {
    return this.u8() << 8 | this.u8();
  }
  u32(): number {
    return (this.u16() << 16 | this.u16()) >>> 0;
  }
  /** 0 to `limit` - 1, at most 256 values. */
  below(limit: number): number {
    return this.u8() % limit;
  }
  /** At most `length` bytes, fewer at the end. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    const from = this.#at;
    this.#at = Math.min(this.#bytes.length, from + length);
    return this.#bytes.subarray(from, this.#at);
  }
  rest(): Uint8Array<ArrayBuffer> {
    return this.bytes(this.left);
  }
}
