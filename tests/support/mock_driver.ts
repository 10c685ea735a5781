/**
 * The guest's side of split rings (virtio 1.3, section 2.7), written from the
 * specification alone: guest memory in a memfd, descriptor tables, the available ring; and
 * a network driver on rings of either form.
 * Nothing of the device's code is used here, so that each is a check of the other.
 */
import { memfdCreate } from "../../ffi/memory.ts";
import { close } from "../../ffi/event.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { PackedDriverRing } from "./packed_driver.ts";
import type { RingLayout } from "../../src/virtio/virtqueue.ts";

export const DESC_F_NEXT = 1;
export const DESC_F_WRITE = 2;
export const DESC_F_INDIRECT = 4;
const DESC_SIZE = 16;
/** struct virtio_net_hdr with num_buffers (5.1.6). */
export const NET_HEADER = 12;

/** One region of guest memory. */
export interface RamRegion {
  readonly address: number;
  readonly size: number;
}

/** Guest memory with an allocator that only ever goes forward. */
export class GuestRam {
  readonly memory: GuestMemory;
  readonly regions: readonly RamRegion[];
  /** The file that all regions are in, one after the other. */
  readonly fd: number;
  #next: number;

  /**
   * @param regions page-aligned; rings and buffers are taken from the first
   * @param memory reused by several tests, since its addresses are never given back
   */
  constructor(
    memory: GuestMemory,
    regions: readonly RamRegion[] = [{ address: 0x10_0000, size: 0x80_0000 }],
  ) {
    this.memory = memory;
    this.regions = regions;
    const total = regions.reduce((sum, { size }) => sum + size, 0);
    this.fd = memfdCreate("guest", total);
    let offset = 0;
    const requests = regions.map(({ address, size }) => {
      const mmapOffset = offset;
      offset += size;
      const userAddress = 0x7f00_0000_0000 + address;
      return { guestAddress: address, size, userAddress, mmapOffset };
    });
    memory.setTable(requests, regions.map(() => this.fd));
    this.#next = regions[0].address;
  }

  /** Guest address of `size` fresh bytes. */
  take(size: number, align = 16): number {
    const at = Math.ceil(this.#next / align) * align;
    this.#next = at + size;
    const inside = this.regions.some(({ address, size: all }) =>
      at >= address && this.#next <= address + all
    );
    if (!inside) throw new RangeError("guest memory is used up");
    return at;
  }

  /** What is taken next comes from `address` on, in any region. */
  seek(address: number): void {
    this.#next = address;
  }

  /** The bytes at a guest address, as they lie in memory. */
  bytes(address: number, length: number): Uint8Array<ArrayBuffer> {
    const offset = this.memory.translate(address, length);
    if (offset < 0) throw new RangeError(`no guest memory at ${address}`);
    return new Uint8Array(this.memory.buffer, offset, length);
  }
  view(address: number, length: number): DataView {
    const bytes = this.bytes(address, length);
    return new DataView(bytes.buffer, bytes.byteOffset, length);
  }

  close(): void {
    this.memory.clear();
    close(this.fd);
  }
}

/** One descriptor of a chain. */
export interface Piece {
  readonly address: number;
  readonly length: number;
}

/** An entry of the used ring. */
export interface Used {
  readonly id: number;
  readonly length: number;
}

export interface RingOptions {
  readonly packed?: boolean;
  readonly eventIdx?: boolean;
  /** Value of all indexes at the start, to reach their wrap-around. */
  readonly start?: number;
}

/** The driver's side of a ring of either form. */
export interface GuestRing {
  readonly size: number;
  readonly layout: RingLayout;
  /** Descriptor area, driver area, device area. */
  readonly descriptors: DataView;
  readonly available: DataView;
  readonly used: DataView;
  /** Descriptors that no chain holds. */
  readonly free: number;
  /** Equal to each other once the device has used all that was made available. */
  readonly next: number;
  readonly seen: number;
  /**
   * Makes a chain available; returns what it will be called when it is used.
   *
   * @param indirect puts it into a table of its own
   */
  offer(pieces: readonly Piece[], writable: boolean, indirect?: boolean): number;
  /** What was used since the last call; its descriptors are free again. */
  reap(): Used[];
  /** What the device reads to decide on notifications. */
  setUsedEvent(index: number): void;
  setNoInterrupt(set: boolean): void;
  /** Whether the device wants to be told of what was made available since last asked. */
  needsKick(): boolean;
}

/** The driver's side of one split ring. */
export class DriverRing implements GuestRing {
  readonly descriptors: DataView;
  readonly available: DataView;
  readonly used: DataView;
  readonly layout: RingLayout;
  readonly #free: number[];
  /** Descriptors that each chain in flight holds, by its head. */
  readonly #chains = new Map<number, number[]>();
  /** Index of the next entry that will be made available, and of the next used one. */
  next: number;
  seen: number;
  /** Index up to which the device has been told, or need not be. */
  #told: number;

