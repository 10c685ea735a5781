/** Reading and writing fields one after the other, in either byte order and word size. */
import { cutShort, invalid } from "./error.ts";

/** How numbers lie in a stream. */
export interface WordLayout {
  readonly littleEndian: boolean;
  /** Bytes of a pointer and of a time (time_t). */
  readonly pointerSize: number;
  readonly timeSize: number;
}

/** This host's. Deno knows 64-bit hosts only. */
export const NATIVE: WordLayout = {
  littleEndian: new Uint8Array(Uint16Array.of(1).buffer)[0] === 1,
  pointerSize: 8,
  timeSize: 8,
};

/** Network order. */
export const NETWORK: WordLayout = { ...NATIVE, littleEndian: false };

const TWO32 = 2 ** 32;

/** Reads fields; what does not fit is an error that says where. */
export class FieldReader {
  /** Offset of the next field, and of the last one read. */
  at: number;
  last: number;
  /** What is being read, for errors: "TCP connection 3". */
  what = "";
  readonly #view: DataView;
  readonly #little: boolean;
  readonly #timeSize: number;

  /**
   * @param bytes the whole stream, so that offsets are those of the stream
   * @param start of the fields
   * @param end of the part that they must lie in
   */
  constructor(
    readonly bytes: Uint8Array,
    start: number,
    readonly end: number,
    layout: WordLayout,
  ) {
    this.at = this.last = start;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#little = layout.littleEndian;
    this.#timeSize = layout.timeSize;
  }

  #next(size: number): number {
    if (size > this.end - this.at) {
      throw cutShort(this.end, this.what, size - (this.end - this.at));
    }
    this.last = this.at;
    this.at += size;
    return this.last;
  }

  /** A byte. */
  u8(): number {
    return this.#view.getUint8(this.#next(1));
  }
  /** Two bytes in the stream's order. */
  u16(): number {
    return this.#view.getUint16(this.#next(2), this.#little);
  }
  /** Four bytes in the stream's order. */
  u32(): number {
    return this.#view.getUint32(this.#next(4), this.#little);
  }

  /** A length of 64 bits, as far as numbers are exact. */
  u64(): number {
    const at = this.#next(8);
    const high = this.#view.getUint32(this.#little ? at + 4 : at, this.#little);
    return high * TWO32 + this.#view.getUint32(this.#little ? at : at + 4, this.#little);
  }

  /** A time of the source's size, signed. */
  time(field: string): number {
    if (this.#timeSize === 4) return this.#view.getInt32(this.#next(4), this.#little);
    const at = this.#next(8);
    const high = this.#view.getInt32(this.#little ? at + 4 : at, this.#little);
    const low = this.#view.getUint32(this.#little ? at : at + 4, this.#little);
    const value = high * TWO32 + low;
    if (Number.isSafeInteger(value)) return value;
    throw this.error(field, "a time below 2^53", value);
  }

  /** A copy of the next bytes. */
  take(length: number): Uint8Array<ArrayBuffer> {
    const at = this.#next(length);
    return this.bytes.slice(at, at + length) as Uint8Array<ArrayBuffer>;
  }

  /** The next bytes where they lie. */
  view(length: number): Uint8Array {
    const at = this.#next(length);
    return this.bytes.subarray(at, at + length);
  }

  /** Passes over bytes, which must be there. */
  skip(length: number): void {
    this.#next(length);
  }

  /** `value`, which was read last, if it lies from `low` to `high`. */
  range(field: string, value: number, low: number, high: number): number {
    if (value >= low && value <= high) return value;
    throw this.error(field, low === high ? `${low}` : `${low} to ${high}`, value);
  }

  /** An error in the field that was read last. */
  error(field: string, expected: string, came: string | number): Error {
    const name = this.what === "" ? field : `${this.what}: ${field}`;
    return invalid(this.last, name, expected, came);
  }
}

/** Writes fields into a buffer of known size. */
export class FieldWriter {
  /** What was written, and zeros behind it. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Bytes written. */
  at = 0;
  readonly #view: DataView;
  readonly #little: boolean;

  constructor(size: number, layout: WordLayout) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
    this.#little = layout.littleEndian;
  }

  /** Writes a byte. */
  u8(value: number): void {
    this.#view.setUint8(this.at, value);
    this.at += 1;
  }
  /** Writes two bytes. */
  u16(value: number): void {
    this.#view.setUint16(this.at, value, this.#little);
    this.at += 2;
  }
  /** Writes four bytes. */
  u32(value: number): void {
    this.#view.setUint32(this.at, value, this.#little);
    this.at += 4;
  }
  /** Writes eight bytes of a whole number below 2^53. */
  u64(value: number): void {
    const high = Math.floor(value / TWO32);
    this.#view.setUint32(this.#little ? this.at + 4 : this.at, high, this.#little);
    this.#view.setUint32(this.#little ? this.at : this.at + 4, value, this.#little);
    this.at += 8;
  }

  /** A time of 64 bits; what is no number counts as 0. */
  time(value: number): void {
    const whole = Math.trunc(value);
    this.u64(Number.isSafeInteger(whole) ? whole : 0);
  }

  /** At most `length` bytes, filled up with zeros. */
  take(bytes: Uint8Array, length: number = bytes.length): void {
    this.bytes.set(bytes.subarray(0, length), this.at);
    this.at += length;
  }
  /** Leaves bytes at 0. */
  skip(length: number): void {
    this.at += length;
  }
}
