/** Ethernet frames as inputs: checksums made right, and what an answer must be like. */
import dhcp from "../golden/dhcp.json" with { type: "json" };
import neighbours from "../golden/neighbours.json" with { type: "json" };
import wire from "../golden/wire.json" with { type: "json" };
import { Script } from "./engine/target.ts";

const IP_AT = 14;
const TCP = 6;
const UDP = 17;
const ICMP = 1;
const ICMPV6 = 58;

/** Bits of an input's first byte: what is made right before the frame is used. */
const Seal = { header: 1, transport: 2, lengths: 4 } as const;
const ALL = Seal.header | Seal.transport | Seal.lengths;

function input(hex: string): Uint8Array {
  return Uint8Array.of(ALL, ...Uint8Array.fromHex(hex));
}

const hexOf = (golden: Record<string, string>) =>
  Object.entries(golden).filter(([name]) => name !== "source").map(([, hex]) => hex);

/** Captured frames as inputs. */
export const DHCP_SEEDS: readonly Uint8Array[] = hexOf(dhcp).map(input);
export const NEIGHBOUR_SEEDS: readonly Uint8Array[] = hexOf(neighbours).map(input);
export const WIRE_SEEDS: readonly Uint8Array[] = Object.values(wire.frames).map(input);

/** One's complement sum of bytes, after `initial`. */
export function onesSum(bytes: Uint8Array, initial = 0): number {
  let total = initial;
  for (let i = 0; i + 1 < bytes.length; i += 2) total += bytes[i] << 8 | bytes[i + 1];
  if (bytes.length % 2 === 1) total += bytes[bytes.length - 1] << 8;
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}

interface Upper {
  readonly protocol: number;
  readonly at: number;
  /** Sum of the pseudo-header without length and protocol. */
  readonly addresses: number;
}

/** The transport packet of an IP packet, behind options and extension headers. */
function upperOf(frame: Uint8Array): Upper | undefined {
  const type = frame[12] << 8 | frame[13];
  if (type === 0x0800 && frame.length >= 34) {
    const at = IP_AT + (frame[IP_AT] & 15) * 4;
    return { protocol: frame[23], at, addresses: onesSum(frame.subarray(26, 34)) };
  }
  if (type !== 0x86dd || frame.length < 54) return undefined;
  let [protocol, at] = [frame[20], 54];
  while ([0, 43, 60].includes(protocol) && at + 8 <= frame.length) {
    protocol = frame[at];
    at += 8 + 8 * frame[at + 1];
  }
  return { protocol, at, addresses: onesSum(frame.subarray(22, 54)) };
}

const CHECKSUM_AT = new Map([[TCP, 16], [UDP, 6], [ICMP, 2], [ICMPV6, 2]]);

function sumOf(upper: Upper, transport: Uint8Array): number {
  const { protocol, addresses } = upper;
  const pseudo = protocol === ICMP ? 0 : addresses + protocol + transport.length;
  return onesSum(transport, pseudo);
}

/** Where the IP packet ends, as it says. */
function packetEnd(frame: Uint8Array): number {
  const four = frame[12] === 8;
  const length = four ? frame[16] << 8 | frame[17] : 40 + (frame[18] << 8 | frame[19]);
  return IP_AT + length;
}

function put16(bytes: Uint8Array, at: number, value: number): void {
  if (at + 2 > bytes.length) return;
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

/** The frame of an input, with what its first byte asks for made right. */
export function sealed(input: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const script = new Script(input);
  const seal = script.u8();
  const frame = script.rest().slice();
  const upper = upperOf(frame);
  if (upper === undefined) return frame;
  const four = frame[12] === 8;
  if (seal & Seal.lengths) {
    if (four) put16(frame, 16, frame.length - IP_AT);
    else put16(frame, 18, frame.length - 54);
    if (upper.protocol === UDP) put16(frame, upper.at + 4, frame.length - upper.at);
  }
  if (four && seal & Seal.header) {
    put16(frame, 24, 0);
    const header = frame.subarray(IP_AT, IP_AT + (frame[IP_AT] & 15) * 4);
    put16(frame, 24, ~onesSum(header));
  }
  const at = upper.at + (CHECKSUM_AT.get(upper.protocol) ?? 0);
  const end = Math.min(frame.length, packetEnd(frame));
  if (seal & Seal.transport && at > upper.at && at + 2 <= end) {
    put16(frame, at, 0);
    put16(frame, at, ~sumOf(upper, frame.subarray(upper.at, end)) & 0xffff || 0xffff);
  }
  return frame;
}

const GUARD = 24;
const around = new Uint8Array(1 << 17);

/** A view of the bytes alone, inside others: a read around them throws. One at a time. */
export function exactView(bytes: Uint8Array): DataView<ArrayBuffer> {
  const end = GUARD + bytes.length;
  around.set(bytes, GUARD);
  around.fill(0xa5, end, end + GUARD);
  return new DataView(around.buffer, GUARD, bytes.length);
}

/** @throws {Error} if lengths or checksums of a frame that was made are wrong */
export function checkFrame(frame: Uint8Array): void {
  const upper = upperOf(frame);
  if (upper === undefined) return;
  const four = frame[12] === 8;
  if (packetEnd(frame) !== frame.length) throw new Error("IP length of a reply");
  if (four && onesSum(frame.subarray(IP_AT, IP_AT + 20)) !== 0xffff) {
    throw new Error("IP checksum of a reply");
  }
  const transport = frame.subarray(upper.at);
  if (upper.protocol === UDP && (transport[4] << 8 | transport[5]) !== transport.length) {
    throw new Error("UDP length of a reply");
  }
  if (CHECKSUM_AT.has(upper.protocol) && sumOf(upper, transport) !== 0xffff) {
    throw new Error("checksum of a reply");
  }
}

/** Answers a frame, as the services do: returns the bytes written to `reply`. */
export type Respond = (frame: DataView, length: number, reply: DataView) => number;

/** Bytes that a service says it needs for any answer. */
const REPLY_ROOM = 1514;
const TOUCHED = 0x5a;
const replyBytes = new Uint8Array(REPLY_ROOM + 64);

/**
 * Has a service answer the frame of an input. Nothing but the frame is read, nothing of it
 * is written; the answer has right checksums and stays in its buffer.
 */
export function answer(respond: Respond, input: Uint8Array<ArrayBuffer>): number {
  const frame = sealed(input);
  const view = exactView(frame);
  replyBytes.fill(TOUCHED);
  const length = respond(
    view,
    frame.length,
    new DataView(replyBytes.buffer, 0, REPLY_ROOM),
  );
  if (!(length >= 0 && length <= REPLY_ROOM)) throw new Error(`reply of ${length} bytes`);
  for (let i = 0; i < frame.length; i++) {
    if (view.getUint8(i) !== frame[i]) throw new Error("the request was written");
  }
  if (length > 0) checkFrame(replyBytes.subarray(0, length));
  return length;
}
