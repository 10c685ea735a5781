/** Frames of any length from 0 to 65,550, with contents of every kind. */
import { ENDS } from "./good_flow.ts";
import { GUEST_MAC, udpPacket, VUELO_MAC } from "./guest_packets.ts";
import { referenceChecksum } from "./reference_checksum.ts";
import { synOptions, tcpFrame } from "./tcp_segment.ts";

export const LONGEST = 65_550;
/** Nobody listens there. */
const CLOSED = 9;

/** Makes the frame of a length; `frame` has that length and holds noise. */
export type Kind = (frame: Uint8Array, i: number) => void;

/** Puts a beginning over the noise, as far as there is room for it. */
function begin(frame: Uint8Array, head: Uint8Array): void {
  frame.set(head.subarray(0, frame.length));
}

function ethernet(frame: Uint8Array, type: number): void {
  begin(frame, Uint8Array.from([...VUELO_MAC, ...GUEST_MAC, type >> 8, type & 255]));
}

/** An IPv4 header that is right; the length it tells is `told`. */
function ipv4(frame: Uint8Array, head: Uint8Array, told: number): void {
  const copy = head.slice();
  const view = new DataView(copy.buffer);
  view.setUint16(16, told);
  view.setUint16(24, 0);
  view.setUint16(24, referenceChecksum(copy.subarray(14, 34)));
  begin(frame, copy);
}

function ipv6Head(protocol: number, length: number): Uint8Array {
  const head = new Uint8Array(54);
  head.set([...VUELO_MAC, ...GUEST_MAC, 0x86, 0xdd, 0x60]);
  new DataView(head.buffer).setUint16(18, length);
  head.set([protocol, 64], 20);
  head.set([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5], 22);
  head.set([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 38);
  return head;
}

const UDP4 = udpPacket(ENDS, 7000, CLOSED, new Uint8Array(0));
const DHCP = udpPacket(ENDS, 68, 67, new Uint8Array(0));
const SYN = tcpFrame(ENDS, 7001, CLOSED, {
  flags: "S",
  seq: 1,
  ack: 0,
  window: 1000,
  data: new Uint8Array(0),
  options: synOptions(1460, 7),
});
const ACK = tcpFrame(ENDS, 7002, CLOSED, {
  flags: "A",
  seq: 1,
  ack: 7,
  window: 1000,
  data: new Uint8Array(0),
  options: new Uint8Array(0),
});

/** The lengths that headers tell are those of the frame. */
const RIGHT: Kind = (frame) => {
  ipv4(frame, UDP4, Math.min(frame.length - 14, 65_535));
  if (frame.length >= 42) {
    new DataView(frame.buffer, frame.byteOffset).setUint16(38, frame.length - 34);
  }
};

export const KINDS: readonly (readonly [name: string, kind: Kind])[] = [
  ["noise", () => {}],
  ["noise to vuelo", (frame) => begin(frame, VUELO_MAC)],
  ["ARP", (frame) => ethernet(frame, 0x0806)],
  ["noise as IPv4", (frame) => ethernet(frame, 0x0800)],
  ["noise as IPv6", (frame) => ethernet(frame, 0x86dd)],
  ["UDP", RIGHT],
  ["UDP that says it is longer", (frame) => ipv4(frame, UDP4, frame.length)],
  ["DHCP", (frame) => ipv4(frame, DHCP, frame.length - 14)],
  ["SYN with data", (frame) => ipv4(frame, SYN, frame.length - 14)],
  ["ACK for nothing", (frame) => ipv4(frame, ACK, frame.length - 14)],
  ["UDP over IPv6", (frame) => begin(frame, ipv6Head(17, frame.length - 54))],
  ["ICMPv6", (frame) => begin(frame, ipv6Head(58, frame.length - 54))],
  ["TCP over IPv6", (frame) => begin(frame, ipv6Head(6, frame.length - 54))],
  ["extension headers", (frame, i) => {
    begin(frame, ipv6Head([0, 43, 44, 60][i & 3], frame.length - 54));
  }],
];
