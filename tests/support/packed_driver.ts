/**
 * The guest's side of a packed ring (virtio 1.3, section 2.8), written from the
 * specification alone, as the split one is in mock_driver.ts.
 */
import type { RingLayout } from "../../src/virtio/virtqueue.ts";
import type { GuestRam, GuestRing, Piece, RingOptions, Used } from "./mock_driver.ts";

const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;
const DESC_F_AVAIL = 0x80;
const DESC_F_USED = 0x8000;
const DESC_SIZE = 16;
const EVENT_ENABLE = 0;
const EVENT_DISABLE = 1;
const EVENT_DESC = 2;

/** A place in the ring and the wrap counter that belongs to it (2.8.1). */
export interface Place {
  readonly index: number;
  readonly wrap: boolean;
}

/** The place `count` descriptors further on. */
export function further({ index, wrap }: Place, count: number, size: number): Place {
  const rounds = Math.floor((index + count) / size);
  return { index: (index + count) % size, wrap: rounds % 2 === 0 ? wrap : !wrap };
}

const same = (a: Place, b: Place) => a.index === b.index && a.wrap === b.wrap;
const word = ({ index, wrap }: Place) => index + (wrap ? 0x8000 : 0);

/** The driver's side of one packed ring. */
export class PackedDriverRing implements GuestRing {
  readonly descriptors: DataView;
  /** Event suppression areas: the driver's own, and the device's (2.8.10). */
  readonly available: DataView;
  readonly used: DataView;
  readonly layout: RingLayout;
  readonly #freeIds: number[];
  /** Descriptors that each buffer in flight takes, by its id. */
  readonly #buffers = new Map<number, number>();
  #free: number;
  #nextPlace: Place;
  #seenPlace: Place;
  /** Place up to which the device has been told, or need not be. */
  #told: Place;
  /** Buffers made available, and seen as used, so far. */
  next = 0;
  seen = 0;

  /** @param options `start` counts descriptors that went through the ring before */
  constructor(readonly ram: GuestRam, readonly size: number, options: RingOptions = {}) {
    const { eventIdx = false, start = 0 } = options;
    const desc = ram.take(size * DESC_SIZE, 16);
    const driverArea = ram.take(4, 4);
    const deviceArea = ram.take(4, 4);
    this.descriptors = ram.view(desc, size * DESC_SIZE);
    this.available = ram.view(driverArea, 4);
    this.used = ram.view(deviceArea, 4);
    this.#free = size;
    this.#freeIds = Array.from({ length: size }, (_, i) => size - 1 - i);
    const place = further({ index: 0, wrap: true }, start, size);
    this.#nextPlace = this.#seenPlace = this.#told = place;
    for (let i = 0; i < size; i++) {
      // As the device has left them in this round, or in the one before.
      const wrap = i < place.index ? place.wrap : !place.wrap;
      const both = DESC_F_AVAIL | DESC_F_USED;
      this.descriptors.setUint16(i * DESC_SIZE + 14, wrap ? both : 0, true);
    }
    this.layout = {
      packed: true,
      size,
      descOffset: ram.memory.translate(desc, 1),
      availOffset: ram.memory.translate(driverArea, 1),
      usedOffset: ram.memory.translate(deviceArea, 1),
      baseIndex: word(place) + word(place) * 0x1_0000,
      eventIdx,
      usedLogAddress: deviceArea,
    };
  }

  get free(): number {
    return this.#free;
  }
  /** Where the next available descriptor will be written. */
  get place(): Place {
    return this.#nextPlace;
  }
  /** Where the next used descriptor is expected. */
  get usedPlace(): Place {
    return this.#seenPlace;
  }

  /** Writes descriptor `index` of a ring or a table. */
  static describe(
    table: DataView,
    index: number,
    { address, length }: Piece,
    id: number,
    flags: number,
  ): void {
    const at = index * DESC_SIZE;
    table.setBigUint64(at, BigInt(address), true);
    table.setUint32(at + 8, length, true);
    table.setUint16(at + 12, id, true);
    table.setUint16(at + 14, flags, true);
  }

