/** A guest's end of a TCP connection, that sends again what gets no answer. */
import { GUEST_MAC } from "../support/guest_packets.ts";
import { readSegment, synOptions, tcpFrame } from "../support/tcp_segment.ts";
import type { Addresses } from "../support/guest_packets.ts";

export type Received = ReturnType<typeof readSegment>;

const EMPTY: Uint8Array = new Uint8Array(0);
const MSS = 1460;
const ISS = 1000;
/** Under way at once: half the transmit ring. */
const WINDOW = 60 * MSS;

/** Byte `i` of a stream. */
export function pattern(length: number, from = 0): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => (from + i) * 7 + (from + i >> 8) & 255);
}

export class GuestTcp {
  /** Bytes sent, in order, and where the peer's acknowledgement stands. */
  #sent = EMPTY;
  #acked = 0;
  #fin = false;
  #ack = 0;
  back = EMPTY;
  established = false;
  reset = false;
  /** The other side has ended its direction. */
  ended = false;
  /** FIN was acknowledged. */
  finished = false;
  /** It takes nothing, and acknowledges nothing. */
  mute = false;

  constructor(
    readonly emit: (frame: Uint8Array) => void,
    readonly ends: Addresses,
    readonly port: number,
    readonly toPort: number,
    /** The other side opens the connection. */
    readonly passive = false,
  ) {
    if (!passive) this.again();
  }

  #segment(flags: string, seq: number, data = EMPTY, options = EMPTY): void {
    const segment = { flags, seq, ack: this.#ack, window: 65535, data, options };
    this.emit(tcpFrame(this.ends, this.port, this.toPort, segment));
  }

  /** Sends again what has had no answer. */
  again(): void {
    if (this.reset) return;
    if (!this.established) {
      if (!this.passive) this.#segment("S", ISS, EMPTY, synOptions(MSS));
      else if (this.#ack !== 0) this.#segment("SA", ISS, EMPTY, synOptions(MSS));
      return;
    }
    const end = Math.min(this.#sent.length, this.#acked + WINDOW);
    for (let at = this.#acked; at < end; at += MSS) {
      const data = this.#sent.subarray(at, at + MSS);
      this.#segment("PA", ISS + 1 + at, data);
    }
    if (this.#fin && !this.finished) this.#segment("FA", ISS + 1 + this.#sent.length);
    else if (this.#acked === this.#sent.length) this.#acknowledge();
  }

  #acknowledge(): void {
    this.#segment("A", ISS + 1 + this.#sent.length + (this.#fin ? 1 : 0));
  }

  send(data: Uint8Array): void {
    const all = new Uint8Array(this.#sent.length + data.length);
    all.set(this.#sent);
    all.set(data, this.#sent.length);
    this.#sent = all;
    this.again();
  }
  /** Asks whether the other side is still there. */
  probe(): void {
    this.#segment("A", ISS + this.#sent.length);
  }
  finish(): void {
    this.#fin = true;
    this.again();
  }
  get acknowledged(): boolean {
    return this.#acked === this.#sent.length;
  }

  take(segment: Received): void {
    const { flags, seq, data } = segment;
    if (flags.includes("R")) {
      this.reset = true;
      return;
    }
    if (flags.includes("S")) {
      this.#ack = seq + 1 >>> 0;
      if (this.passive) return this.again();
      this.established = true;
      return this.#acknowledge();
    }
    if (this.passive) this.established = true;
    if (this.mute) return;
    const acked = (segment.ack - ISS - 1) >>> 0;
    if (acked > this.#acked) this.#acked = Math.min(acked, this.#sent.length);
    if (this.#fin && acked === this.#sent.length + 1) this.finished = true;
    if (data.length === 0 && !flags.includes("F")) return;
    if (seq === this.#ack) {
      const all = new Uint8Array(this.back.length + data.length);
      all.set(this.back);
      all.set(data, this.back.length);
      this.back = all;
      this.#ack = this.#ack + data.length >>> 0;
      if (flags.includes("F") && !this.ended) {
        this.ended = true;
        this.#ack = this.#ack + 1 >>> 0;
      }
    }
    this.#acknowledge();
  }
}

/** The protocol of a frame of IPv4 or IPv6, and what follows the IP header. */
export function transportOf(
  frame: Uint8Array,
): { readonly protocol: number; readonly bytes: Uint8Array } {
  if (frame[12] === 8 && frame[13] === 0) {
    return { protocol: frame[23], bytes: frame.subarray(34) };
  }
  const six = frame[12] === 0x86 && frame[13] === 0xdd;
  return { protocol: six ? frame[20] : -1, bytes: frame.subarray(54) };
}

/** The segment in a frame, if it is one of TCP. */
export function segmentOf(frame: Uint8Array): Received | undefined {
  return transportOf(frame).protocol === 6 ? readSegment(frame) : undefined;
}

/** Who has the address `to`? */
export function arpRequest({ from, to }: Addresses): Uint8Array {
  const frame = new Uint8Array(60);
  frame.set([255, 255, 255, 255, 255, 255, ...GUEST_MAC, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
  frame.set(GUEST_MAC, 22);
  frame.set(from.subarray(12), 28);
  frame.set(to.subarray(12), 38);
  return frame;
}
