/**
 * passt's stream, version 2, as its records lie; what they mean, passt_flows.ts says.
 *
 *     header 16, addresses 42, count of flows 4, then as many flow records of 112 bytes,
 *     then for each a record of 52 bytes and its two queues
 *
 * Header: magic, version, and the oldest version whose readers can read this, in network
 * order. So are all numbers, but for the ports in flow records: these are in the byte
 * order of the source, which nothing in the stream tells. It is taken for this host's.
 *
 * Addresses: 0 16 IPv6 seen   16 16 link-local   32 4 IPv4   36 6 MAC of the guest
 *
 * Flow record:
 *
 *     0 1 interface of the side that opened it: 1 host, 2 guest   1 1 of the other side
 *     2 36 that side: our address, the endpoint's (16 each), our port, the endpoint's
 *    38 36 the other side
 *    74 1 retries   75 1 window scale of the guest   76 1 to the guest   77 1 events
 *    78 4 MSS   82 4 send buffer in units of 256   86 1 flags   87 1 last duplicate ACK
 *    88 2 window of the guest   90 2 to the guest
 *    92 4 next number to the guest   96 4 last acknowledgement of the guest
 *   100 4 next number of the guest  104 4 last acknowledgement to it  108 4 its first one
 *
 * Socket record:
 *
 *     0 4 number of the first byte in the send queue   4 4 in the receive queue
 *     8 4 length of the send queue   12 4 of its part not sent   16 4 of the receive queue
 *    20 4 MSS clamp   24 4 timestamp   28 20 TCP_REPAIR_WINDOW
 *    48 1 window scale of the peer   49 1 ours   50 1 TCP state, 0: not saved, no queues
 *    51 1 options
 */
import { cutShort, notSupported } from "./error.ts";
import { FieldReader, FieldWriter, NATIVE, NETWORK } from "./fields.ts";
import { MAGIC, magicIsLittle } from "./header.ts";
import { MAX_FLOWS } from "./sections.ts";
import { type QueuedSocket, readSocketWords, writeSocketWords } from "./socket_words.ts";

export const PASST_VERSION = 2;
export const PASST_HEADER = 16;
export const PASST_FLOWS_AT = 62;
const FLOW_SIZE = 112;
const SOCKET_SIZE = 52;
const SOCKET_STATE_AT = 50;

/** Interfaces of a flow's sides. */
export const Pif = { none: 0, host: 1, guest: 2, splice: 3 } as const;

/** What a stream says of its version, and of who can read it. */
export interface PasstHeader {
  readonly version: number;
  readonly compat: number;
}

/** What passt knows of the guest: its addresses. */
export interface PasstDevice {
  readonly address6: Uint8Array;
  readonly linkLocal6: Uint8Array;
  /** Four bytes. */
  readonly address4: Uint8Array;
  readonly mac: Uint8Array;
}

/** One side of a flow; addresses are 16 bytes. */
export interface PasstSide {
  readonly our: Uint8Array;
  readonly endpoint: Uint8Array;
  readonly ourPort: number;
  readonly endpointPort: number;
}

/** A connection as passt's flow table has it. */
export interface PasstFlow {
  /** Of the record in the stream; 0 in a flow that is to be written. */
  readonly offset: number;
  readonly interfaces: readonly [number, number];
  readonly sides: readonly [PasstSide, PasstSide];
  readonly retries: number;
  readonly scaleFrom: number;
  readonly scaleTo: number;
  readonly events: number;
  readonly mss: number;
  readonly sendBuffer: number;
  readonly flags: number;
  readonly duplicate: number;
  readonly windowFrom: number;
  readonly windowTo: number;
  readonly seqTo: number;
  readonly ackFrom: number;
  readonly seqFrom: number;
  readonly ackTo: number;
  readonly initFrom: number;
}

/** What the kernel knew of a connection. */
export interface PasstSocket extends QueuedSocket {
  readonly sendScale: number;
  readonly receiveScale: number;
  readonly state: number;
  readonly options: number;
}

