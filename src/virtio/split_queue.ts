/**
 * The device's side of a split virtqueue (virtio 1.3, section 2.7): available chains are
 * taken in order, used ones are put back, notifications are suppressed as both sides ask.
 *
 * Everything in the ring is written by the guest while it is read here: each field is
 * read once into a local before it is judged. A ring whose indexes make no sense is
 * broken and stays so until it is started again; a chain that makes no sense is reported
 * to the caller, who gives it back unused.
 */
import { type GuestMemory, WINDOW } from "./guest_memory.ts";
import {
  appendPieces,
  CHAIN_BAD,
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  MAX_SEGMENTS,
  QUEUE_BROKEN,
  QUEUE_EMPTY,
  type RingLayout,
  type Segments,
  type Virtqueue,
} from "./virtqueue.ts";

const AVAIL_F_NO_INTERRUPT = 1;
const USED_F_NO_NOTIFY = 1;

const NO_BUFFER = new ArrayBuffer(8);

/** A split ring as the device sees it. */
export class SplitQueue implements Virtqueue {
  readonly #memory: GuestMemory;
  #desc: Uint32Array = new Uint32Array(NO_BUFFER);
  #avail: Uint16Array = new Uint16Array(NO_BUFFER);
  #used16: Uint16Array = new Uint16Array(NO_BUFFER);
  #used32: Uint32Array = new Uint32Array(NO_BUFFER);
  #size = 0;
  #mask = 0;
  #eventIdx = false;
  #usedLogAddress = -1;
  /** Next index to take, and the available index as it was read last. */
  #next = 0;
  #seen = 0;
  /** Used index including entries not yet published, and as published. */
  #usedNext = 0;
  #published = 0;
  /** Used index when the driver was last notified, or told it need not be. */
  #signalled = 0;
  #signalledValid = false;
  #broken = false;
  /** Head of the chain taken last. */
  head = 0;
  /** Bytes of all segments of the chain taken last. */
  chainLength = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Starts at the indexes that the ring holds. */
  start(layout: RingLayout): void {
    const { buffer } = this.#memory.view;
    const size = layout.size;
    this.#size = size;
    this.#mask = size - 1;
    this.#desc = new Uint32Array(buffer, layout.descOffset, size * 4);
    this.#avail = new Uint16Array(buffer, layout.availOffset, size + 3);
    this.#used16 = new Uint16Array(buffer, layout.usedOffset, size * 4 + 3);
    this.#used32 = new Uint32Array(buffer, layout.usedOffset, size * 2 + 1);
    this.#eventIdx = layout.eventIdx;
    this.#usedLogAddress = layout.usedLogAddress;
    this.#next = this.#seen = layout.baseIndex & 0xffff;
    this.#usedNext = this.#published = this.#signalled = this.#used16[1];
    this.#signalledValid = false;
    this.#broken = false;
  }

  /** Forgets the ring; returns the next available index, for GET_VRING_BASE. */
  stop(): number {
    this.#size = 0;
    this.#desc = new Uint32Array(NO_BUFFER);
    this.#avail = new Uint16Array(NO_BUFFER);
    this.#used16 = new Uint16Array(NO_BUFFER);
    this.#used32 = new Uint32Array(NO_BUFFER);
    this.#seen = this.#next; // what the driver has made available is no longer taken
    return this.#next;
  }

  get running(): boolean {
    return this.#size !== 0 && !this.#broken;
  }
  get size(): number {
    return this.#size;
  }
  get nextIndex(): number {
    return this.#next;
  }

