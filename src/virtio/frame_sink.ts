/**
 * Frames for the guest. Receive buffers are reserved first, a system call fills their
 * payload part in place, then headers are written and the buffers become used:
 *
 *     begin() { reserve() }... recvmsg(iovecs) { commit() }... end() ... flush()
 *
 * What was reserved and not committed goes back to the ring, as if never taken.
 */
import type { IovecArray } from "../../ffi/iovec.ts";
import { complement, sum } from "../wire/checksum.ts";
import { type GuestMemory, WINDOW } from "./guest_memory.ts";
import {
  GsoType,
  NET_CSUM_OFFSET_AT,
  NET_CSUM_START_AT,
  NET_F_NEEDS_CSUM,
  NET_FLAGS_AT,
  NET_GSO_SIZE_AT,
  NET_GSO_TYPE_AT,
  NET_HDR_LEN_AT,
  NET_HEADER_SIZE,
  NET_NUM_BUFFERS_AT,
} from "./net_header.ts";
import {
  CHAIN_BAD,
  MAX_SEGMENTS,
  QUEUE_BROKEN,
  QUEUE_EMPTY,
  Segments,
  type Virtqueue,
} from "./virtqueue.ts";

/** Frames reserved at once at most. */
export const MAX_FRAMES = 256;
const MAX_CHAINS = 1024;
/**
 * Bad chains that are given back between two flushes: a guest that makes new ones
 * available as fast as they are looked at shall not keep this process from anything else.
 */
const MAX_BAD = 256;
const NO_CHAIN = -1;
/** All that was taken went back, with a bad chain behind it. */
const GIVEN_BACK = -2;
/** Longest header that {@link FrameSink.commit} writes, without the net header. */
const MAX_HEAD = 2048;

/** What a capture gets to see of a frame that went to the guest. */
export interface FrameCapture {
  /** @param pieces offsets and lengths of the frame, net header first */
  toGuest(pieces: Segments, first: number, count: number, length: number): void;
}

/** Frames to the guest, put into buffers of its receive ring. */
export class FrameSink {
  /** Frame header for the next {@link commit}, from the Ethernet header on. */
  readonly head: DataView;
  /** Set by the owner as negotiated: VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_GUEST_CSUM. */
  mergeable = false;
  guestChecksum = false;
  /** Gets to see every frame, if there is one. */
  capture: FrameCapture | undefined = undefined;
  /** Chains that made no sense, and went back unused. */
  badChains = 0;
  /** Those since the last {@link flush}. */
  #bad = 0;
  /** The ring's indexes made no sense: the owner stops the queue. */
  broken = false;
  /** Frames committed so far. */
  committed = 0;
  /** Buffers of committed frames that the guest has not been shown yet. */
  unseen = 0;
  /** A frame found no receive buffer since this was last cleared. */
  starved = false;

  /** Replaced when a ring of another form starts. */
  queue: Virtqueue;
  readonly #memory: GuestMemory;
  readonly #copy: DataView;
  readonly #segments = new Segments();
  readonly #chainHead = new Int32Array(MAX_CHAINS);
  readonly #chainSize = new Int32Array(MAX_CHAINS);
  #chains = 0;
  #usedChains = 0;
  readonly #frameChain = new Int32Array(MAX_FRAMES + 1);
  readonly #frameSegment = new Int32Array(MAX_FRAMES + 1);
  /** Frames reserved since {@link begin}. */
  frames = 0;

  constructor(memory: GuestMemory, queue: Virtqueue) {
    this.#memory = memory;
    this.queue = queue;
    const buffer = new ArrayBuffer(NET_HEADER_SIZE + MAX_HEAD);
    this.#copy = new DataView(buffer);
    this.head = new DataView(buffer, NET_HEADER_SIZE);
  }

  /** Starts a batch of frames: nothing is reserved. */
  begin(): void {
    this.#segments.count = 0;
    this.#chains = 0;
    this.#usedChains = 0;
    this.frames = 0;
  }

