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
  // Halves of 32-bit words in two accumulators: V8 keeps both in integer registers.
  let low = initial | 0;
  let high = 0;
  const end = at + (length & ~3);
  let i = at;
  for (; i < end; i += 4) {
    const word = view.getInt32(i);
    low = low + (word & 0xffff) | 0;
    high = high + (word >>> 16) | 0;
  }
  if (length & 2) {
    low = low + view.getUint16(i) | 0;
    i += 2;
  }
  if (length & 1) low = low + (view.getUint8(i) << 8) | 0;
  return fold((low & 0xffff) + (low >>> 16) + (high & 0xffff) + (high >>> 16));
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
