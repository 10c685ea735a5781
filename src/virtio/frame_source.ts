/**
 * Frames that the guest transmits. Headers are copied once into {@link FrameSource.head},
 * so that what is checked is what is used; payload stays in guest memory and is handed
 * on as iovecs.
 */
import type { IovecArray } from "../../ffi/iovec.ts";
import { WINDOW } from "./guest_memory.ts";
import { NET_HEADER_SIZE } from "./net_header.ts";
import {
  CHAIN_BAD,
  QUEUE_BROKEN,
  QUEUE_EMPTY,
  Segments,
  type Virtqueue,
} from "./virtqueue.ts";

/** Results of {@link FrameSource.next}. */
export const FRAME = 1;
export const NO_FRAME = 0;
export const BROKEN = -1;

/** Copied of every frame: net header, Ethernet, IPv6 and TCP with timestamps fit. */
const FIRST_COPY = NET_HEADER_SIZE + 14 + 40 + 32;
/** Copied at most, for options and extension headers. */
const HEAD_SIZE = 512;
/** Largest frame: a 64 KiB IP packet and its Ethernet header. */
export const MAX_FRAME = 65550;
/** Chains held back until {@link FrameSource.flush}: the batch that one turn may take. */
const MAX_BATCH = 1024;

/** Memory that frames lie in: the guest's, or that of frames which another thread took. */
export interface FrameMemory {
  /** Address of offset 0. */
  readonly base: number;
  readonly buffer: ArrayBufferLike;
  /** See GuestMemory.windows. */
  readonly windows: readonly DataView[];
}

/** Frames of the guest, one at a time, from its transmit ring. */
export class FrameSource {
  /** The frame's first bytes from the Ethernet header on; {@link headLength} are valid. */
  readonly head: DataView;
  /** Bytes of {@link head} that are of this frame. */
  headLength = 0;
  /** Bytes of the frame, without the net header. */
  length = 0;
  /** The net header as the guest wrote it. */
  readonly netHeader: DataView;
  /** Chains that made no sense, were shorter than a header, or longer than a frame. */
  badChains = 0;
  /** Frames taken so far. */
  taken = 0;

  /** Replaced when a ring of another form starts. */
  queue: Virtqueue;
  #memory: FrameMemory;
  readonly #guestMemory: FrameMemory;
  readonly #segments = new Segments();
  readonly #copy: DataView;
  #copied = 0;
  readonly #heads = new Int32Array(MAX_BATCH);
  #held = 0;

  constructor(memory: FrameMemory, queue: Virtqueue) {
    this.#memory = this.#guestMemory = memory;
    this.queue = queue;
    const buffer = new ArrayBuffer(HEAD_SIZE + 8);
    this.#copy = new DataView(buffer);
    this.netHeader = new DataView(buffer, 0, NET_HEADER_SIZE);
    this.head = new DataView(buffer, NET_HEADER_SIZE);
  }

