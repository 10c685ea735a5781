/** Datagrams for the guest, from the flows' own sockets and from listening ones. */
import { Errno, errno } from "../../ffi/errno.ts";
import {
  IP_PKTINFO,
  IPV6_PKTINFO,
  lastAddress,
  readAddress,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_GRO,
} from "../../ffi/socket.ts";
import { GsoType } from "../virtio/net_header.ts";
import { isIPv4, isLinkLocal, isUnspecified } from "../wire/address.ts";
import { Protocol } from "../wire/ip.ts";
import { IPV4_HEADER_SIZE } from "../wire/ipv4.ts";
import { IPV6_HEADER_SIZE } from "../wire/ipv6.ts";
import { UDP_CHECKSUM_AT, UDP_HEADER_SIZE, writeUdp } from "../wire/udp.ts";
import { flowPseudoSum, HEAD4, HEAD6, isFlow4, writeFlowHead } from "./frame_head.ts";
import { Bound } from "./bounds.ts";
import { BATCH, NO_BUFFER, TOO_BIG } from "./receive_batch.ts";
import {
  FLOW_SIZE,
  FLOW_WORDS,
  FlowKind,
  FlowWord,
  KEY_ENDPOINT_AT,
  KEY_OUR_AT,
  Side,
} from "./table.ts";
import { ETHERNET_PAYLOAD, UdpWord } from "./udp_layout.ts";
import { admitDatagrams, type UdpListener, type UdpShared } from "./udp_shared.ts";

/** Failures in one turn that no error queue tells more about. */
const ERRORS = 8;
const CMSG_HEADER = 16;
/** :: and 0.0.0.0, for a local address that the kernel did not tell. */
const NOWHERE4 = new Uint8Array(16);
NOWHERE4[10] = NOWHERE4[11] = 0xff;

const local = new Uint8Array(16);
let segment = 0;
const inward = new Uint8Array(16);

/** Whether a socket has been emptied; if not, the caller goes on later. */
export const Received = { all: 0, more: 1 } as const;

function headLength(four: boolean): number {
  return (four ? HEAD4 : HEAD6) + UDP_HEADER_SIZE;
}

/** What datagrams joined are together at most: what one IP packet carries. */
const JOINED4 = 65_535 - IPV4_HEADER_SIZE - UDP_HEADER_SIZE;
const JOINED6 = 65_535 - UDP_HEADER_SIZE;

/** Payload of the largest datagram that fits the guest's MTU. */
function largest(u: UdpShared, four: boolean): number {
  const header = (four ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE) + UDP_HEADER_SIZE;
  return u.context.mtu - header;
}

/** Room for a few more than came lately saves the call that finds nothing. */
function nextHint(hint: number, wanted: number, got: number): number {
  if (got >= wanted) return Math.min(BATCH - 1, hint * 2 + 1);
  return got + 1 < hint ? (hint + got + 1) >> 1 : hint;
}

/** Room that datagrams as long as lately need, and those that an Ethernet carries. */
function nextSize(size: number, longest: number): number {
  if (longest >= size) return longest;
  const less = size - ((size - longest) >> 3);
  return less > ETHERNET_PAYLOAD ? less : Math.min(size, ETHERNET_PAYLOAD);
}

/** Takes what waits in the socket of a flow. */
export function receiveFlow(u: UdpShared, flow: number): number {
  const at = flow * FLOW_WORDS;
  const fd = u.words[at + FlowWord.fd];
  const four = isFlow4(u.words, flow);
  const head = headLength(four);
  const { batch } = u;
  const { sink } = u.context;
  batch.names = false;
  batch.control = u.joined;
  const limit = u.joined ? (four ? JOINED4 : JOINED6) : largest(u, four);
  u.taken = 0;
  segment = 0;
  let failures = 0;
  for (let total = 0; total < u.turn;) {
    const hint = u.words[at + UdpWord.hint];
    const size = u.words[at + UdpWord.size];
    const reserved = batch.reserve(hint + 1, head, limit, size);
    if (reserved === 0) {
      sink.end();
      return Received.more;
    }
    const got = batch.receive(fd);
    if (got < 0) {
      const number = errno();
      sink.end();
      if (number === Errno.EAGAIN) return Received.all;
      const errors = u.errors.drain(flow, fd); // of what was sent: there may be datagrams
      if (errors === 0 && ++failures > ERRORS) return Received.all;
      total += errors;
      continue;
    }
    u.taken += got;
    for (let i = 0; i < got; i++) {
      if (u.joined) readControl(u, i, four);
      deliver(u, flow, i, head, 0, four);
    }
    sink.end();
    u.words[at + UdpWord.hint] = nextHint(hint, reserved, got);
    u.words[at + UdpWord.size] = nextSize(size, batch.longest);
    if (got < reserved) return Received.all;
    total += got;
  }
  return Received.more;
}