  /** Flags that make the descriptor at a place available (2.8.1). */
  static available({ wrap }: Place): number {
    return wrap ? DESC_F_AVAIL : DESC_F_USED;
  }

  /** Makes a buffer available; returns its id. The first flags are written last (2.8.20). */
  offer(pieces: readonly Piece[], writable: boolean, indirect = false): number {
    const count = indirect ? 1 : pieces.length;
    const id = this.#freeIds.pop();
    if (id === undefined || count > this.#free) throw new RangeError("the ring is full");
    const list = indirect ? [this.#table(pieces, writable)] : pieces;
    const flagsOf = (i: number) =>
      PackedDriverRing.available(further(this.#nextPlace, i, this.size)) |
      (indirect ? DESC_F_INDIRECT : writable ? DESC_F_WRITE : 0) |
      (i + 1 < count ? DESC_F_NEXT : 0);
    for (let i = count - 1; i >= 0; i--) {
      const { index } = further(this.#nextPlace, i, this.size);
      // Only the last descriptor of a list has to have the id (2.8.6).
      const named = i + 1 === count ? id : 0xdead;
      PackedDriverRing.describe(this.descriptors, index, list[i], named, flagsOf(i));
    }
    this.#buffers.set(id, count);
    this.#free -= count;
    this.#nextPlace = further(this.#nextPlace, count, this.size);
    this.next++;
    return id;
  }

  /** An indirect table; what it says besides WRITE does not count (2.8.7). */
  #table(pieces: readonly Piece[], writable: boolean): Piece {
    const length = pieces.length * DESC_SIZE;
    const address = this.ram.take(length, 16);
    const view = this.ram.view(address, length);
    const flags = writable ? DESC_F_WRITE : 0;
    pieces.forEach((piece, i) => PackedDriverRing.describe(view, i, piece, 0, flags));
    return { address, length };
  }

  reap(): Used[] {
    const found: Used[] = [];
    for (;;) {
      const { index, wrap } = this.#seenPlace;
      const at = index * DESC_SIZE;
      const flags = this.descriptors.getUint16(at + 14, true);
      const avail = (flags & DESC_F_AVAIL) !== 0;
      const used = (flags & DESC_F_USED) !== 0;
      if (this.#buffers.size === 0 || avail !== wrap || used !== wrap) return found;
      const id = this.descriptors.getUint16(at + 12, true);
      const count = this.#buffers.get(id);
      if (count === undefined) throw new Error(`used buffer ${id} was not available`);
      // Without WRITE the length means nothing (2.8.5).
      const written = (flags & DESC_F_WRITE) !== 0;
      const length = written ? this.descriptors.getUint32(at + 8, true) : 0;
      found.push({ id, length });
      this.#buffers.delete(id);
      this.#freeIds.push(id);
      this.#free += count;
      this.#seenPlace = further(this.#seenPlace, count, this.size);
      this.seen++;
    }
  }

  /** The device is to notify once it has used the descriptor at a place (2.8.10). */
  setUsedEventAt(place: Place): void {
    this.available.setUint16(0, word(place), true);
    this.available.setUint16(2, EVENT_DESC, true);
  }
  /** The same for any number: the place and round it stands for. */
  setUsedEvent(index: number): void {
    this.setUsedEventAt(further({ index: 0, wrap: true }, index, this.size));
  }
  setNoInterrupt(set: boolean): void {
    this.available.setUint16(2, set ? EVENT_DISABLE : EVENT_ENABLE, true);
  }

  /** Whether the device wants to be told of what was made available since last asked. */
  needsKick(): boolean {
    const flags = this.used.getUint16(2, true);
    const value = this.used.getUint16(0, true);
    const event = { index: value & 0x7fff, wrap: (value & 0x8000) !== 0 };
    let passed = false;
    for (
      let place = this.#told;
      !same(place, this.#nextPlace);
      place = further(place, 1, this.size)
    ) {
      passed ||= flags === EVENT_ENABLE || (flags === EVENT_DESC && same(place, event));
    }
    this.#told = this.#nextPlace;
    return passed;
  }
}
