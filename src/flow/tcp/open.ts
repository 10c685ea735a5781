/** Opening and ending connections: connect(), accept(), RST both ways, release. */
import { Errno, errno } from "../../../ffi/errno.ts";
import { awaitReady, POLLIN } from "../../../ffi/pipe.ts";
import {
  acceptSocket,
  closeFd,
  connectSocket,
  lastAddress,
  resetOnClose,
} from "../../../ffi/socket.ts";
import { isIPv4, isLinkLocal, isUnspecified } from "../../wire/address.ts";
import { Protocol } from "../../wire/ip.ts";
import {
  tcpAcknowledgement,
  TcpFlag,
  tcpFlags,
  tcpHeaderLength,
  tcpMss,
  tcpSequence,
  tcpWindow,
  tcpWindowScale,
} from "../../wire/tcp.ts";
import { Bound } from "../bounds.ts";
import { eventData, EventKind } from "../context.ts";
import { isExhausted, noteExhausted, warnExhausted } from "../exhausted.ts";
import { isFlow4 } from "../frame_head.ts";
import { bindOutbound } from "../outbound.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, KEY_OUR_AT, Side } from "../table.ts";
import { TCP_EVENTS } from "./acknowledge.ts";
import {
  IDLE_MS,
  OUR_WINDOW_SCALE,
  RTO_SYN_MS,
  TcpFlow,
  TcpState,
  TcpWord,
} from "./layout.ts";
import { linkMss, sendReset, sendSyn } from "./segments.ts";
import { Frozen, type TcpShared } from "./shared.ts";
import { setFlowOptions } from "./spare.ts";
import { armRetransmit, FIRST_READ } from "./to_guest.ts";
import { sendStrayReset, sendUnreachable } from "./refuse.ts";

const outward = new Uint8Array(16);
const inward = new Uint8Array(16);

/** Copies the nine words of the table's key into a side of the flow. */
function copyKey(t: TcpShared, flow: number, word: number): void {
  const at = flow * FLOW_WORDS + word;
  const key = t.context.table.key;
  for (let i = 0; i < 9; i++) t.words[at + i] = key[1 + i];
}

/**
 * A segment that belongs to no flow: a SYN opens one; RST is ignored; everything else is
 * answered with RST (RFC 9293, section 3.10.7.1).
 */
export function takeStray(t: TcpShared): void {
  const { source, packet } = t.context;
  const at = packet.transportAt;
  const headerLength = tcpHeaderLength(source.head, at, packet.transportLength);
  if (headerLength < 0 || !source.need(at + headerLength)) {
    t.context.drops.malformed++;
    return;
  }
  const flags = tcpFlags(source.head, at);
  if ((flags & TcpFlag.rst) !== 0) return;
  if ((flags & (TcpFlag.syn | TcpFlag.ack | TcpFlag.fin)) === TcpFlag.syn) {
    connect(t, headerLength);
    return;
  }
  // Its last segments came on another ring, and went ahead.
  const { table } = t.context;
  if (table.ownership?.hasEnded(table.missed) === true) return;
  const length = packet.transportLength - headerLength +
    ((flags & TcpFlag.syn) !== 0 ? 1 : 0) + ((flags & TcpFlag.fin) !== 0 ? 1 : 0);
  sendStrayReset(
    t,
    tcpSequence(source.head, at),
    tcpAcknowledgement(source.head, at),
    flags,
    length,
  );
}

/**
 * An entry for a connection. Where there is no room, the oldest of those that nobody has
 * answered makes it: one of the guest's is given up in silence, and begins anew with the
 * SYN that the guest repeats; the peer of one that came in is reset.
 *
 * @param bound that counts it until it is answered
 * @returns -1 if there is no room for it
 */
function admit(t: TcpShared, bound: number): number {
  const { table } = t.context;
  const { bounds } = table;
  if (bounds.full(bound)) {
    bounds.note(bound);
    if (!giveUpOldest(t, bound)) return -1;
  }
  let flow = table.admit(FlowKind.tcp, true);
  if (flow >= 0) return flow;
  bounds.note(bounds.met);
  if (giveUpOldest(t, bound)) flow = table.admit(FlowKind.tcp, true);
  return flow;
}

function giveUpOldest(t: TcpShared, bound: number): boolean {
  const oldest = t.context.table.waiting.oldest(bound);
  if (oldest < 0 || t.frozen[oldest] !== Frozen.no) return false;
  t.context.drops.evicted++;
  if (bound === Bound.halfOpen) release(t, oldest);
  else resetPeer(t, oldest);
  return true;
}

