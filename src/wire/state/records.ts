/**
 * Sections 1 and 4 to 8 of version 2. Numbers are in the source's byte order, T is the
 * size of its time_t, addresses are 16 bytes in network order, IPv4 mapped.
 *
 * Device (112 + T):
 *
 *     0 6 guest's MAC          6 6 MAC that the guest takes for its gateway's
 *    12 16 last IPv4 seen     28 16 last IPv6 seen     44 16 last link-local address seen
 *    60 16 IPv4 of the lease  76 16 IPv6 of the lease
 *    92 1 prefix lengths of the leases, IPv4    93 1 IPv6    94 2 0
 *    96 4 MTU   100 8 features of the driver, low word first   108 4 0
 *   112 T when this was saved, in seconds since 1970
 *
 * TCP connection (96 + T):
 *
 *     0 4 flow (number of its entry)
 *     4 1 TCP state as Linux numbers it, or 0: it could not be saved, all that follows is
 *         0, but 16 is the length of the reason, UTF-8, in place of the send queue
 *     5 1 options of TCP_INFO    6 1 window scale of the peer    7 1 window scale of ours
 *     8 4 sequence number of the first byte that the peer has not acknowledged
 *    12 4 sequence number of the first byte of the receive queue
 *    16 4 length of the send queue   20 4 bytes at its end never sent
 *    24 4 length of the receive queue
 *    28 4 TCP_MAXSEG   32 4 TCP_TIMESTAMP
 *    36 20 TCP_REPAIR_WINDOW: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
 *    56 4 TCP_KEEPIDLE in seconds, 0 without keep-alive   60 4 TCP_KEEPINTVL
 *    64 4 TCP_KEEPCNT
 *    68 4 whether something of the guest is missing   72 4 where what came ended
 *    76 4 highest number sent to the guest before something was sent again
 *    80 16 interface that the socket is bound to, filled up with zeros
 *    96 T milliseconds since something was heard of the guest
 *
 * TCP queues: of each connection in turn the send queue, then the receive queue.
 *
 * UDP flow, ping flow (8 + T): 0 4 flow   4 4 0   8 T milliseconds since its last packet
 *
 * Forwarding rule (60):
 *
 *     0 1 protocol, 6 or 17   1 1 bits: 1 has an address, 2 an interface, 4 a guest's
 *         address, 8 ports that are taken are passed over   2 2 0
 *     4 2 first port   6 2 last port   8 2 first port of the guest   10 2 0
 *    12 16 address to listen at   28 16 guest's address
 *    44 16 interface, filled up with zeros
 */
import { isIPv4, isLinkLocal, isUnspecified } from "../address.ts";
import { Protocol } from "../ip.ts";
import { type FieldReader, FieldWriter, NATIVE } from "./fields.ts";
import type { MovedDatagramFlow, MovedDevice, MovedRule, MovedTcp } from "./model.ts";
import { readSocketWords, writeSocketWords } from "./socket_words.ts";

const NAME_SIZE = 16;
/** Bytes of the reason why a connection is lost. */
const MAX_REASON = 255;
/** Of a connection that is lost: the reason stands in place of its send queue. */
const REASON = { leastSend: 1, mostSend: MAX_REASON, leastMss: 0 };
const MAX_SCALE = 14;
/**
 * TCP states of Linux that can be moved; CLOSE (7) is that of a connection closed in good
 * order both ways, whose last bytes the guest does not have yet.
 */
export const MOVED_STATES = [1, 4, 5, 7, 8, 9, 11];
const RuleBit = { address: 1, device: 2, guestAddress: 4, weak: 8 } as const;
const NONE = new Uint8Array(16);
const decoder = new TextDecoder();

/** A name of an interface, as the kernel has them (dev_valid_name), in ASCII. */
const INTERFACE = /^(?!\.{1,2}$)[!-.0-9;-~]{1,15}$/;

function put(size: number, fill: (out: FieldWriter) => void): Uint8Array<ArrayBuffer> {
  const out = new FieldWriter(size, NATIVE);
  fill(out);
  return out.bytes;
}

/** The device section, in this host's layout. */
export function writeDevice(device: MovedDevice): Uint8Array<ArrayBuffer> {
  return put(120, (out) => {
    out.take(device.mac, 6);
    out.take(device.ourMac, 6);
    out.take(device.address4, 16);
    out.take(device.address6, 16);
    out.take(device.linkLocal6, 16);
    out.take(device.lease4, 16);
    out.take(device.lease6, 16);
    out.u8(device.lease4Prefix);
    out.u8(device.lease6Prefix);
    out.skip(2);
    out.u32(device.mtu);
    out.u32(device.featuresLo);
    out.u32(device.featuresHi);
    out.skip(4);
    out.time(device.savedAt);
  });
}

