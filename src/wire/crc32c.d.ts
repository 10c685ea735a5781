/** Types of crc-32's crc32c.js, which ships those of its CRC-32 only. */
declare const CRC32C: {
  /** The CRC of bytes as a signed number; `seed` is that of the bytes before them. */
  buf(data: Uint8Array, seed?: number): number;
};
export default CRC32C;
