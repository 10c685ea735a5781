/**
 * What the device sees of a ring, whatever its form (virtio 1.3, section 2.6): available
 * chains are taken in order, used in the same order, and either side says when it wants to
 * be notified.
 */
import type { GuestMemory } from "./guest_memory.ts";

/** Descriptors in one chain at most, however large the ring: what one sendmsg takes. */
export const MAX_SEGMENTS = 1024;

/** Flags of descriptors of either form (2.7.5, 2.8.6). */
export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;

/** Results of {@link Virtqueue.take} that are not a number of segments. */
export const QUEUE_EMPTY = 0;
export const CHAIN_BAD = -1;
export const QUEUE_BROKEN = -2;

/** Where a ring lies, in offsets of the guest memory's view; checked by the caller. */
export interface RingLayout {
  /** VIRTIO_F_RING_PACKED was negotiated. */
  readonly packed: boolean;
  /** Entries: up to 32768, and a power of two if the ring is split. */
  readonly size: number;
  /** The descriptors; the other areas are called as in a split ring. */
  readonly descOffset: number;
  /** Available ring; of a packed ring, what the driver says about notifications. */
  readonly availOffset: number;
  /** Used ring; of a packed ring, what the device says about notifications. */
  readonly usedOffset: number;
  /**
   * Next available index to take. Of a packed ring, as vhost-user has it: place and wrap
   * counter (bit 15) of the next available descriptor, then those of the next used one in
   * the upper 16 bits.
   */
  readonly baseIndex: number;
  /** VIRTIO_RING_F_EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /**
   * Guest address of the used ring for dirty logging, or -1 if it is not logged. Of a
   * packed ring it says no more than that, as descriptors are written to as well.
   */
  readonly usedLogAddress: number;
}

/** Pieces of guest memory, appended to by {@link Virtqueue.take}. */
export class Segments {
  /** Offset in the guest memory's view. */
  readonly offset: Float64Array = new Float64Array(2 * MAX_SEGMENTS);
  /** Their bytes. */
  readonly length: Int32Array = new Int32Array(2 * MAX_SEGMENTS);
  /** How many there are. */
  count = 0;
}

/**
 * Appends one descriptor's memory, in pieces where it crosses adjacent regions.
 *
 * @param before bytes of the chain so far
 * @returns bytes of the chain from now on, or -1 if it cannot be: it is empty, lies
 *   outside guest memory, or makes the chain too long
 */
export function appendPieces(
  memory: GuestMemory,
  address: number,
  length: number,
  into: Segments,
  before: number,
): number {
  if (length === 0 || length > 0x7fff_ffff - before) return -1;
  if (address >= Number.MAX_SAFE_INTEGER - 0x1_0000_0000) return -1;
  let left = length;
  let from = address;
  while (left > 0) {
    if (into.count >= into.length.length) return -1;
    let piece = left;
    let offset = memory.translate(from, piece);
    if (offset < 0) {
      piece = memory.contiguous(from);
      if (piece <= 0) return -1;
      if (piece > left) piece = left;
      offset = memory.translate(from, piece);
      if (offset < 0) return -1;
    }
    into.offset[into.count] = offset;
    into.length[into.count] = piece;
    into.count++;
    from += piece;
    left -= piece;
  }
  return before + length;
}

/** The device's side of a ring of either form (virtio 1.3, sections 2.7 and 2.8). */
export interface Virtqueue {
  /** First descriptor of the chain taken last: what {@link putUsed} is told. */
  readonly head: number;
  /** Bytes of all segments of the chain taken last. */
  readonly chainLength: number;
  /** Started, and not broken since. */
  readonly running: boolean;

  /** Starts where the ring and {@link RingLayout.baseIndex} say. */
  start(layout: RingLayout): void;
  /** Forgets the ring; returns what {@link RingLayout.baseIndex} would have to be. */
  stop(): number;

  /**
   * Takes the next available chain and appends its segments to `into`.
   *
   * @param writable the direction that every descriptor must have
   * @returns the number of segments, or {@link QUEUE_EMPTY}, {@link CHAIN_BAD} (the chain
   *   is taken; nothing was appended) or {@link QUEUE_BROKEN}
   */
  take(into: Segments, writable: boolean): number;
  /** Gives the last `count` taken chains back, not used. */
  untake(count: number): void;
  /**
   * Enters a chain as used, in the order in which chains were taken; the driver sees it
   * after {@link publish}.
   *
   * @param written bytes that were written into it
   */
  putUsed(head: number, written: number): void;
  /** Shows the driver all entered chains; true if it wants to be notified of them. */
  publish(): boolean;

  /**
   * Asks the driver to notify when it makes more chains available than were seen so far,
   * whether those were taken or not.
   *
   * @returns true if more came in meanwhile, for which no notification may follow
   */
  wantNotification(): boolean;
  /** Tells the driver that notifications are not needed for now. */
  declineNotification(): void;
}