  /**
   * Reserves buffers for one more frame and appends its payload part to `iovecs`.
   *
   * @param headLength bytes that {@link commit} will write before the payload
   * @param payload bytes wanted for payload; 0 is fine
   * @returns payload bytes that fit, at most `payload`; -1 if there is no buffer
   */
  reserve(headLength: number, payload: number, iovecs: IovecArray | undefined): number {
    if (this.frames === MAX_FRAMES) return -1;
    const frame = this.frames;
    const firstChain = this.#chains;
    const firstSegment = this.#segments.count;
    const overhead = NET_HEADER_SIZE + headLength;
    const want = overhead + payload;
    let capacity = 0;
    while (capacity < want && this.#bad < MAX_BAD) {
      const size = this.#takeChain();
      if (size === NO_CHAIN) break;
      if (size === GIVEN_BACK) {
        capacity = 0;
        continue;
      }
      capacity += size;
      if (!this.mergeable) break;
    }
    const room = (iovecs === undefined) ||
      iovecs.count + this.#segments.count - firstSegment <= iovecs.capacity;
    if (capacity < overhead || (this.mergeable && capacity < want) || !room) {
      this.#giveBack(firstChain, firstSegment);
      // Without room for the first frame, the chain itself has too many pieces.
      if (room || frame === 0) this.starved = true;
      return -1;
    }
    this.#frameChain[frame] = firstChain;
    this.#frameSegment[frame] = firstSegment;
    this.#frameChain[frame + 1] = this.#chains;
    this.#frameSegment[frame + 1] = this.#segments.count;
    this.frames = frame + 1;
    const fits = capacity < want ? capacity - overhead : payload;
    if (iovecs !== undefined) this.#appendPayload(firstSegment, overhead, fits, iovecs);
    return fits;
  }

  /** How many chains {@link reserve} took for the frame reserved last. */
  get chainsOfLast(): number {
    return this.#frameChain[this.frames] - this.#frameChain[this.frames - 1];
  }

  /** Takes one chain; its size, {@link NO_CHAIN} or {@link GIVEN_BACK}. */
  #takeChain(): number {
    if (this.#chains >= MAX_CHAINS || this.#segments.count >= MAX_SEGMENTS) {
      return NO_CHAIN;
    }
    const result = this.queue.take(this.#segments, true);
    if (result === QUEUE_EMPTY) return NO_CHAIN;
    if (result === QUEUE_BROKEN) {
      this.broken = true;
      return NO_CHAIN;
    }
    if (result === CHAIN_BAD || this.queue.chainLength < NET_HEADER_SIZE) {
      return this.#refuse();
    }
    this.#chainHead[this.#chains] = this.queue.head;
    this.#chainSize[this.#chains] = this.queue.chainLength;
    this.#chains++;
    return this.queue.chainLength;
  }

  /**
   * Gives the chain taken last back unused. Chains go back in the order they were taken:
   * what other frames have taken goes first, in its own time; what this one has, now.
   */
  #refuse(): number {
    if (this.frames > 0) {
      this.queue.untake(1);
      return NO_CHAIN;
    }
    for (let i = 0; i < this.#chains; i++) this.queue.putUsed(this.#chainHead[i], 0);
    this.queue.putUsed(this.queue.head, 0);
    this.#chains = 0;
    this.#segments.count = 0;
    this.badChains++;
    this.#bad++;
    return GIVEN_BACK;
  }

  #giveBack(firstChain: number, firstSegment: number): void {
    this.queue.untake(this.#chains - firstChain);
    this.#chains = firstChain;
    this.#segments.count = firstSegment;
  }