/** Reads the device section. */
export function readDevice(reader: FieldReader): MovedDevice {
  reader.what = "device";
  const mac = reader.take(6);
  const ourMac = reader.take(6);
  const address4 = readFamily(reader, "IPv4 address seen", 4);
  const address6 = readFamily(reader, "IPv6 address seen", 6);
  const linkLocal6 = readFamily(reader, "link-local address seen", 6);
  if (!isUnspecified(linkLocal6) && !isLinkLocal(linkLocal6)) {
    throw reader.error("link-local address seen", "one of fe80::/10", "another");
  }
  const lease4 = readFamily(reader, "IPv4 address of the lease", 4);
  const lease6 = readFamily(reader, "IPv6 address of the lease", 6);
  const lease4Prefix = reader.range("IPv4 prefix length", reader.u8(), 0, 32);
  const lease6Prefix = reader.range("IPv6 prefix length", reader.u8(), 0, 128);
  reader.skip(2);
  const mtu = reader.range("MTU", reader.u32(), 0, 65535);
  const featuresLo = reader.u32();
  const featuresHi = reader.u32();
  reader.skip(4);
  const savedAt = reader.time("time of saving");
  const addresses = { address4, address6, linkLocal6 };
  const lease = { lease4, lease4Prefix, lease6, lease6Prefix };
  const limits = { mtu, featuresLo, featuresHi };
  return { mac, ourMac, ...addresses, ...lease, ...limits, savedAt };
}

/** An address of the family, or 16 bytes of 0. */
function readFamily(reader: FieldReader, field: string, family: 4 | 6): Uint8Array {
  const address = reader.take(16);
  if (isUnspecified(address) || isIPv4(address) === (family === 4)) return address;
  throw reader.error(field, `an IPv${family} address`, "one of the other family");
}

/** Records of TCP connections, in this host's layout. */
export function writeTcp(records: readonly MovedTcp[]): Uint8Array<ArrayBuffer> {
  return put(records.length * 104, (out) => {
    for (const record of records) {
      if (record.lost === "") writeConnection(out, record);
      else {
        out.u32(record.flow);
        out.skip(12);
        out.u32(reasonBytes(record.lost).length);
        out.skip(84);
      }
    }
  });
}

function writeConnection(out: FieldWriter, record: MovedTcp): void {
  out.u32(record.flow);
  out.u8(record.state);
  out.u8(record.options);
  out.u8(record.sendScale);
  out.u8(record.receiveScale);
  writeSocketWords(out, record);
  out.u32(record.keepIdle);
  out.u32(record.keepInterval);
  out.u32(record.keepCount);
  out.u32(record.gap);
  out.u32(record.gapEnd);
  out.u32(record.recover);
  writeName(out, record.device);
  out.time(record.idle);
}

/** A reason as it is sent: not long, and never half a character. */
export function reasonBytes(text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(MAX_REASON);
  const { written } = new TextEncoder().encodeInto(text, bytes);
  return bytes.subarray(0, written);
}

function writeName(out: FieldWriter, name: string): void {
  if (name === "") return out.skip(NAME_SIZE);
  const bytes = new TextEncoder().encode(name).subarray(0, NAME_SIZE - 1);
  out.take(bytes);
  out.skip(NAME_SIZE - bytes.length);
}

/** A record of a connection, before its queues are known. */
export interface TcpRecord {
  readonly tcp: Omit<MovedTcp, "lost" | "sendQueue" | "receiveQueue">;
  readonly sendLength: number;
  readonly receiveLength: number;
}

/** Reads one record. */
export function readTcpRecord(reader: FieldReader): TcpRecord {
  const flow = reader.u32();
  const state = reader.u8();
  const lost = state === 0;
  if (!lost && !MOVED_STATES.includes(state)) {
    throw reader.error("state", `0 or one of ${MOVED_STATES.join(", ")}`, state);
  }
  const options = reader.u8();
  const sendScale = reader.range("window scale of the peer", reader.u8(), 0, MAX_SCALE);
  const receiveScale = reader.range("window scale", reader.u8(), 0, MAX_SCALE);
  const { words, sendLength, receiveLength } = readSocketWords(
    reader,
    lost ? REASON : undefined,
  );
  // The fields are read in the order they stand in here.
  const tcp = {
    flow,
    state,
    options,
    sendScale,
    receiveScale,
    ...words,
    keepIdle: reader.range("keep-alive time", reader.u32(), 0, 32767),
    keepInterval: reader.range("keep-alive interval", reader.u32(), 0, 32767),
    keepCount: reader.range("keep-alive probes", reader.u32(), 0, 127),
    gap: reader.range("gap", reader.u32(), 0, 1),
    gapEnd: reader.u32(),
    recover: reader.u32(),
    device: readName(reader, true),
    idle: readIdle(reader),
  };
  return { tcp, sendLength, receiveLength };
}