  constructor(readonly ram: GuestRam, readonly size: number, options: RingOptions = {}) {
    const { eventIdx = false, start = 0 } = options;
    const desc = ram.take(size * DESC_SIZE, 16);
    const avail = ram.take(6 + 2 * size, 2);
    const used = ram.take(6 + 8 * size, 4);
    this.descriptors = ram.view(desc, size * DESC_SIZE);
    this.available = ram.view(avail, 6 + 2 * size);
    this.used = ram.view(used, 6 + 8 * size);
    this.next = this.seen = this.#told = start;
    this.available.setUint16(2, start, true);
    this.used.setUint16(2, start, true);
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
    this.layout = {
      packed: false,
      size,
      descOffset: ram.memory.translate(desc, 1),
      availOffset: ram.memory.translate(avail, 1),
      usedOffset: ram.memory.translate(used, 1),
      baseIndex: start,
      eventIdx,
      usedLogAddress: used,
    };
  }

  get free(): number {
    return this.#free.length;
  }

  /** Writes descriptor `index` of a table. */
  static describe(
    table: DataView,
    index: number,
    { address, length }: Piece,
    flags: number,
    next: number,
  ): void {
    const at = index * DESC_SIZE;
    table.setBigUint64(at, BigInt(address), true);
    table.setUint32(at + 8, length, true);
    table.setUint16(at + 12, flags, true);
    table.setUint16(at + 14, next, true);
  }

  /** Makes a chain available; returns its head. Indirect: 2.7.5.3. */
  offer(pieces: readonly Piece[], writable: boolean, indirect = false): number {
    const head = indirect ? this.#indirect(pieces, writable) : this.#chain(
      this.descriptors,
      this.#takeFree(pieces.length),
      pieces,
      writable,
    );
    this.available.setUint16(4 + 2 * (this.next % this.size), head, true);
    this.next = (this.next + 1) & 0xffff;
    this.available.setUint16(2, this.next, true);
    return head;
  }

  #takeFree(count: number): number[] {
    if (count > this.#free.length) throw new RangeError("the descriptor table is full");
    const indexes = this.#free.splice(this.#free.length - count);
    this.#chains.set(indexes[0], indexes);
    return indexes;
  }

  #chain(
    table: DataView,
    indexes: readonly number[],
    pieces: readonly Piece[],
    writable: boolean,
  ): number {
    pieces.forEach((piece, i) => {
      const more = i + 1 < pieces.length;
      const flags = (writable ? DESC_F_WRITE : 0) | (more ? DESC_F_NEXT : 0);
      DriverRing.describe(table, indexes[i], piece, flags, more ? indexes[i + 1] : 0);
    });
    return indexes[0];
  }

  #indirect(pieces: readonly Piece[], writable: boolean): number {
    const length = pieces.length * DESC_SIZE;
    const address = this.ram.take(length, 16);
    this.#chain(this.ram.view(address, length), [...pieces.keys()], pieces, writable);
    const [index] = this.#takeFree(1);
    const table = { address, length };
    DriverRing.describe(this.descriptors, index, table, DESC_F_INDIRECT, 0);
    return index;
  }

  reap(): Used[] {
    const found: Used[] = [];
    const end = this.used.getUint16(2, true);
    for (; this.seen !== end; this.seen = (this.seen + 1) & 0xffff) {
      const at = 4 + 8 * (this.seen % this.size);
      const id = this.used.getUint32(at, true);
      found.push({ id, length: this.used.getUint32(at + 4, true) });
      const chain = this.#chains.get(id);
      if (chain === undefined) throw new Error(`used entry ${id} was not available`);
      this.#chains.delete(id);
      this.#free.push(...chain);
    }
    return found;
  }

  /** See 2.7.6 and 2.7.7. */
  setUsedEvent(index: number): void {
    this.available.setUint16(4 + 2 * this.size, index & 0xffff, true);
  }
  setNoInterrupt(set: boolean): void {
    this.available.setUint16(0, set ? 1 : 0, true);
  }
  /** What the device writes to ask for notifications (2.7.8, 2.7.10). */
  get availEvent(): number {
    return this.used.getUint16(4 + 8 * this.size, true);
  }
  get noNotify(): boolean {
    return (this.used.getUint16(0, true) & 1) !== 0;
  }

  needsKick(): boolean {
    let passed = false;
    for (; this.#told !== this.next; this.#told = (this.#told + 1) & 0xffff) {
      passed ||= this.layout.eventIdx ? this.availEvent === this.#told : !this.noNotify;
    }
    return passed;
  }
}