/** Commits datagram `i` of the batch as one of `flow`. */
function deliver(
  u: UdpShared,
  flow: number,
  i: number,
  head: number,
  shift: number,
  four: boolean,
): void {
  const { batch, context } = u;
  const size = segment > 0 ? segment : batch.length(i);
  const fits = !batch.truncated(i) && size <= largest(u, four);
  const frame = fits ? batch.frameFor(i, shift) : TOO_BIG;
  if (frame < 0) {
    if (frame === NO_BUFFER) context.drops.noBuffer++;
    else context.drops.tooBig++;
    return;
  }
  const payload = batch.length(i);
  const length = UDP_HEADER_SIZE + payload;
  const { sink } = context;
  const transportAt = writeFlowHead(context, flow, Protocol.udp, length);
  const ports = u.words[flow * FLOW_WORDS + FlowWord.guestPorts];
  writeUdp(sink.head, transportAt, ports >>> 16, ports & 0xffff, length);
  const partial = flowPseudoSum(sink.head, transportAt, Protocol.udp, length);
  sink.head.setUint16(transportAt + UDP_CHECKSUM_AT, partial);
  const type = segment > 0 && segment < payload ? GsoType.udpL4 : GsoType.none;
  sink.commit(frame, head, payload, transportAt, UDP_CHECKSUM_AT, type, segment);
  u.counters.received++;
  u.touch(flow);
}

/**
 * Takes what waits in a listening socket; flows are made for senders not known yet. The
 * socket may be of both families, whose headers differ in length: room is made for the
 * family that came last, and payload of the other is moved.
 */
export function receiveListener(u: UdpShared, index: number): number {
  const listener = u.listeners[index];
  if (listener === undefined) return Received.all;
  const { batch } = u;
  const { sink } = u.context;
  batch.names = batch.control = true;
  u.taken = 0;
  let failures = 0;
  for (let total = 0; total < u.turn;) {
    const { hint } = listener;
    const shift = listener.four ? 0 : HEAD6 - HEAD4;
    const { size } = listener;
    const limit = u.joined ? JOINED4 : largest(u, true);
    const wanted = batch.reserve(hint + 1, headLength(true), limit, size, shift);
    if (wanted === 0) {
      sink.end();
      return Received.more;
    }
    const got = batch.receive(listener.fd);
    if (got < 0) {
      const number = errno();
      sink.end();
      if (number === Errno.EAGAIN) return Received.all;
      const errors = u.errors.drainListener(listener.fd, listener.port);
      if (errors === 0 && ++failures > ERRORS) return Received.all;
      total += errors;
      continue;
    }
    u.taken += got;
    for (let i = 0; i < got; i++) takeFrom(u, index, listener, i);
    sink.end();
    listener.hint = nextHint(hint, wanted, got);
    listener.size = nextSize(size, batch.longest + shift);
    if (got < wanted) return Received.all;
    total += got;
  }
  return Received.more;
}

/** Hands datagram `i`, which came through a listening socket, to the guest. */
function takeFrom(u: UdpShared, index: number, listener: UdpListener, i: number): void {
  if (!readAddress(u.batch.view, u.batch.nameAt(i))) return;
  const four = isIPv4(lastAddress.bytes);
  const flow = senderOf(u, index, listener, i, four);
  if (flow < 0) return;
  listener.four = four;
  deliver(u, flow, i, headLength(four), four ? 0 : HEAD6 - HEAD4, four);
}

