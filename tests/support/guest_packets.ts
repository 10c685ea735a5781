/**
 * UDP and echo packets as a guest writes and reads them, from the RFCs alone: nothing of
 * the code under test is used.
 */
import { referenceSum } from "./reference_checksum.ts";

function referenceChecksum(bytes: Uint8Array): number {
  return ~referenceSum(bytes) & 0xffff;
}

export const GUEST_MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
export const VUELO_MAC = Uint8Array.of(0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55);

/** Addresses are 16 bytes, IPv4 mapped. */
export interface Addresses {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

function isFour({ from }: Addresses): boolean {
  return from.subarray(0, 12).every((byte, i) => byte === (i < 10 ? 0 : 0xff));
}

function pseudo(ends: Addresses, protocol: number, length: number): Uint8Array {
  const start = isFour(ends) ? 12 : 0;
  const addresses = [...ends.from.subarray(start), ...ends.to.subarray(start)];
  return Uint8Array.from([...addresses, 0, protocol, length >> 8, length & 255]);
}

/** Ethernet and IP around a transport packet. */
export function packet(
  ends: Addresses,
  protocol: number,
  transport: Uint8Array,
  ttl = 64,
): Uint8Array {
  const four = isFour(ends);
  const frame = new Uint8Array(14 + (four ? 20 : 40) + transport.length);
  const view = new DataView(frame.buffer);
  frame.set(VUELO_MAC);
  frame.set(GUEST_MAC, 6);
  view.setUint16(12, four ? 0x0800 : 0x86dd);
  if (four) {
    view.setUint16(14, 0x4500);
    view.setUint16(16, 20 + transport.length);
    view.setUint16(20, 0x4000);
    frame[22] = ttl;
    frame[23] = protocol;
    frame.set(ends.from.subarray(12), 26);
    frame.set(ends.to.subarray(12), 30);
    view.setUint16(24, referenceChecksum(frame.subarray(14, 34)));
  } else {
    frame[14] = 0x60;
    view.setUint16(18, transport.length);
    frame[20] = protocol;
    frame[21] = ttl;
    frame.set(ends.from, 22);
    frame.set(ends.to, 38);
  }
  frame.set(transport, four ? 34 : 54);
  return frame;
}

/** A UDP datagram (RFC 768) in its frame. */
export function udpPacket(
  ends: Addresses,
  fromPort: number,
  toPort: number,
  payload: Uint8Array,
  ttl = 64,
): Uint8Array {
  const udp = new Uint8Array(8 + payload.length);
  const view = new DataView(udp.buffer);
  view.setUint16(0, fromPort);
  view.setUint16(2, toPort);
  view.setUint16(4, udp.length);
  udp.set(payload, 8);
  view.setUint16(
    6,
    referenceChecksum(Uint8Array.from([...pseudo(ends, 17, udp.length), ...udp])) ||
      0xffff,
  );
  return packet(ends, 17, udp, ttl);
}

/** An echo request (RFC 792, RFC 4443) in its frame. */
export function echoPacket(
  ends: Addresses,
  identifier: number,
  sequence: number,
  payload: Uint8Array,
  ttl = 64,
): Uint8Array {
  const four = isFour(ends);
  const echo = new Uint8Array(8 + payload.length);
  const view = new DataView(echo.buffer);
  echo[0] = four ? 8 : 128;
  view.setUint16(4, identifier);
  view.setUint16(6, sequence);
  echo.set(payload, 8);
  const head = four ? [] : [...pseudo(ends, 58, echo.length)];
  view.setUint16(2, referenceChecksum(Uint8Array.from([...head, ...echo])));
  return packet(ends, four ? 1 : 58, echo, ttl);
}

/** An IP packet taken apart; checksums have been checked. */
export interface Read extends Addresses {
  readonly protocol: number;
  readonly ttl: number;
  readonly transport: DataView;
  /** What follows the first 8 bytes of the transport packet. */
  readonly payload: Uint8Array;
}

/** Reads a frame to the guest. @throws {Error} naming what is wrong with it */
export function readPacket(frame: Uint8Array): Read {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const four = view.getUint16(12) === 0x0800;
  const start = four ? 34 : 54;
  const length = four ? view.getUint16(16) - 20 : view.getUint16(18);
  if (start + length !== frame.length) throw new Error("the IP length is wrong");
  if (four && referenceChecksum(frame.subarray(14, 34)) !== 0) {
    throw new Error("the IP checksum is wrong");
  }
  const mapped = (at: number) =>
    Uint8Array.from([...new Uint8Array(10), 255, 255, ...frame.subarray(at, at + 4)]);
  const from = four ? mapped(26) : frame.slice(22, 38);
  const to = four ? mapped(30) : frame.slice(38, 54);
  const protocol = frame[four ? 23 : 20];
  const bytes = frame.subarray(start);
  const head = protocol === 1 ? [] : [...pseudo({ from, to }, protocol, length)];
  if (referenceChecksum(Uint8Array.from([...head, ...bytes])) !== 0) {
    throw new Error("the transport checksum is wrong");
  }
  const transport = new DataView(frame.buffer, frame.byteOffset + start, length);
  if (protocol === 17 && transport.getUint16(4) !== length) {
    throw new Error("the UDP length is wrong");
  }
  const ttl = frame[four ? 22 : 21];
  return { from, to, protocol, ttl, transport, payload: bytes.slice(8) };
}
