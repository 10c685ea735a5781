/**
 * A guest's driver at native speed: buffers and descriptors are laid out once, slot I of
 * a ring is always descriptor I, so that sending and receiving a frame takes a few stores.
 * It behaves as Linux does: EVENT_IDX, indirect descriptors for frames of several pieces,
 * a kick where the device asks for one, an interrupt for each batch received.
 */
import { eventfdCreate, eventfdWrite } from "../../../ffi/event.ts";
import type { Vring } from "../../../src/vhost_user/backend.ts";
import { NO_FD } from "../../../src/vhost_user/backend.ts";
import {
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  type GuestRam,
  NET_HEADER,
} from "../../support/mock_driver.ts";

const DESC_WORDS = 4;

class Ring {
  readonly size: number;
  readonly view: DataView;
  readonly vring: Vring;
  protected readonly desc: Uint32Array;
  protected readonly avail: Uint16Array;
  protected readonly used16: Uint16Array;
  protected readonly used32: Uint32Array;
  protected readonly mask: number;
  readonly #kickFd = eventfdCreate();
  /** Next available index, as shown and as the device was told last. */
  next = 0;
  #told = 0;
  /** Next used index. */
  seen = 0;

  constructor(ram: GuestRam, index: number, size: number) {
    const { memory } = ram;
    const offset = (bytes: number) => memory.translate(ram.take(bytes), bytes);
    const descOffset = offset(size * 16);
    const availOffset = offset(6 + 2 * size);
    const usedOffset = offset(6 + 8 * size);
    this.size = size;
    this.mask = size - 1;
    this.view = memory.view;
    const { buffer } = memory;
    this.desc = new Uint32Array(buffer, descOffset, size * DESC_WORDS);
    this.avail = new Uint16Array(buffer, availOffset, size + 3);
    this.used16 = new Uint16Array(buffer, usedOffset, size * 4 + 3);
    this.used32 = new Uint32Array(buffer, usedOffset, size * 2 + 1);
    for (let i = 0; i < size; i++) this.avail[2 + i] = i;
    this.vring = {
      packed: false,
      index,
      size,
      descOffset,
      availOffset,
      usedOffset,
      baseIndex: 0,
      kickFd: this.#kickFd,
      callFd: eventfdCreate(),
      errFd: NO_FD,
      enabled: true,
      usedLogAddress: -1,
    };
  }

  protected describe(slot: number, address: number, length: number, flags: number): void {
    const at = slot * DESC_WORDS;
    this.desc[at] = address; // guest memory lies below 4 GiB
    this.desc[at + 1] = 0;
    this.desc[at + 2] = length;
    this.desc[at + 3] = flags;
  }

