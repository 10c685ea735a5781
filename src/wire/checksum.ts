/**
 * The internet checksum (RFC 1071). Partial sums are numbers of 16 bits, so that they
 * stay small integers: {@link sum} goes on from one, {@link fold} adds two of them up.
 */

/** Longest range that one call of {@link sum} can add up without losing a carry. */
export const MAX_SUM_LENGTH = 131_064;

/**
 * One's complement sum of `length` bytes at `at`, going on from `initial` (0 to 0xffff).
 * Only the last range of a sum may have an odd length.
 */
export function sum(view: DataView, at: number, length: number, initial = 0): number {
  // Halves of 32-bit words in two accumulators: V8 keeps both in integer registers. The
  // words are taken in the machine's order, as that changes no more than the order of the
  // result's bytes (RFC 1071, section 2), and four at once: this is the hottest loop.
  let low = 0;
  let high = 0;
  let i = at | 0;
  const blocks = i + (length & ~15) | 0;
  for (; i < blocks; i = i + 16 | 0) {
    const a = view.getInt32(i, true);
    const b = view.getInt32(i + 4, true);
    const c = view.getInt32(i + 8, true);
    const d = view.getInt32(i + 12, true);
    low = low + (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff) | 0;
    high = high + (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16) | 0;
  }
  const words = at + (length & ~3) | 0;
  for (; i < words; i = i + 4 | 0) {
    const word = view.getInt32(i, true);
    low = low + (word & 0xffff) | 0;
    high = high + (word >>> 16) | 0;
  }
  const swapped = fold((low & 0xffff) + (low >>> 16) + (high & 0xffff) + (high >>> 16));
  let total = initial + ((swapped & 0xff) << 8) + (swapped >>> 8);
  if (length & 2) {
    total += view.getUint16(i);
    i += 2;
  }
  if (length & 1) total += view.getUint8(i) << 8;
  return fold(total);
}

/** Brings the sum of a few partial sums (below 2^31) back to 16 bits. */
export function fold(total: number): number {
  const once = (total & 0xffff) + (total >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** The checksum field for a partial sum: its one's complement. */
export function complement(partial: number): number {
  return ~partial & 0xffff;
}

/**
 * Partial sum of the IPv4 pseudo-header (RFC 9293, section 3.1) of a packet whose IPv4
 * header lies at `ipAt`; `length` is that of the transport header and payload.
 */
export function pseudoSum4(
  view: DataView,
  ipAt: number,
  protocol: number,
  length: number,
): number {
  return sum(view, ipAt + 12, 8, fold(protocol + length));
}

/**
 * Partial sum of the IPv6 pseudo-header (RFC 8200, section 8.1) of a packet whose IPv6
 * header lies at `ipAt`; `length` is that of the transport header and payload.
 */
export function pseudoSum6(
  view: DataView,
  ipAt: number,
  protocol: number,
  length: number,
): number {
  return sum(view, ipAt + 8, 32, fold(protocol + length));
}