  #appendPayload(
    segment: number,
    skip: number,
    length: number,
    iovecs: IovecArray,
  ): void {
    const base = this.#memory.base;
    let before = skip;
    let left = length;
    for (let i = segment; left > 0; i++) {
      const size = this.#segments.length[i];
      if (before >= size) {
        before -= size;
        continue;
      }
      const piece = size - before < left ? size - before : left;
      iovecs.add(base + this.#segments.offset[i] + before, piece);
      left -= piece;
      before = 0;
    }
  }

  /**
   * Completes reserved frame `frame`, whose header is in {@link head} and whose payload
   * is in its buffers. Frames are committed in order; only the last one committed before
   * {@link end} may use fewer buffers than were reserved for it.
   *
   * @param checksumStart offset of the transport header whose checksum field holds the
   *   partial sum of the pseudo-header, to be completed by the guest, or here if it
   *   cannot; 0 if the frame is complete as it is
   * @param checksumOffset of the field within the transport header
   * @param gsoType 0, or GsoType with `gsoSize` payload bytes per segment
   */
  commit(
    frame: number,
    headLength: number,
    payload: number,
    checksumStart: number,
    checksumOffset: number,
    gsoType: number,
    gsoSize: number,
  ): void {
    const firstSegment = this.#frameSegment[frame];
    const total = NET_HEADER_SIZE + headLength + payload;
    const copy = this.#copy;
    copy.setUint32(NET_FLAGS_AT, 0);
    copy.setUint32(NET_GSO_SIZE_AT, 0);
    copy.setUint16(NET_CSUM_OFFSET_AT, 0);
    if (gsoType !== GsoType.none) {
      copy.setUint8(NET_GSO_TYPE_AT, gsoType);
      copy.setUint16(NET_HDR_LEN_AT, headLength, true);
      copy.setUint16(NET_GSO_SIZE_AT, gsoSize, true);
    }
    if (checksumStart !== 0) {
      if (this.guestChecksum) {
        copy.setUint8(NET_FLAGS_AT, NET_F_NEEDS_CSUM);
        copy.setUint16(NET_CSUM_START_AT, checksumStart, true);
        copy.setUint16(NET_CSUM_OFFSET_AT, checksumOffset, true);
      } else {
        this.#checksum(firstSegment, headLength, payload, checksumStart, checksumOffset);
      }
    }
    const buffers = this.#use(frame, total);
    copy.setUint16(NET_NUM_BUFFERS_AT, buffers, true);
    this.#writeHead(firstSegment, NET_HEADER_SIZE + headLength);
    this.committed++;
    if (this.#memory.logging) this.#markDirty(firstSegment, total);
    if (this.capture !== undefined) {
      const count = this.#frameSegment[frame + 1] - firstSegment;
      this.capture.toGuest(this.#segments, firstSegment, count, total);
    }
  }

  /** Enters as many of the frame's chains as hold `total` bytes; returns their number. */
  #use(frame: number, total: number): number {
    let left = total;
    let buffers = 0;
    for (let i = this.#frameChain[frame]; left > 0; i++) {
      const size = this.#chainSize[i];
      const written = size < left ? size : left;
      this.queue.putUsed(this.#chainHead[i], written);
      left -= written;
      buffers++;
    }
    this.#usedChains = this.#frameChain[frame] + buffers;
    this.unseen += buffers;
    return buffers;
  }

  #writeHead(segment: number, length: number): void {
    const from = this.#copy;
    let at = 0;
    for (let i = segment; at < length; i++) {
      const size = this.#segments.length[i];
      const offset = this.#segments.offset[i];
      const window = offset / WINDOW | 0;
      const to = this.#memory.windows[window];
      let target = offset - window * WINDOW | 0;
      const stop = at + size < length ? at + size : length;
      for (; at + 4 <= stop; at += 4, target += 4) {
        to.setInt32(target, from.getInt32(at, true), true); // no bytes to swap
      }
      for (; at < stop; at++, target++) to.setUint8(target, from.getUint8(at));
    }
  }

  /** Completes the checksum in the head for a guest that takes no partial ones. */
  #checksum(
    segment: number,
    headLength: number,
    payload: number,
    start: number,
    offset: number,
  ): void {
    let partial = sum(this.head, start, headLength - start);
    let odd = false;
    let before = NET_HEADER_SIZE + headLength;
    let left = payload;
    for (let i = segment; left > 0; i++) {
      const size = this.#segments.length[i];
      if (before >= size) {
        before -= size;
        continue;
      }
      const piece = size - before < left ? size - before : left;
      const offset = this.#segments.offset[i] + before;
      const window = offset / WINDOW | 0;
      const view = this.#memory.windows[window];
      let part = sum(view, offset - window * WINDOW | 0, piece);
      if (odd) part = (part >>> 8) | ((part & 0xff) << 8);
      partial += part;
      partial = (partial & 0xffff) + (partial >>> 16);
      if ((piece & 1) !== 0) odd = !odd;
      left -= piece;
      before = 0;
    }
    const checksum = complement(partial);
    // Zero means "no checksum" in UDP (RFC 768); in one's complement 0xffff equals it.
    const zero = checksum === 0 && offset === 6;
    this.head.setUint16(start + offset, zero ? 0xffff : checksum);
  }

  #markDirty(segment: number, total: number): void {
    let left = total;
    for (let i = segment; left > 0; i++) {
      const size = this.#segments.length[i];
      const piece = size < left ? size : left;
      this.#memory.markDirtyOffset(this.#segments.offset[i], piece);
      left -= piece;
    }
  }

  /** Ends what {@link begin} began: buffers that no committed frame used go back. */
  end(): void {
    this.queue.untake(this.#chains - this.#usedChains);
    this.#chains = this.#usedChains = 0;
    this.frames = 0;
  }

  /** Shows the guest all committed frames; true if it wants to be notified. */
  flush(): boolean {
    this.unseen = 0;
    this.#bad = 0;
    return this.queue.publish();
  }

  /**
   * Commits one complete frame of at most 2048 bytes, Ethernet header on.
   *
   * @returns false if the guest has no buffer for it
   */
  send(frame: DataView, length: number): boolean {
    if (length > MAX_HEAD) return false;
    this.begin();
    if (this.reserve(length, 0, undefined) < 0) return false;
    for (let i = 0; i < length; i++) this.head.setUint8(i, frame.getUint8(i));
    this.commit(0, length, 0, 0, 0, 0, 0);
    this.end();
    return true;
  }
}