  /** Shows the device all slots up to {@link next}, and kicks it if it asks (2.7.13). */
  publish(): void {
    const next = this.next & 0xffff;
    if (next === this.#told) return;
    Atomics.store(this.avail, 1, next);
    const event = Atomics.load(this.used16, 2 + this.size * 4);
    const wanted = ((next - event - 1) & 0xffff) < ((next - this.#told) & 0xffff);
    this.#told = next;
    if (wanted) eventfdWrite(this.#kickFd);
  }

  /** How many slots the device has used and the driver has not seen. */
  protected get fresh(): number {
    return (Atomics.load(this.used16, 1) - this.seen) & 0xffff;
  }
}

/** Descriptors of a frame: its headers, then pieces as a page fragment of Linux holds. */
const HEAD_PIECE = NET_HEADER + 14 + 20 + 20;
const MAX_PIECE = 32_768;

/** Frames of the guest. */
export class TxRing extends Ring {
  /** Offset in {@link view} of each slot's net header; the frame follows it. */
  readonly at: Float64Array;
  readonly #ram: GuestRam;
  readonly #address: Float64Array;
  readonly #tables: Float64Array;
  #tableLength = 0;

  /** @param room bytes of the longest frame */
  constructor(ram: GuestRam, size: number, room: number) {
    super(ram, 1, size);
    const slot = (NET_HEADER + room + 63) & ~63;
    const table = 16 * (2 + Math.ceil(room / MAX_PIECE));
    this.#ram = ram;
    this.#address = Float64Array.from({ length: size }, () => ram.take(slot, 64));
    this.at = this.#address.map((address) => ram.memory.translate(address, slot));
    this.#tables = Float64Array.from({ length: size }, () => ram.take(table));
  }

  /** Slots that can be filled. */
  get free(): number {
    this.seen += this.fresh;
    return this.size - (this.next - this.seen);
  }

  /** The slot that the next {@link send} takes. */
  get slot(): number {
    return this.next & this.mask;
  }

  /** Sends a frame of `length` bytes that lies in {@link slot}, in one descriptor. */
  send(length: number): void {
    const slot = this.next & this.mask;
    this.describe(slot, this.#address[slot], NET_HEADER + length, 0);
    this.next++;
  }

  /** Sends a frame in pieces: {@link cut} has said which. */
  sendCut(): void {
    const slot = this.next & this.mask;
    this.describe(slot, this.#tables[slot], this.#tableLength, DESC_F_INDIRECT);
    this.next++;
  }

  /** Prepares all slots for frames of `length` bytes: headers apart, payload in pieces. */
  cut(length: number): void {
    const lengths = [HEAD_PIECE];
    for (let left = NET_HEADER + length - HEAD_PIECE; left > 0; left -= MAX_PIECE) {
      lengths.push(Math.min(left, MAX_PIECE));
    }
    this.#tableLength = 16 * lengths.length;
    for (let slot = 0; slot < this.size; slot++) {
      const table = this.#ram.memory.translate(this.#tables[slot], this.#tableLength);
      let address = this.#address[slot];
      lengths.forEach((piece, i) => {
        const at = table + 16 * i;
        const last = i + 1 === lengths.length;
        this.view.setBigUint64(at, BigInt(address), true);
        this.view.setUint32(at + 8, piece, true);
        this.view.setUint16(at + 12, last ? 0 : DESC_F_NEXT, true);
        this.view.setUint16(at + 14, last ? 0 : i + 1, true);
        address += piece;
      });
    }
  }
}

/** Buffers for the guest, all posted all the time. */
export class RxRing extends Ring {
  /** Of the frame {@link take} found: offset of its net header, bytes without it. */
  at = 0;
  length = 0;
  readonly #buffers: Float64Array;
  #end = 0;

  constructor(ram: GuestRam, size: number, bufferSize: number) {
    super(ram, 0, size);
    this.#buffers = new Float64Array(size);
    for (let i = 0; i < size; i++) {
      const address = ram.take(bufferSize, 64);
      this.#buffers[i] = ram.memory.translate(address, bufferSize);
      this.describe(i, address, bufferSize, DESC_F_WRITE);
    }
    this.next = size;
    this.publish();
  }

  /** Looks at the used ring: {@link take} gives what is there now. */
  poll(): void {
    this.#end = this.seen + this.fresh;
  }

  /** The next frame, in {@link at} and {@link length}; false if there is none. */
  take(): boolean {
    if (this.seen === this.#end) return false;
    const slot = this.seen & this.mask;
    if (this.used32[1 + slot * 2] !== slot) throw new Error("buffers used out of order");
    this.at = this.#buffers[slot];
    let length = 0;
    const buffers = this.view.getUint16(this.at + 10, true);
    for (let i = 0; i < buffers; i++) {
      length += this.used32[2 + ((this.seen + i) & this.mask) * 2];
    }
    this.seen += buffers;
    this.length = length - NET_HEADER;
    return true;
  }

  /** Posts what was taken again, and asks for an interrupt at the next frame. */
  refill(): void {
    this.next = this.seen + this.size;
    this.publish();
    this.avail[2 + this.size] = this.seen;
  }
}
