/**
 * The device's side of a packed virtqueue (virtio 1.3, section 2.8). One ring of
 * descriptors goes to and fro: the driver marks chains as available, the device writes one
 * descriptor for each chain that it used, over the chain's first, and skips the others.
 *
 * Everything in the ring is written by the guest while it is read here: each field is
 * read once into a local before it is judged, and what is needed to give a chain back is
 * kept apart from the ring. A chain that is longer than the ring breaks the queue until
 * it is started again; one that makes no sense is reported to the caller, who gives it
 * back unused.
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

const DESC_F_AVAIL = 1 << 7;
const DESC_F_USED = 1 << 15;
const BOTH = DESC_F_AVAIL | DESC_F_USED;
/** In 32-bit words: address (2), length, and buffer id below the flags. */
const DESC_WORDS = 4;
const LENGTH_AT = 2;
const ID_AND_FLAGS_AT = 3;

/** Flags of an event suppression structure (2.8.10), above the 16 bits of a place. */
const EVENT_DISABLE = 1;
const EVENT_DESC = 2;
const PLACE_MASK = 0x7fff;
const WRAP = 1 << 15;

const NO_BUFFER = new ArrayBuffer(8);
const NO_NUMBERS = new Uint16Array(0);

/** A packed ring as the device sees it. */
export class PackedQueue implements Virtqueue {
  readonly #memory: GuestMemory;
  #desc: Int32Array = new Int32Array(NO_BUFFER);
  /** What the driver and the device say about notifications, in one word each. */
  #driverEvent: Int32Array = new Int32Array(NO_BUFFER);
  #deviceEvent: Int32Array = new Int32Array(NO_BUFFER);
  #descOffset = 0;
  #deviceOffset = 0;
  #size = 0;
  #eventIdx = false;
  #logged = false;
  /** Place of the next chain to take, and the flags it has when it is available. */
  #next = 0;
  #available = DESC_F_AVAIL;
  /** Descriptors after {@link #next} that were seen to be available. */
  #ahead = 0;
  /** Place of the next used descriptor, and the flags it will have. */
  #used = 0;
  #usedFlags = BOTH;
  /** Descriptors that were taken and not used. */
  #inFlight = 0;
  /** Of chains in flight: buffer id and descriptors by place of the first, and of the last. */
  #ids: Uint16Array = NO_NUMBERS;
  #counts: Uint16Array = NO_NUMBERS;
  #countsByLast: Uint16Array = NO_NUMBERS;
  /** First used descriptor that is not yet published (-1: none), and its last word. */
  #first = -1;
  #firstWord = 0;
  /** Used place, counted over two rounds, when the driver was last told or need not be. */
  #signalled = 0;
  #signalledValid = false;
  #broken = false;
  head = 0;
  chainLength = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /**
   * Starts where {@link RingLayout.baseIndex} says. Its upper half is 0 where frontends or
   * other back-ends know one place only, which then is both. Chains between the two, which
   * somebody took and did not use, are taken once more.
   */
  start(layout: RingLayout): void {
    const { buffer } = this.#memory.view;
    const { size, baseIndex } = layout;
    const used = Math.floor(baseIndex / 0x1_0000);
    const given = used !== 0 ? used : baseIndex;
    this.#size = size;
    this.#descOffset = layout.descOffset;
    this.#deviceOffset = layout.usedOffset;
    this.#desc = new Int32Array(buffer, layout.descOffset, size * DESC_WORDS);
    this.#driverEvent = new Int32Array(buffer, layout.availOffset, 1);
    this.#deviceEvent = new Int32Array(buffer, layout.usedOffset, 1);
    this.#eventIdx = layout.eventIdx;
    this.#logged = layout.usedLogAddress >= 0;
    this.#ids = new Uint16Array(size);
    this.#counts = new Uint16Array(size);
    this.#countsByLast = new Uint16Array(size);
    // virtio_uml says 0 for a ring that is new, where the wrap counters are 1.
    const base = given === 0 && this.#isNew() ? WRAP : given;
    this.#next = this.#used = base & PLACE_MASK;
    this.#available = (base & WRAP) !== 0 ? DESC_F_AVAIL : DESC_F_USED;
    this.#usedFlags = (base & WRAP) !== 0 ? BOTH : 0;
    this.#ahead = this.#inFlight = 0;
    this.#first = -1;
    this.#signalledValid = false;
    this.#broken = this.#next >= size;
  }