/** What has been read of a stream so far. */
export interface PasstContent {
  device?: PasstDevice;
  flows: PasstFlow[];
  /** One for each flow; undefined if the source could not save it. */
  sockets: (PasstSocket | undefined)[];
}

/**
 * Whether this is passt's stream and not vuelo's, whose big-endian magic is the same.
 * vuelo's version is below the size of a pointer, which comes next; passt's is not below
 * the oldest one that can read it.
 */
export function isPasst(bytes: Uint8Array): boolean {
  if (magicIsLittle(bytes)) return false;
  if (bytes.length < PASST_HEADER) {
    throw cutShort(bytes.length, "header", PASST_HEADER - bytes.length);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return view.getUint32(12) <= view.getUint32(8);
}

/**
 * Reads the header; the magic was judged before.
 *
 * @throws StateError ENOTSUP for versions that version 2 cannot read
 */
export function readPasstHeader(bytes: Uint8Array): PasstHeader {
  const reader = new FieldReader(bytes, 8, PASST_HEADER, NETWORK);
  const version = reader.u32();
  if (version < PASST_VERSION) {
    throw notSupported(8, "passt's version", `${PASST_VERSION} or higher`, version);
  }
  const compat = reader.range("oldest version to read this", reader.u32(), 1, version);
  if (compat <= PASST_VERSION) return { version, compat };
  const expected = `${PASST_VERSION} at most`;
  throw notSupported(12, "oldest version to read this", expected, compat);
}

/** How many bytes a stream has at least, by what is there of it. */
export function neededPasst(bytes: Uint8Array): number {
  readPasstHeader(bytes);
  if (bytes.length < PASST_FLOWS_AT) return PASST_FLOWS_AT;
  const reader = new FieldReader(bytes, PASST_FLOWS_AT - 4, bytes.length, NETWORK);
  const count = reader.range("count of flows", reader.u32(), 0, MAX_FLOWS);
  return PASST_FLOWS_AT + count * (FLOW_SIZE + SOCKET_SIZE);
}

/**
 * Reads what follows the header.
 *
 * @param content is filled step by step
 * @returns offset of the end
 * @throws StateError
 */
export function readPasst(bytes: Uint8Array, content: PasstContent): number {
  const reader = new FieldReader(bytes, PASST_HEADER, bytes.length, NETWORK);
  reader.what = "guest's addresses";
  const address6 = reader.take(16);
  const linkLocal6 = reader.take(16);
  content.device = {
    address6,
    linkLocal6,
    address4: reader.take(4),
    mac: reader.take(6),
  };
  reader.what = "count of flows";
  const count = reader.range("value", reader.u32(), 0, MAX_FLOWS);
  for (let i = 0; i < count; i++) {
    reader.what = `flow record ${i} of ${count}`;
    content.flows.push(readFlow(reader));
  }
  for (let i = 0; i < count; i++) {
    reader.what = `socket record ${i} of ${count}`;
    content.sockets.push(readSocket(reader));
  }
  return reader.at;
}

function readSide(reader: FieldReader): PasstSide {
  return {
    our: reader.view(16),
    endpoint: reader.view(16),
    ourPort: readPort(reader),
    endpointPort: readPort(reader),
  };
}

/** Ports alone are in the source's byte order. */
function readPort(reader: FieldReader): number {
  const port = reader.u16();
  return NATIVE.littleEndian ? (port & 0xff) << 8 | port >> 8 : port;
}

// Objects below are read field by field, in the order in which they are written here.

function readFlow(reader: FieldReader): PasstFlow {
  const offset = reader.at;
  const [first, second] = reader.view(2);
  const { host, guest } = Pif;
  if (!(first === host && second === guest || first === guest && second === host)) {
    const expected = "1 and 2 (host and guest) in either order";
    throw reader.error("interfaces", expected, `${first} and ${second}`);
  }
  return {
    offset,
    interfaces: [first, second],
    sides: [readSide(reader), readSide(reader)],
    retries: reader.u8(),
    scaleFrom: reader.range("window scale of the guest", reader.u8(), 0, 14),
    scaleTo: reader.range("window scale to the guest", reader.u8(), 0, 14),
    events: reader.u8(),
    mss: reader.u32(),
    sendBuffer: reader.u32(),
    flags: reader.u8(),
    duplicate: reader.u8(),
    windowFrom: reader.u16(),
    windowTo: reader.u16(),
    seqTo: reader.u32(),
    ackFrom: reader.u32(),
    seqFrom: reader.u32(),
    ackTo: reader.u32(),
    initFrom: reader.u32(),
  };
}

function readSocket(reader: FieldReader): PasstSocket | undefined {
  const end = reader.at + SOCKET_SIZE;
  // A connection that could not be saved has nothing but this in its record.
  if (reader.bytes.length >= end && reader.bytes[reader.at + SOCKET_STATE_AT] === 0) {
    reader.skip(SOCKET_SIZE);
    return undefined;
  }
  const { words, sendLength, receiveLength } = readSocketWords(reader);
  return {
    ...words,
    sendScale: reader.range("window scale of the peer", reader.u8(), 0, 14),
    receiveScale: reader.range("window scale", reader.u8(), 0, 14),
    state: reader.u8(),
    options: reader.u8(),
    sendQueue: reader.view(sendLength),
    receiveQueue: reader.view(receiveLength),
  };
}

/** Header, addresses and count of flows. */
export function writePasstHead(
  device: PasstDevice,
  flows: number,
): Uint8Array<ArrayBuffer> {
  const out = new FieldWriter(PASST_FLOWS_AT, NETWORK);
  out.take(Uint8Array.from(MAGIC));
  out.u32(PASST_VERSION);
  out.u32(PASST_VERSION);
  out.take(device.address6, 16);
  out.take(device.linkLocal6, 16);
  out.take(device.address4, 4);
  out.take(device.mac, 6);
  out.u32(flows);
  return out.bytes;
}

/** Flow records, one after the other. */
export function writePasstFlows(flows: readonly PasstFlow[]): Uint8Array<ArrayBuffer> {
  const out = new FieldWriter(flows.length * FLOW_SIZE, NETWORK);
  for (const flow of flows) {
    out.u8(flow.interfaces[0]);
    out.u8(flow.interfaces[1]);
    writeSide(out, flow.sides[0]);
    writeSide(out, flow.sides[1]);
    out.u8(flow.retries);
    out.u8(flow.scaleFrom);
    out.u8(flow.scaleTo);
    out.u8(flow.events);
    out.u32(flow.mss);
    out.u32(flow.sendBuffer);
    out.u8(flow.flags);
    out.u8(flow.duplicate);
    out.u16(flow.windowFrom);
    out.u16(flow.windowTo);
    out.u32(flow.seqTo);
    out.u32(flow.ackFrom);
    out.u32(flow.seqFrom);
    out.u32(flow.ackTo);
    out.u32(flow.initFrom);
  }
  return out.bytes;
}

function writeSide(out: FieldWriter, side: PasstSide): void {
  out.take(side.our, 16);
  out.take(side.endpoint, 16);
  writePort(out, side.ourPort);
  writePort(out, side.endpointPort);
}

function writePort(out: FieldWriter, port: number): void {
  out.u16(NATIVE.littleEndian ? (port & 0xff) << 8 | port >> 8 : port);
}

/** Socket records with their queues, as pieces that follow one another. */
export function writePasstSockets(sockets: readonly PasstSocket[]): Uint8Array[] {
  const out = new FieldWriter(sockets.length * SOCKET_SIZE, NETWORK);
  const pieces: Uint8Array[] = [];
  for (const socket of sockets) {
    const start = out.at;
    writeSocketWords(out, socket);
    out.u8(socket.sendScale);
    out.u8(socket.receiveScale);
    out.u8(socket.state);
    out.u8(socket.options);
    const record = out.bytes.subarray(start, out.at);
    pieces.push(record, socket.sendQueue, socket.receiveQueue);
  }
  return pieces;
}