/** The flow of datagram `i`'s sender, or -1 if there can be none. */
function senderOf(
  u: UdpShared,
  index: number,
  listener: UdpListener,
  i: number,
  four: boolean,
): number {
  const { table } = u.context;
  readControl(u, i, four);
  const bytes = table.keyBytes;
  for (let b = 0; b < 16; b++) {
    bytes[KEY_OUR_AT + b] = local[b];
    bytes[KEY_ENDPOINT_AT + b] = lastAddress.bytes[b];
  }
  table.key[1] = (listener.port << 16) | lastAddress.port;
  const flow = table.find(FlowKind.udp, Side.host);
  if (flow >= 0) return flow;
  return accept(u, index, listener, four);
}

/**
 * Reads the local address that datagram `i` was sent to into {@link local}, and into
 * {@link segment} how long each is if they are several.
 */
function readControl(u: UdpShared, i: number, four: boolean): void {
  const { batch } = u;
  const { view } = batch;
  segment = 0;
  local.set(NOWHERE4);
  if (!four) local.fill(0);
  const start = batch.controlAt(i);
  const end = start + batch.controlLength(i);
  for (let at = start; at + CMSG_HEADER <= end;) {
    const size = view.getUint32(at, true);
    if (size < CMSG_HEADER || at + size > end) return;
    const level = view.getInt32(at + 8, true);
    const type = view.getInt32(at + 12, true);
    const data = at + CMSG_HEADER;
    if (level === SOL_IP && type === IP_PKTINFO) {
      for (let b = 0; b < 4; b++) local[12 + b] = view.getUint8(data + 8 + b);
    } else if (level === SOL_IPV6 && type === IPV6_PKTINFO) {
      for (let b = 0; b < 16; b++) local[b] = view.getUint8(data + b);
    } else if (u.joined && level === SOL_UDP && type === UDP_GRO) {
      segment = view.getInt32(data, true);
    }
    at += (size + 7) & ~7;
  }
}

/** Makes a flow for the sender in lastAddress, who sent to `local`. */
function accept(
  u: UdpShared,
  index: number,
  listener: UdpListener,
  four: boolean,
): number {
  const { table, map, guest, config, drops } = u.context;
  const peer = lastAddress.bytes;
  const peerPort = lastAddress.port;
  const { scope } = lastAddress;
  const served = four ? config.ip4 : config.ip6;
  if (served === undefined || !map.inward(peer, scope, inward)) {
    drops.socket++;
    return -1;
  }
  const used = four
    ? guest.address4
    : isLinkLocal(inward) && !isUnspecified(guest.linkLocal6)
    ? guest.linkLocal6
    : guest.address6;
  const target = listener.guestAddress ?? used;
  if (isUnspecified(target) || isIPv4(target) !== four) {
    drops.socket++; // the guest has not shown an address of this kind yet
    return -1;
  }
  const bytes = table.keyBytes;
  for (let b = 0; b < 16; b++) {
    bytes[KEY_OUR_AT + b] = inward[b];
    bytes[KEY_ENDPOINT_AT + b] = target[b];
  }
  table.key[1] = (peerPort << 16) | listener.guestPort;
  // The guest talks to this peer from this port already: to it, both are one flow.
  const known = table.find(FlowKind.udp, Side.guest);
  if (known >= 0) return known;
  const flow = admitDatagrams(u, false);
  if (flow < 0) return -1;
  const at = flow * FLOW_WORDS;
  for (let i = 0; i < 9; i++) u.words[at + FlowWord.guestPorts + i] = table.key[1 + i];
  table.bytes.set(local, flow * FLOW_SIZE + FlowWord.hostOur * 4);
  table.bytes.set(peer, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  u.words[at + FlowWord.hostPorts] = (listener.port << 16) | peerPort;
  u.words[at + UdpWord.listener] = index + 1;
  u.words[at + UdpWord.scope] = scope;
  u.start(flow);
  table.waiting.enter(flow, Bound.pendingUdp);
  table.insert(flow, Side.guest);
  table.insert(flow, Side.host);
  u.counters.accepted++;
  return flow;
}
