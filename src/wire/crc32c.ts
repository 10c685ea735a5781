/** CRC32C (Castagnoli; RFC 3720, section 12.1), from the package crc-32. */
// @ts-types="./crc32c.d.ts"
import CRC32C from "crc-32/crc32c";

/**
 * The CRC32C of bytes, 0 to 2^32 - 1.
 *
 * @param previous CRC32C of the bytes before them, if they go on
 */
export function crc32c(bytes: Uint8Array, previous = 0): number {
  return CRC32C.buf(bytes, previous | 0) >>> 0;
}
