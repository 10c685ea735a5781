/**
 * What a guest's kernel does with segments that come one after the other (GRO): those of
 * one stream become one, so that its TCP has as little to do as behind a real driver.
 */
import type { IovecArray } from "../../../ffi/iovec.ts";

/** Of struct virtio_net_hdr_v1. */
export const NEEDS_CSUM = 1;
const DATA_VALID = 2;
const GSO_TCP4 = 1;
const NET_HEADER = 12;
const IP = NET_HEADER + 14;
const TCP = IP + 20;
const ETHERTYPE_IPV4 = 0x0800;
const ETHERTYPE_IPV6 = 0x86dd;
const PLAIN_IPV4 = 0x45;
const PROTOCOL_TCP = 6;
const PROTOCOL_UDP = 17;
const TCP_CHECKSUM = 16;
const UDP_CHECKSUM = 6;
const ACK = 0x10;
const PUSH = 0x08;
const LONGEST = 65_000;
const MOST = 60;

/**
 * A tap does not know DATA_VALID, by which a device vouches for a checksum: the frame is
 * passed on as one whose checksum is not filled in, which is as good.
 */
export function vouch(view: DataView, at: number, length: number): void {
  if ((view.getUint8(at) & DATA_VALID) === 0) return;
  view.setUint8(at, 0);
  if (length < TCP + 20) return;
  const six = view.getUint16(at + NET_HEADER + 12) === ETHERTYPE_IPV6;
  if (!six && view.getUint16(at + NET_HEADER + 12) !== ETHERTYPE_IPV4) return;
  const header = six ? 40 : (view.getUint8(at + IP) & 15) * 4;
  const protocol = view.getUint8(at + IP + (six ? 6 : 9));
  if (!six && (view.getUint16(at + IP + 6) & 0x3fff) !== 0) return; // a fragment
  if (protocol !== PROTOCOL_TCP && protocol !== PROTOCOL_UDP) return;
  view.setUint8(at, NEEDS_CSUM);
  view.setUint16(at + 6, 14 + header, true);
  view.setUint16(at + 8, protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM, true);
}

/** Gathers segments; what it holds is written by its owner, once it says so. */
export class Coalescer {
  /** Segments that are held. */
  count = 0;
  #at = 0;
  #header = 0;
  #segment = 0;
  #payload = 0;
  #sequence = 0;
  /** The segment held last was short, or had PSH: nothing comes after it. */
  #complete = false;

  constructor(
    private readonly view: DataView,
    private readonly base: number,
    private readonly iovecs: IovecArray,
  ) {}

  /**
   * Takes a frame in one buffer at `at`, of `length` bytes with its net header. False if it
   * is none that can be joined, or not to what is held: then that has to be written first.
   */
  add(at: number, length: number): boolean {
    const { view } = this;
    if (view.getUint8(at + 1) !== 0 || view.getUint8(at) !== NEEDS_CSUM) return false;
    if (length < TCP + 20 || view.getUint16(at + NET_HEADER + 12) !== ETHERTYPE_IPV4) {
      return false;
    }
    if (view.getUint8(at + IP) !== PLAIN_IPV4) return false;
    if (view.getUint8(at + IP + 9) !== PROTOCOL_TCP) return false;
    const header = TCP + (view.getUint8(at + TCP + 12) >> 4) * 4;
    const payload = IP + view.getUint16(at + IP + 2) - header;
    const flags = view.getUint8(at + TCP + 13);
    if (payload <= 0 || header + payload > length || (flags & ~PUSH) !== ACK) {
      return false;
    }
    if (this.count > 0 && !this.#follows(at, header, payload)) return false;
    if (this.count === 0) this.#begin(at, header, payload);
    else this.#join(at, header, payload, flags);
    this.#payload += payload;
    this.#sequence = (this.#sequence + payload) >>> 0;
    this.#complete = payload < this.#segment || (flags & PUSH) !== 0;
    this.count++;
    return true;
  }

  #follows(at: number, header: number, payload: number): boolean {
    if (this.#complete || header !== this.#header || payload > this.#segment) {
      return false;
    }
    if (this.count === MOST || this.#payload + payload > LONGEST) return false;
    const { view } = this;
    const first = this.#at;
    // Addresses, ports, then the sequence number, the acknowledgement and the options.
    if (view.getUint32(at + IP + 12) !== view.getUint32(first + IP + 12)) return false;
    if (view.getUint32(at + IP + 16) !== view.getUint32(first + IP + 16)) return false;
    if (view.getUint32(at + TCP) !== view.getUint32(first + TCP)) return false;
    if (view.getUint32(at + TCP + 4) !== this.#sequence) return false;
    for (let i = TCP + 8; i < header; i += 4) {
      if (i === TCP + 12) i = TCP + 20;
      if (i < header && view.getUint32(at + i) !== view.getUint32(first + i)) {
        return false;
      }
    }
    return true;
  }

  #begin(at: number, header: number, payload: number): void {
    this.#at = at;
    this.#header = header;
    this.#segment = payload;
    this.#payload = 0;
    this.#sequence = this.view.getUint32(at + TCP + 4);
    this.iovecs.count = 0;
    this.iovecs.add(this.base + at, header + payload);
  }

  #join(at: number, header: number, payload: number, flags: number): void {
    const { view } = this;
    const first = this.#at;
    this.iovecs.add(this.base + at + header, payload);
    view.setUint8(first + TCP + 13, view.getUint8(first + TCP + 13) | flags);
    view.setUint16(first + TCP + 14, view.getUint16(at + TCP + 14)); // the window
  }

  /** Makes one frame of what is held, for the iovecs to be written. */
  finish(): void {
    if (this.count > 1) this.#merge();
    this.count = 0;
  }

  /** Length, checksums and net header of the frame as a whole. */
  #merge(): void {
    const { view } = this;
    const at = this.#at;
    const total = this.#header - IP + this.#payload;
    view.setUint16(at + IP + 2, total);
    view.setUint16(at + IP + 10, 0);
    let sum = 0;
    for (let i = IP; i < TCP; i += 2) sum += view.getUint16(at + i);
    view.setUint16(at + IP + 10, ~fold(sum));
    // The pseudo-header's sum; the kernel adds the rest.
    let partial = PROTOCOL_TCP + total - 20;
    for (let i = IP + 12; i < TCP; i += 2) partial += view.getUint16(at + i);
    view.setUint16(at + TCP + TCP_CHECKSUM, fold(partial));
    view.setUint8(at + 1, GSO_TCP4);
    view.setUint16(at + 2, this.#header - NET_HEADER, true);
    view.setUint16(at + 4, this.#segment, true);
  }
}

function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}
