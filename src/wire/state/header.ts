/**
 * The header of vuelo's streams: 65,536 bytes.
 *
 *     0  8  magic 0xb1bb1d1b0bb1d1b0, in the source's byte order
 *     8  4  version: the highest that the source knows
 *    12  4  size of a pointer: 4 or 8
 *    16  4  size of a time (time_t): 4 or 8
 *    20  4  size of an entry of the flow table: 128
 *    24  4  size of an entry of its hash: 4
 *    28  -  zero; not looked at, since a later version may use it
 *
 * All numbers but the magic are in network order. The magic as it came, or swapped, tells
 * the byte order of the source, which is that of everything sent as it lies in memory.
 */
import { cutShort, notSupported } from "./error.ts";
import { NATIVE, type WordLayout } from "./fields.ts";
import { FLOW_SIZE } from "./flow_entry.ts";

export const HEADER_SIZE = 65536;
/** Bytes that hold all there is to judge. */
export const HEADER_USED = 28;
export const HASH_SIZE = 4;
export const MAGIC = [0xb1, 0xbb, 0x1d, 0x1b, 0x0b, 0xb1, 0xd1, 0xb0] as const;

/** What a header says of its source. */
export interface HeaderFacts extends WordLayout {
  readonly version: number;
}

/** Writes a header. */
export function writeHeader(version: number, layout = NATIVE): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_SIZE);
  bytes.set(layout.littleEndian ? MAGIC.toReversed() : MAGIC);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, version);
  view.setUint32(12, layout.pointerSize);
  view.setUint32(16, layout.timeSize);
  view.setUint32(20, FLOW_SIZE);
  view.setUint32(24, HASH_SIZE);
  return bytes;
}

/**
 * Whether the magic says little endian.
 *
 * @throws StateError ENOTSUP if it is neither the magic nor the magic swapped
 */
export function magicIsLittle(bytes: Uint8Array): boolean {
  if (bytes.length < MAGIC.length) {
    throw cutShort(bytes.length, "magic", MAGIC.length - bytes.length);
  }
  if (MAGIC.every((byte, i) => bytes[i] === byte)) return false;
  if (MAGIC.every((byte, i) => bytes[7 - i] === byte)) return true;
  const came = Array.from(
    bytes.subarray(0, 8),
    (byte) => byte.toString(16).padStart(2, "0"),
  );
  const expected = "b1bb1d1b0bb1d1b0 or these bytes swapped";
  throw notSupported(0, "magic", expected, came.join(""));
}

/**
 * Reads the {@link HEADER_USED} first bytes: magic, then version, then the sizes.
 *
 * @param versions those known
 * @throws StateError ENOTSUP for whatever is not known, ENODATA if bytes are missing
 */
export function readHeader(bytes: Uint8Array, versions: readonly number[]): HeaderFacts {
  const littleEndian = magicIsLittle(bytes);
  if (bytes.length < HEADER_USED) {
    throw cutShort(bytes.length, "header", HEADER_USED - bytes.length);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const field = (at: number, name: string, known: readonly number[]): number => {
    const value = view.getUint32(at);
    if (known.includes(value)) return value;
    throw notSupported(at, name, known.join(" or "), value);
  };
  const version = field(8, "version", versions);
  const pointerSize = field(12, "size of a pointer", [4, 8]);
  const timeSize = field(16, "size of a time", [4, 8]);
  field(20, "size of a flow entry", [FLOW_SIZE]);
  field(24, "size of a hash entry", [HASH_SIZE]);
  return { version, littleEndian, pointerSize, timeSize };
}

/** Whether the part that has no meaning yet is in use. */
export function restIsUsed(bytes: Uint8Array): boolean {
  const end = Math.min(bytes.length, HEADER_SIZE);
  for (let at = HEADER_USED; at < end; at++) if (bytes[at] !== 0) return true;
  return false;
}