  /** Whether nothing was used yet; at the end of a round something was, if not the first. */
  #isNew(): boolean {
    for (let i = ID_AND_FLAGS_AT; i < this.#desc.length; i += DESC_WORDS) {
      if ((this.#desc[i] >>> 16 & DESC_F_USED) !== 0) return false;
    }
    return true;
  }

  stop(): number {
    const avail = this.#next | (this.#available === DESC_F_AVAIL ? WRAP : 0);
    const used = this.#used | (this.#usedFlags !== 0 ? WRAP : 0);
    this.#size = 0;
    this.#desc = this.#driverEvent = this.#deviceEvent = new Int32Array(NO_BUFFER);
    this.#first = -1;
    return used * 0x1_0000 + avail;
  }

  get running(): boolean {
    return this.#size !== 0 && !this.#broken;
  }

  take(into: Segments, writable: boolean): number {
    if (this.#size === 0 || this.#broken) return QUEUE_EMPTY;
    const head = this.#next;
    // Sequentially consistent: what else is in the chain is read after this.
    const word = Atomics.load(this.#desc, head * DESC_WORDS + ID_AND_FLAGS_AT);
    if ((word >>> 16 & BOTH) !== this.#available) {
      this.#ahead = 0;
      return QUEUE_EMPTY;
    }
    const before = into.count;
    this.head = head;
    this.chainLength = 0;
    const good = this.#walk(head, word, into, writable);
    if (this.#broken) {
      into.count = before;
      return QUEUE_BROKEN;
    }
    if (good) return into.count - before;
    into.count = before;
    return CHAIN_BAD;
  }

  /**
   * Takes the chain at `head`; its descriptors lie one after the other, the last one has
   * the buffer's id (2.8.6). A chain that is bad is followed to its end all the same.
   */
  #walk(head: number, firstWord: number, into: Segments, writable: boolean): boolean {
    const desc = this.#desc;
    const limit = this.#size - this.#inFlight;
    let word = firstWord;
    let index = head;
    let good = true;
    let count = 1;
    for (; count <= limit; count++) {
      const flags = word >>> 16;
      good = good && this.#descriptor(index, flags, into, writable);
      const last = index++;
      if (index === this.#size) index = 0;
      if ((flags & DESC_F_NEXT) === 0) {
        this.#countsByLast[last] = count;
        break;
      }
      // A list must not have a table in it (2.8.7).
      if ((flags & DESC_F_INDIRECT) !== 0) good = false;
      word = desc[index * DESC_WORDS + ID_AND_FLAGS_AT];
      if ((word >>> 16 & DESC_F_INDIRECT) !== 0) good = false;
    }
    if (count > limit) {
      this.#broken = true;
      return false;
    }
    this.#ids[head] = word & 0xffff;
    this.#counts[head] = count;
    this.#inFlight += count;
    this.#ahead = this.#ahead > count ? this.#ahead - count : 0;
    this.#next = index;
    if (index <= head) this.#available ^= BOTH;
    return good;
  }

  #descriptor(index: number, flags: number, into: Segments, writable: boolean): boolean {
    const at = index * DESC_WORDS;
    const address = (this.#desc[at + 1] >>> 0) * 0x1_0000_0000 + (this.#desc[at] >>> 0);
    const length = this.#desc[at + LENGTH_AT] >>> 0;
    if ((flags & DESC_F_INDIRECT) !== 0) {
      return this.#walkIndirect(address, length, into, writable);
    }
    if (((flags & DESC_F_WRITE) !== 0) !== writable) return false;
    return this.#append(address, length, into);
  }

  /** All descriptors of an indirect table, in their order; only WRITE counts (2.8.7). */
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
    let at = offset - window * WINDOW | 0;
    for (let i = 0; i < entries; i++, at += 16) {
      const low = view.getUint32(at, true);
      const high = view.getUint32(at + 4, true);
      const size = view.getUint32(at + 8, true);
      const flags = view.getUint16(at + 14, true);
      if (((flags & DESC_F_WRITE) !== 0) !== writable) return false;
      if (!this.#append(high * 0x1_0000_0000 + low, size, into)) return false;
    }
    return true;
  }

  #append(address: number, length: number, into: Segments): boolean {
    const total = appendPieces(this.#memory, address, length, into, this.chainLength);
    if (total < 0) return false;
    this.chainLength = total;
    return true;
  }

  untake(count: number): void {
    for (let i = 0; i < count; i++) {
      const last = (this.#next === 0 ? this.#size : this.#next) - 1;
      const descriptors = this.#countsByLast[last];
      this.#next -= descriptors;
      if (this.#next < 0) {
        this.#next += this.#size;
        this.#available ^= BOTH;
      }
      this.#inFlight -= descriptors;
      this.#ahead += descriptors;
    }
  }

  /** The first of a batch is completed by {@link publish}, so that all come into sight. */
  putUsed(head: number, written: number): void {
    const at = this.#used * DESC_WORDS;
    const flags = this.#usedFlags | (written > 0 ? DESC_F_WRITE : 0);
    const word = this.#ids[head] | flags << 16;
    this.#desc[at + LENGTH_AT] = written;
    if (this.#first < 0) {
      this.#first = this.#used;
      this.#firstWord = word;
    } else {
      this.#desc[at + ID_AND_FLAGS_AT] = word;
      this.#logDescriptor(at);
    }
    const count = this.#counts[head];
    this.#inFlight -= count;
    this.#used += count;
    if (this.#used >= this.#size) {
      this.#used -= this.#size;
      this.#usedFlags ^= BOTH;
    }
  }

  /** See 2.8.21.1 for the order of writes, 2.7.7.2 and 2.8.10 for notifications. */
  publish(): boolean {
    if (this.#first < 0 || this.#size === 0) return false;
    const at = this.#first * DESC_WORDS;
    Atomics.store(this.#desc, at + ID_AND_FLAGS_AT, this.#firstWord);
    this.#first = -1;
    this.#logDescriptor(at);
    // The store above is sequentially consistent: what is read here is read after it.
    const event = Atomics.load(this.#driverEvent, 0);
    const old = this.#signalled;
    const valid = this.#signalledValid;
    const now = this.#used + (this.#usedFlags !== 0 ? 0 : this.#size);
    this.#signalled = now;
    this.#signalledValid = true;
    const wish = event >>> 16 & 3;
    if (wish === EVENT_DISABLE) return false;
    const place = event & PLACE_MASK;
    if (wish !== EVENT_DESC || !this.#eventIdx || !valid || place >= this.#size) {
      return true;
    }
    // Places over two rounds tell apart all that can be between two batches.
    const round = 2 * this.#size;
    const wanted = place + ((event & WRAP) !== 0 ? 0 : this.#size);
    const passed = (now - old + round) % round;
    return (now - wanted - 1 + round) % round < passed;
  }

  wantNotification(): boolean {
    if (this.#size === 0 || this.#broken) return false;
    let place = this.#next + this.#ahead;
    let flags = this.#available;
    if (place >= this.#size) {
      place -= this.#size;
      flags ^= BOTH;
    }
    // What is to be told comes after all that is there, looked at or not.
    const limit = this.#size - this.#inFlight - this.#ahead;
    let more = 0;
    while (more < limit && this.#isAvailable(place, flags)) {
      more++;
      if (++place === this.#size) {
        place = 0;
        flags ^= BOTH;
      }
    }
    this.#ahead += more;
    const wrap = flags === DESC_F_AVAIL ? WRAP : 0;
    this.#setDeviceEvent(this.#eventIdx ? EVENT_DESC << 16 | wrap | place : 0);
    return more > 0 || (limit > 0 && this.#isAvailable(place, flags));
  }

  #isAvailable(place: number, flags: number): boolean {
    const word = Atomics.load(this.#desc, place * DESC_WORDS + ID_AND_FLAGS_AT);
    return (word >>> 16 & BOTH) === flags;
  }

  declineNotification(): void {
    if (this.#size === 0 || this.#eventIdx) return; // a place gone by declines by itself
    this.#setDeviceEvent(EVENT_DISABLE << 16);
  }

  #setDeviceEvent(word: number): void {
    Atomics.store(this.#deviceEvent, 0, word);
    if (this.#logged && this.#memory.logging) {
      this.#memory.markDirtyOffset(this.#deviceOffset, 4);
    }
  }

  #logDescriptor(at: number): void {
    if (this.#logged && this.#memory.logging) {
      this.#memory.markDirtyOffset(this.#descOffset + 4 * (at + LENGTH_AT), 8);
    }
  }
}