/** A network driver: frames into the transmit ring, buffers into the receive ring. */
export class MockDriver {
  readonly tx: GuestRing;
  readonly rx: GuestRing;
  readonly #buffers = new Map<number, Piece[]>();

  /** @param mergeable several buffers may make up one frame (VIRTIO_NET_F_MRG_RXBUF) */
  constructor(
    readonly ram: GuestRam,
    readonly mergeable = true,
    size = 256,
    options: RingOptions = {},
  ) {
    const Ring = options.packed === true ? PackedDriverRing : DriverRing;
    this.tx = new Ring(ram, size, options);
    this.rx = new Ring(ram, size, options);
  }

  /**
   * Transmits a frame.
   *
   * @param cuts where the net header and frame together are cut into descriptors
   * @param header the net header; zeros ask for no offload
   * @returns where its pieces lie
   */
  send(
    frame: Uint8Array,
    cuts: readonly number[] = [NET_HEADER],
    header: Uint8Array = new Uint8Array(NET_HEADER),
    indirect = false,
  ): Piece[] {
    const length = NET_HEADER + frame.length;
    const inside = cuts.filter((cut) => cut > 0 && cut < length);
    const edges = [...new Set([0, ...inside, length])].sort((a, b) => a - b);
    const whole = new Uint8Array(length);
    whole.set(header);
    whole.set(frame, NET_HEADER);
    const pieces = edges.slice(1).map((end, i) => {
      const piece = whole.subarray(edges[i], end);
      const address = this.ram.take(piece.length, 1);
      this.ram.bytes(address, piece.length).set(piece);
      return { address, length: piece.length };
    });
    this.tx.offer(pieces, false, indirect);
    return pieces;
  }

  /** Transmitted frames that the device gave back. */
  sent(): number {
    return this.tx.reap().length;
  }

  /** Posts `count` receive buffers, each of pieces of these lengths, filled with 0xa5. */
  post(count: number, ...lengths: readonly number[]): void {
    for (let i = 0; i < count; i++) {
      const pieces = lengths.map((length) => {
        const address = this.ram.take(length, 1);
        this.ram.bytes(address, length).fill(0xa5);
        return { address, length };
      });
      this.#buffers.set(this.rx.offer(pieces, true), pieces);
    }
  }

  /** Frames that arrived since the last call, each with its net header. */
  receive(): { readonly header: Uint8Array; readonly frame: Uint8Array }[] {
    const used = this.rx.reap();
    const frames = [];
    for (let i = 0; i < used.length;) {
      const first = this.#content(used[i++]);
      if (first.length === 0) continue; // given back for nothing
      const header = first.slice(0, NET_HEADER);
      const parts = [first.subarray(NET_HEADER)];
      const buffers = new DataView(header.buffer).getUint16(10, true);
      for (let more = 1; this.mergeable && more < buffers; more++) {
        parts.push(this.#content(used[i++]));
      }
      const frame = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
      let at = 0;
      for (const part of parts) {
        frame.set(part, at);
        at += part.length;
      }
      frames.push({ header, frame });
    }
    return frames;
  }

  #content({ id, length }: Used): Uint8Array<ArrayBuffer> {
    const pieces = this.#buffers.get(id);
    if (pieces === undefined) throw new Error(`used buffer ${id} was not posted`);
    this.#buffers.delete(id);
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      const part = Math.min(piece.length, length - at);
      bytes.set(this.ram.bytes(piece.address, part), at);
      at += part;
    }
    if (at !== length) throw new Error(`${length} bytes do not fit buffer ${id}`);
    return bytes;
  }
}