function readIdle(reader: FieldReader): number {
  const idle = reader.time("idle time");
  return reader.range("idle time", idle, 0, Number.MAX_SAFE_INTEGER);
}

/** The record with its queues, or with the reason why it is lost. */
export function takeQueues(
  { tcp, sendLength, receiveLength }: TcpRecord,
  queues: FieldReader,
): MovedTcp {
  const sendQueue = queues.view(sendLength);
  const receiveQueue = queues.view(receiveLength);
  if (tcp.state !== 0) return { ...tcp, lost: "", sendQueue, receiveQueue };
  const text = decoder.decode(sendQueue).replace(/[^\p{L}\p{N}\p{P}\p{S} ]/gu, "?");
  return { ...tcp, lost: text, sendQueue: NONE.subarray(0, 0), receiveQueue };
}

/** Reads a name of an interface; none, where there need not be one, is "". */
function readName(reader: FieldReader, mayLack: boolean): string {
  const bytes = reader.view(NAME_SIZE);
  if (mayLack && bytes[0] === 0) return "";
  const end = bytes.indexOf(0);
  const name = String.fromCharCode(...bytes.subarray(0, end < 0 ? NAME_SIZE : end));
  if (INTERFACE.test(name)) return name;
  throw reader.error("interface", "a name of 1 to 15 characters", printable(name));
}

/** In quotes, and without what a terminal would obey. */
function printable(name: string): string {
  return `'${name.replace(/[^ -~]/g, "?")}'`;
}

/** Records of UDP or ping flows, in this host's layout. */
export function writeDatagramFlows(
  flows: readonly MovedDatagramFlow[],
): Uint8Array<ArrayBuffer> {
  return put(flows.length * 16, (out) => {
    for (const { flow, idle } of flows) {
      out.u32(flow);
      out.skip(4);
      out.time(idle);
    }
  });
}

/** Reads one record. */
export function readDatagramFlow(reader: FieldReader): MovedDatagramFlow {
  const flow = reader.u32();
  reader.skip(4);
  return { flow, idle: readIdle(reader) };
}

/** Records of forwarding rules, in this host's layout. */
export function writeRules(rules: readonly MovedRule[]): Uint8Array<ArrayBuffer> {
  return put(rules.length * 60, (out) => {
    for (const rule of rules) {
      const bits = (rule.address === undefined ? 0 : RuleBit.address) |
        (rule.interface === undefined ? 0 : RuleBit.device) |
        (rule.guestAddress === undefined ? 0 : RuleBit.guestAddress) |
        (rule.weak ? RuleBit.weak : 0);
      out.u8(Protocol[rule.protocol]);
      out.u8(bits);
      out.skip(2);
      out.u16(rule.first);
      out.u16(rule.last);
      out.u16(rule.guestFirst);
      out.skip(2);
      out.take(rule.address ?? NONE, 16);
      out.take(rule.guestAddress ?? NONE, 16);
      writeName(out, rule.interface ?? "");
    }
  });
}

/** Reads one record. */
export function readRule(reader: FieldReader): MovedRule {
  const number = reader.u8();
  if (number !== Protocol.tcp && number !== Protocol.udp) {
    throw reader.error("protocol", "6 or 17", number);
  }
  const protocol = number === Protocol.tcp ? "tcp" : "udp";
  const bits = reader.range("bits", reader.u8(), 0, 15);
  reader.skip(2);
  const first = reader.range("first port", reader.u16(), 1, 65535);
  const last = reader.range("last port", reader.u16(), first, 65535);
  const most = 65535 - (last - first);
  const guestFirst = reader.range("port of the guest", reader.u16(), 1, most);
  reader.skip(2);
  const address = reader.take(16);
  const guestAddress = reader.take(16);
  const device = readName(reader, (bits & RuleBit.device) === 0);
  const both = RuleBit.address | RuleBit.guestAddress;
  if ((bits & both) === both && isIPv4(address) !== isIPv4(guestAddress)) {
    throw reader.error("addresses", "both of one family", "one of each");
  }
  return {
    protocol,
    ...(bits & RuleBit.address) === 0 ? {} : { address },
    ...(bits & RuleBit.device) === 0 ? {} : { interface: device },
    first,
    last,
    guestFirst,
    ...(bits & RuleBit.guestAddress) === 0 ? {} : { guestAddress },
    weak: (bits & RuleBit.weak) !== 0,
  };
}