/** The guest opens a connection: a socket does the same towards the outside. */
function connect(t: TcpShared, headerLength: number): void {
  const { context } = t;
  const { table, source, packet } = context;
  const at = packet.transportAt;
  const remotePort = table.key[1] >>> 16;
  const port = context.map.outward(
    table.keyBytes,
    KEY_OUR_AT,
    remotePort,
    Protocol.tcp,
    outward,
  );
  if (port <= 0) {
    sendStrayReset(t, tcpSequence(source.head, at), 0, TcpFlag.syn, 1);
    return;
  }
  const flow = admit(t, Bound.halfOpen);
  if (flow < 0) {
    context.drops.flows++; // the guest repeats its SYN: there may be room then
    return;
  }
  copyKey(t, flow, FlowWord.guestPorts);
  initialize(t, flow);
  const word = flow * FLOW_WORDS;
  const sequence = tcpSequence(source.head, at) | 0;
  t.words[word + TcpWord.isnFromGuest] = sequence;
  t.words[word + TcpWord.seqFromGuest] = sequence + 1;
  t.words[word + TcpWord.ackToGuest] = sequence + 1;
  takeSynOptions(t, flow, headerLength);
  // The window of a SYN is never scaled (RFC 7323, section 2.2).
  const scale = t.words[word + TcpWord.counts] & 0xff;
  t.words[word + TcpWord.windows] = tcpWindow(source.head, at) >>> scale;
  table.bytes.set(outward, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  t.words[word + FlowWord.hostPorts] = port;
  t.setState(flow, TcpState.connecting);
  table.waiting.enter(flow, Bound.halfOpen);
  table.insert(flow, Side.guest);
  const number = startConnect(t, flow, port);
  if (number !== 0) connectFailed(t, flow, number);
}

/** MSS and window scale of the guest's SYN. */
export function takeSynOptions(t: TcpShared, flow: number, headerLength: number): void {
  const { source, packet } = t.context;
  const mss = tcpMss(source.head, packet.transportAt, headerLength);
  const scale = tcpWindowScale(source.head, packet.transportAt, headerLength);
  const at = flow * FLOW_WORDS;
  const link = linkMss(t, flow);
  const fallback = packet.version === 4 ? 536 : 1220;
  const wanted = mss < 0 ? fallback : mss;
  t.words[at + TcpWord.mss] = Math.max(1, Math.min(wanted === 0 ? 536 : wanted, link));
  t.words[at + TcpWord.counts] = scale < 0 ? 0 : scale | (OUR_WINDOW_SCALE << 8);
}

/** Takes a socket and calls connect(); 0, or the error number. */
function startConnect(t: TcpShared, flow: number, port: number): number {
  const { config, epoll, table } = t.context;
  const four = isIPv4(outward);
  const fd = t.spares.take(four, four ? t.peekOffset4 : t.peekOffset6);
  if (fd === -1) return noteExhausted(errno());
  t.words[flow * FLOW_WORDS + FlowWord.fd] = fd;
  if (!bindOutbound(fd, outward, four ? config.ip4 : config.ip6)) return errno();
  const scope = isLinkLocal(outward) ? t.context.map.scope : 0;
  t.words[flow * FLOW_WORDS + TcpWord.scope] = scope;
  if (connectSocket(fd, outward, 0, port, scope) === -1) {
    const number = errno();
    if (number !== Errno.EINPROGRESS) return number;
  }
  t.sentAt[flow] = t.context.now;
  const data = eventData(EventKind.tcp, flow);
  return epoll.tryAdd(fd, TCP_EVENTS, data, table.generation(flow)) ? 0 : errno();
}

/** Fields of a flow that both directions of opening start with. */
function initialize(t: TcpShared, flow: number): void {
  const at = flow * FLOW_WORDS;
  const sequence = t.initialSequence(flow);
  t.words[at + TcpWord.seqToGuest] = sequence + 1;
  t.words[at + TcpWord.seqMax] = sequence + 1;
  t.words[at + TcpWord.ackFromGuest] = sequence;
  clearState(t, flow);
}

/** State of a flow that is not in its entry, as at the start. */
export function clearState(t: TcpShared, flow: number): void {
  t.sendBuffer[flow] = 0;
  t.pollDelay[flow] = 0;
  t.roundTrip[flow] = 0;
  t.readHint[flow] = FIRST_READ;
  t.urgent[flow] = 0;
  t.peerClosed[flow] = 0;
  t.undropped[flow] = 0;
  t.gap[flow] = 0;
  t.heardAt[flow] = t.context.now;
}

/** The outcome of connect() as the guest shall see it. */
export function connectFailed(t: TcpShared, flow: number, number: number): void {
  if (number === Errno.ECONNREFUSED || number === Errno.ECONNRESET) {
    t.counters.refused++;
    sendReset(t, flow);
  } else if (number !== Errno.ETIMEDOUT) {
    if (!sendUnreachable(t, flow, number)) sendReset(t, flow);
  }
  // A time-out is told by silence: the guest's own SYN times out as the host's did.
  release(t, flow);
}

/** The peer accepted: SYN and ACK go to the guest. */
export function connected(t: TcpShared, flow: number): void {
  t.context.table.waiting.leave(flow);
  t.roundTrip[flow] = t.context.now - t.sentAt[flow];
  t.counters.opened++;
  t.setState(flow, TcpState.synAckSent);
  const at = flow * FLOW_WORDS;
  // Its window is not scaled: the guest may send 65535 bytes at most so far.
  const scale = (t.words[at + TcpWord.counts] >>> 8) & 0xff;
  const windows = at + TcpWord.windows;
  t.words[windows] = (t.words[windows] & 0xffff) | ((0xffff >> scale) << 16);
  if (!sendSyn(t, flow)) t.pushReady(flow);
  armRetransmit(t, flow);
}

/**
 * Outcomes of {@link acceptOne}: nothing waited; one was taken; one has to wait, for want
 * of a descriptor, of memory, or of room for it.
 */
export const Accepted = { none: 0, one: 1, exhausted: 2 } as const;

/**
 * Takes one connection from a listening socket and offers it to the guest.
 *
 * @param fd of the listening socket
 * @param guestPort port of the guest that it is forwarded to
 * @param guestAddress 16 bytes, where the rule names one
 * @returns whether there may be more, see {@link Accepted}
 */
export function acceptOne(
  t: TcpShared,
  fd: number,
  guestPort: number,
  guestAddress?: Uint8Array,
): number {
  const { context } = t;
  const { table, config } = context;
  const met = boundMet(t);
  if (met >= 0) {
    if (!awaitReady(fd, POLLIN, 0)) return Accepted.none;
    table.bounds.note(met);
    return Accepted.exhausted;
  }
  const accepted = acceptSocket(fd);
  if (accepted === -1) {
    if (!isExhausted(errno())) return Accepted.none;
    warnExhausted("connections to forwarded ports wait");
    return Accepted.exhausted;
  }
  const four = isIPv4(lastAddress.bytes);
  const served = four ? config.ip4 : config.ip6;
  const flow = served === undefined ? -1 : admit(t, Bound.pendingTcp);
  if (flow < 0) {
    if (served !== undefined) context.drops.flows++;
    resetOnClose(accepted);
    closeFd(accepted);
    return Accepted.one;
  }
  const known = describeAccepted(t, flow, accepted, guestPort, guestAddress);
  if (!known || isTaken(t, flow)) {
    resetOnClose(accepted);
    closeFd(accepted);
    table.release(flow);
    return Accepted.one;
  }
  initialize(t, flow);
  offer(t, flow, accepted);
  return Accepted.one;
}

/** Enters ports, addresses and socket; whether the guest has an address for the peer. */
function describeAccepted(
  t: TcpShared,
  flow: number,
  fd: number,
  guestPort: number,
  guestAddress: Uint8Array | undefined,
): boolean {
  const { context } = t;
  const entry = flow * FLOW_SIZE;
  const word = flow * FLOW_WORDS;
  context.table.bytes.set(lastAddress.bytes, entry + FlowWord.hostEndpoint * 4);
  t.words[word + FlowWord.hostPorts] = lastAddress.port;
  const known = context.map.inward(lastAddress.bytes, lastAddress.scope, inward);
  context.table.bytes.set(inward, entry + FlowWord.guestOur * 4);
  const four = isIPv4(lastAddress.bytes);
  const target = guestAddress ?? guestTarget(t, four);
  context.table.bytes.set(target, entry + FlowWord.guestEndpoint * 4);
  t.words[word + FlowWord.guestPorts] = (lastAddress.port << 16) | guestPort;
  t.words[word + FlowWord.fd] = fd;
  t.words[word + TcpWord.scope] = lastAddress.scope;
  return known && isIPv4(target) === four;
}

/**
 * The bound for which connections are better left in the kernel's queue, as far as that
 * goes: there is no room for more, and none that could make it. A guest that has no receive
 * buffers, or has had too little time yet, may still answer them all. -1 if there is none.
 */
function boundMet(t: TcpShared): number {
  const { bounds, waiting } = t.context.table;
  const bound = bounds.full(Bound.pendingTcp) ? Bound.pendingTcp : Bound.sockets;
  if (!bounds.full(bound)) return -1;
  const oldest = waiting.oldest(Bound.pendingTcp);
  const { sink, now } = t.context;
  const late = oldest >= 0 && now - t.heardAt[oldest] >= RTO_SYN_MS;
  return late && !sink.starved ? -1 : bound;
}

/** The guest's address of the family and, if known, the scope of the peer in `inward`. */
function guestTarget(t: TcpShared, four: boolean): Uint8Array {
  const { guest } = t.context;
  if (four) return guest.address4;
  const linkLocal = isLinkLocal(inward) && !isUnspecified(guest.linkLocal6);
  return linkLocal ? guest.linkLocal6 : guest.address6;
}

/** Whether the guest has a connection with the same addresses and ports already. */
function isTaken(t: TcpShared, flow: number): boolean {
  const { table } = t.context;
  const at = flow * FLOW_WORDS + FlowWord.guestPorts;
  for (let i = 0; i < 9; i++) table.key[1 + i] = t.words[at + i];
  return table.find(FlowKind.tcp, Side.guest) >= 0;
}

/** Sends the SYN of an accepted connection. */
function offer(t: TcpShared, flow: number, fd: number): void {
  const { epoll, table } = t.context;
  const at = flow * FLOW_WORDS;
  const usable = setFlowOptions(
    fd,
    isFlow4(t.words, flow) ? t.peekOffset4 : t.peekOffset6,
  );
  t.words[at + TcpWord.mss] = linkMss(t, flow);
  t.words[at + TcpWord.counts] = OUR_WINDOW_SCALE << 8;
  t.words[at + TcpWord.windows] = (0xffff >> OUR_WINDOW_SCALE) << 16;
  t.mark(flow, TcpFlow.inbound);
  t.setState(flow, TcpState.synSent);
  table.waiting.enter(flow, Bound.pendingTcp);
  table.insert(flow, Side.guest);
  const data = eventData(EventKind.tcp, flow);
  if (!usable || !epoll.tryAdd(fd, TCP_EVENTS, data, table.generation(flow))) {
    resetPeer(t, flow);
    return;
  }
  t.counters.accepted++;
  if (!sendSyn(t, flow)) t.pushReady(flow);
  armRetransmit(t, flow);
}

/** Both sides have agreed: data may flow. */
export function becomeEstablished(t: TcpShared, flow: number): void {
  t.context.table.waiting.leave(flow);
  const at = flow * FLOW_WORDS;
  t.words[at + TcpWord.ackFromGuest] = t.words[at + TcpWord.seqToGuest];
  t.setState(flow, TcpState.established);
  t.setRetries(flow, 0);
  t.context.timers.set(flow, t.context.now + IDLE_MS);
}

/** Ends a connection that the socket reports as broken: RST to the guest. */
export function resetBoth(t: TcpShared, flow: number): void {
  t.counters.resets++;
  sendReset(t, flow);
  resetOnClose(t.words[flow * FLOW_WORDS + FlowWord.fd]);
  release(t, flow);
}

/** The guest reset the connection: so the peer learns. */
export function resetPeer(t: TcpShared, flow: number): void {
  t.counters.resets++;
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  if (fd !== -1) resetOnClose(fd);
  release(t, flow);
}

/** Frees the flow if both directions are closed and everything is acknowledged. */
export function closeFlow(t: TcpShared, flow: number): boolean {
  const done = TcpFlow.guestFin | TcpFlow.finToGuestAcked;
  const at = flow * FLOW_WORDS;
  if ((t.words[at] & done) !== done) return false;
  if (t.words[at + TcpWord.ackToGuest] !== t.words[at + TcpWord.seqFromGuest]) {
    return false;
  }
  if (t.has(flow, TcpFlow.ackDue) || t.held[flow] !== 0) return false;
  t.spares.close(t.words[at + FlowWord.fd]);
  const { table } = t.context;
  table.ownership?.end(table.hash(flow, Side.guest));
  forget(t, flow);
  return true;
}

/** Closes the socket and frees the entry. */
export function release(t: TcpShared, flow: number): void {
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  if (fd !== -1) closeFd(fd);
  forget(t, flow);
}

function forget(t: TcpShared, flow: number): void {
  const { table, timers } = t.context;
  timers.clear(flow);
  t.setFrozen(flow, Frozen.no);
  t.letGo(flow);
  table.remove(flow, Side.guest);
  t.setState(flow, 0);
  t.words[flow * FLOW_WORDS] &= 0xffff;
  table.release(flow);
}