  /**
   * Takes the next available chain and appends its segments to `into`.
   *
   * @param writable the direction that every descriptor must have
   * @returns the number of segments, or {@link QUEUE_EMPTY}, {@link CHAIN_BAD} (the chain
   *   is taken; nothing was appended) or {@link QUEUE_BROKEN}
   */
  take(into: Segments, writable: boolean): number {
    if (this.#next === this.#seen) {
      if (this.#size === 0 || this.#broken) return QUEUE_EMPTY;
      this.#seen = Atomics.load(this.#avail, 1);
      const ready = (this.#seen - this.#next) & 0xffff;
      if (ready === 0) return QUEUE_EMPTY;
      if (ready > this.#size) {
        this.#broken = true;
        this.#seen = this.#next;
        return QUEUE_BROKEN;
      }
    }
    const head = this.#avail[2 + (this.#next & this.#mask)];
    if (head >= this.#size) {
      this.#broken = true;
      this.#seen = this.#next;
      return QUEUE_BROKEN;
    }
    this.#next = (this.#next + 1) & 0xffff;
    this.head = head;
    const before = into.count;
    this.chainLength = 0;
    if (!this.#walk(head, into, writable)) {
      into.count = before;
      return CHAIN_BAD;
    }
    return into.count - before;
  }

  /** Walks a chain in the descriptor table, which may end in one indirect table (2.7.5.3). */
  #walk(head: number, into: Segments, writable: boolean): boolean {
    const desc = this.#desc;
    let index = head;
    for (let steps = 0; steps < this.#size; steps++) {
      const at = index * 4;
      const low = desc[at];
      const high = desc[at + 1];
      const length = desc[at + 2];
      const flagsAndNext = desc[at + 3];
      const flags = flagsAndNext & 0xffff;
      if ((flags & DESC_F_INDIRECT) !== 0) {
        if ((flags & DESC_F_NEXT) !== 0) return false;
        return this.#walkIndirect(high * 0x1_0000_0000 + low, length, into, writable);
      }
      if (((flags & DESC_F_WRITE) !== 0) !== writable) return false;
      if (!this.#append(high * 0x1_0000_0000 + low, length, into)) return false;
      if ((flags & DESC_F_NEXT) === 0) return true;
      index = flagsAndNext >>> 16;
      if (index >= this.#size) return false;
    }
    return false;
  }

  #walkIndirect(
    address: number,
    length: number,
    into: Segments,
    writable: boolean,
  ): boolean {
    const entries = length >>> 4;
    if (entries === 0 || (length & 15) !== 0 || entries > MAX_SEGMENTS) return false;
    const offset = this.#memory.translate(address, length);
    if (offset < 0) return false;
    const window = offset / WINDOW | 0;
    const view = this.#memory.windows[window];
    const table = offset - window * WINDOW | 0;
    let index = 0;
    for (let steps = 0; steps < entries; steps++) {
      const at = table + index * 16;
      const low = view.getUint32(at, true);
      const high = view.getUint32(at + 4, true);
      const size = view.getUint32(at + 8, true);
      const flagsAndNext = view.getUint32(at + 12, true);
      const flags = flagsAndNext & 0xffff;
      if ((flags & DESC_F_INDIRECT) !== 0) return false;
      if (((flags & DESC_F_WRITE) !== 0) !== writable) return false;
      if (!this.#append(high * 0x1_0000_0000 + low, size, into)) return false;
      if ((flags & DESC_F_NEXT) === 0) return true;
      index = flagsAndNext >>> 16;
      if (index >= entries) return false;
    }
    return false;
  }

  #append(address: number, length: number, into: Segments): boolean {
    const total = appendPieces(this.#memory, address, length, into, this.chainLength);
    if (total < 0) return false;
    this.chainLength = total;
    return true;
  }

  /** Gives the last `count` taken chains back to the available ring, not used. */
  untake(count: number): void {
    this.#next = (this.#next - count) & 0xffff;
    if (this.#broken) this.#seen = this.#next; // nothing is taken any more
  }

  /** Enters a chain into the used ring; the driver sees it after {@link publish}. */
  putUsed(head: number, written: number): void {
    const at = 1 + (this.#usedNext & this.#mask) * 2;
    this.#used32[at] = head;
    this.#used32[at + 1] = written;
    if (this.#usedLogAddress >= 0 && this.#memory.logging) {
      this.#memory.markDirty(this.#usedLogAddress + at * 4, 8);
    }
    this.#usedNext = (this.#usedNext + 1) & 0xffff;
  }

  /**
   * Shows the driver all entered chains (2.7.8.2).
   *
   * @returns true if the driver wants to be notified of them (2.7.7.2)
   */
  publish(): boolean {
    const usedNext = this.#usedNext;
    if (usedNext === this.#published || this.#size === 0) return false;
    Atomics.store(this.#used16, 1, usedNext);
    this.#published = usedNext;
    if (this.#usedLogAddress >= 0 && this.#memory.logging) {
      this.#memory.markDirty(this.#usedLogAddress + 2, 2);
    }
    // The store above is sequentially consistent: what is read here is read after it.
    if (!this.#eventIdx) {
      return (Atomics.load(this.#avail, 0) & AVAIL_F_NO_INTERRUPT) === 0;
    }
    const event = Atomics.load(this.#avail, 2 + this.#size);
    const old = this.#signalled;
    const valid = this.#signalledValid;
    this.#signalled = usedNext;
    this.#signalledValid = true;
    if (!valid) return true;
    return ((usedNext - event - 1) & 0xffff) < ((usedNext - old) & 0xffff);
  }

  /**
   * Asks the driver to notify when it makes more chains available than were seen so far
   * (2.7.10), whether those were taken or not.
   *
   * @returns true if more came in meanwhile, for which no notification may follow
   */
  wantNotification(): boolean {
    if (this.#size === 0 || this.#broken) return false;
    if (this.#eventIdx) {
      Atomics.store(this.#used16, 2 + this.#size * 4, this.#seen);
      this.#logUsedWord(4 + this.#size * 8);
    } else {
      Atomics.store(this.#used16, 0, 0);
      this.#logUsedWord(0);
    }
    const available = Atomics.load(this.#avail, 1);
    if (available === this.#seen) return false;
    // Seen from now on, taken or not: the caller is not told of the same again.
    const ready = (available - this.#next) & 0xffff;
    this.#seen = ready <= this.#size ? available : this.#next; // take() says it's broken
    return true;
  }

  /** Tells the driver that notifications are not needed for now. */
  declineNotification(): void {
    if (this.#size === 0 || this.#eventIdx) return; // a stale avail_event declines by itself
    Atomics.store(this.#used16, 0, USED_F_NO_NOTIFY);
    this.#logUsedWord(0);
  }

  #logUsedWord(at: number): void {
    if (this.#usedLogAddress >= 0 && this.#memory.logging) {
      this.#memory.markDirty(this.#usedLogAddress + at, 2);
    }
  }
}