  /** Takes the guest's next frame; bad chains are given back and counted. */
  next(): number {
    while (this.#held < MAX_BATCH) {
      this.#segments.count = 0;
      const result = this.queue.take(this.#segments, false);
      if (result === QUEUE_EMPTY) return NO_FRAME;
      if (result === QUEUE_BROKEN) return BROKEN;
      this.#heads[this.#held++] = this.queue.head;
      const size = this.queue.chainLength - NET_HEADER_SIZE;
      if (result === CHAIN_BAD || size < 14 || size > MAX_FRAME) {
        this.badChains++;
        continue;
      }
      this.length = size;
      this.#copied = 0;
      this.#copyHead(FIRST_COPY);
      this.taken++;
      return FRAME;
    }
    return NO_FRAME;
  }

  /**
   * Makes a frame current that lies in other memory, net header first, in one piece of
   * `length` bytes; {@link next} goes on after {@link own}.
   *
   * @returns false if it is too short
   */
  lend(memory: FrameMemory, offset: number, length: number): boolean {
    const size = length - NET_HEADER_SIZE;
    if (size < 14 || size > MAX_FRAME) return false;
    this.#memory = memory;
    const segments = this.#segments;
    segments.offset[0] = offset;
    segments.length[0] = length;
    segments.count = 1;
    this.length = size;
    this.#copied = 0;
    this.#copyHead(FIRST_COPY);
    return true;
  }

  /** Frames are the guest's own again, in its memory. */
  own(): void {
    this.#memory = this.#guestMemory;
  }

  /**
   * Copies the frame with its net header, as they are in memory now, to `at` of `to`,
   * where {@link length} + 12 bytes have room.
   */
  copyWhole(to: Uint8Array, at: number): void {
    const { buffer } = this.#memory;
    const segments = this.#segments;
    for (let i = 0; i < segments.count; i++) {
      const size = segments.length[i];
      to.set(new Uint8Array(buffer, segments.offset[i], size), at);
      at += size;
    }
  }

  /** True once as many frames are held back as fit; {@link flush} makes room. */
  get full(): boolean {
    return this.#held === MAX_BATCH;
  }

  /**
   * Copies more of the frame into {@link head}, for long headers. What is there already
   * is not read again: the guest may have changed it.
   *
   * @returns false if the frame or the space for heads is shorter than `length`
   */
  need(length: number): boolean {
    if (length <= this.headLength) return true;
    if (length > this.length || length > HEAD_SIZE - NET_HEADER_SIZE) return false;
    this.#copyHead(length + NET_HEADER_SIZE);
    return true;
  }

  #copyHead(want: number): void {
    const total = this.length + NET_HEADER_SIZE;
    const end = want < total ? want : total;
    const to = this.#copy;
    const segments = this.#segments;
    let at = this.#copied;
    let start = 0;
    for (let i = 0; i < segments.count && at < end; i++) {
      const size = segments.length[i];
      if (at < start + size) {
        const offset = segments.offset[i] + (at - start);
        const window = offset / WINDOW | 0;
        const from = this.#memory.windows[window];
        let source = offset - window * WINDOW | 0;
        const stop = start + size < end ? start + size : end;
        for (; at + 4 <= stop; at += 4, source += 4) {
          to.setInt32(at, from.getInt32(source, true), true); // no bytes to swap
        }
        for (; at < stop; at++, source++) to.setUint8(at, from.getUint8(source));
      }
      start += size;
    }
    this.#copied = end;
    this.headLength = end - NET_HEADER_SIZE;
  }

  /** How many iovecs {@link appendPayload} may add. */
  get pieces(): number {
    return this.#segments.count;
  }

  /**
   * Appends the frame's bytes from `skip` (counted from the Ethernet header), `length` of
   * them, to `iovecs`; the caller has checked that {@link pieces} fit and that the range
   * lies within the frame.
   */
  appendPayload(skip: number, length: number, iovecs: IovecArray): void {
    const base = this.#memory.base;
    const segments = this.#segments;
    let before = skip + NET_HEADER_SIZE;
    let left = length;
    for (let i = 0; left > 0; i++) {
      const size = segments.length[i];
      if (before >= size) {
        before -= size;
        continue;
      }
      const piece = size - before < left ? size - before : left;
      iovecs.add(base + segments.offset[i] + before, piece);
      left -= piece;
      before = 0;
    }
  }

  /**
   * Copies the frame from `skip` on into `to`, for packets that vuelo answers itself and
   * for captures; headers come from the checked copy.
   *
   * @returns bytes copied, at most `to.byteLength`
   */
  copyFrame(to: DataView, skip = 0): number {
    const limit = Math.min(this.length - skip, to.byteLength);
    const segments = this.#segments;
    let start = -NET_HEADER_SIZE - skip;
    for (let i = 0; i < segments.count && start < limit; i++) {
      const size = segments.length[i];
      const first = start < 0 ? 0 : start;
      const stop = start + size < limit ? start + size : limit;
      const offset = segments.offset[i] + (first - start);
      const window = offset / WINDOW | 0;
      const from = this.#memory.windows[window];
      let source = offset - window * WINDOW | 0;
      for (let at = first; at < stop; at++) to.setUint8(at, from.getUint8(source++));
      start += size;
    }
    const checked = Math.min(this.headLength - skip, limit);
    for (let at = 0; at < checked; at++) to.setUint8(at, this.head.getUint8(skip + at));
    return limit;
  }

  /**
   * Gives all frames taken so far back to the guest: their payload is no longer needed.
   *
   * @returns true if the guest wants to be notified
   */
  flush(): boolean {
    for (let i = 0; i < this.#held; i++) this.queue.putUsed(this.#heads[i], 0);
    this.#held = 0;
    return this.queue.publish();
  }
}
