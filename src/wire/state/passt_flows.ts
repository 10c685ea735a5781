/**
 * Between passt's flow and socket records and what vuelo moves.
 *
 * Where passt errs in what it writes, that is put right as far as the stream allows:
 *
 * - While its own FIN is unacknowledged (FIN-WAIT-1, LAST-ACK, CLOSING), it gives a first
 *   number of the send queue that is one too high.
 * - After the peer's FIN (CLOSE-WAIT, LAST-ACK) it leaves out the last byte of a receive
 *   queue. That is nowhere else: the connection is lost, rather than that bytes of it are.
 *
 * What vuelo writes is right, so a reader must tell both apart. Of the option bits in a
 * socket record vuelo sets two that Linux gives to TCP Fast Open, which passt never uses:
 * SYN_DATA and TFO_CHILD together. passt looks at other bits, and keeps none of them.
 */
import { isIPv4, isUnspecified, mapIPv4 } from "../address.ts";
import { bytesUnderWay, checkEntries, lose, withoutHoles } from "./check.ts";
import { entryBytes } from "./entries.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord } from "./flow_entry.ts";
import { finIsOut, KernelState, peerHasClosed } from "./kernel_tcp.ts";
import type { MovedDevice, MovedState, MovedTcp } from "./model.ts";
import {
  type PasstContent,
  type PasstDevice,
  type PasstFlow,
  type PasstSocket,
  Pif,
} from "./passt.ts";
import { MOVED_STATES } from "./records.ts";
import { TcpFlow, TcpState, TcpWord } from "./tcp_entry.ts";

/** Bits of a flow record. */
export const PasstEvent = {
  established: 1 << 2,
  sockFinReceived: 1 << 3,
  sockFinSent: 1 << 4,
  tapFinReceived: 1 << 5,
  tapFinSent: 1 << 6,
  tapFinAcked: 1 << 7,
} as const;
export const PasstFlag = {
  stalled: 1 << 0,
  activeClose: 1 << 2,
  ackToTapDue: 1 << 3,
  ackFromTapDue: 1 << 4,
} as const;

/** Of the options in a socket record: written by vuelo. */
export const WRITTEN_BY_VUELO = 0x20 | 0x80;

const MAC_UNKNOWN = new Uint8Array(6);
const EMPTY = new Uint8Array();
const NO_SOCKET: PasstSocket = {
  sendSequence: 0,
  receiveSequence: 0,
  notSent: 0,
  mss: 0,
  timestamp: 0,
  sndWl1: 0,
  sndWnd: 0,
  maxWindow: 0,
  rcvWnd: 0,
  rcvWup: 0,
  sendScale: 0,
  receiveScale: 0,
  state: 0,
  options: 0,
  sendQueue: EMPTY,
  receiveQueue: EMPTY,
};

/**
 * What passt's stream moves, complete.
 *
 * @throws StateError if a flow's numbers cannot be
 */
export function fromPasst(content: PasstContent & { device: PasstDevice }): MovedState {
  const { device, flows, sockets } = content;
  const entries = new Int32Array(flows.length * FLOW_WORDS);
  flows.forEach((flow, i) => fillEntry(entries, i, flow, sockets[i]));
  checkEntries(entries, (i) => flows[i].offset);
  const tcp = flows.map((flow, i) =>
    withoutHoles(entries, toRecord(entries, i, flow, sockets[i]))
  );
  return { device: toDevice(device), entries, tcp, udp: [], ping: [], rules: [] };
}

function toDevice({ mac, address4, address6, linkLocal6 }: PasstDevice): MovedDevice {
  const none = new Uint8Array(16);
  return {
    mac,
    address4: address4.some((byte) => byte !== 0) ? mapIPv4(address4) : none,
    address6,
    linkLocal6,
    mtu: 0,
    featuresLo: 0,
    featuresHi: 0,
    lease4: none,
    lease4Prefix: 0,
    lease6: none,
    lease6Prefix: 0,
    ourMac: MAC_UNKNOWN,
    savedAt: 0,
  };
}

/** The number that is not before the other, modulo 2^32. */
function later(a: number, b: number): number {
  return (a - b | 0) >= 0 ? a : b;
}

function fillEntry(
  entries: Int32Array<ArrayBuffer>,
  index: number,
  flow: PasstFlow,
  socket: PasstSocket | undefined,
): void {
  const inbound = flow.interfaces[0] === Pif.host;
  const guest = flow.sides[inbound ? 1 : 0];
  const host = flow.sides[inbound ? 0 : 1];
  const at = index * FLOW_WORDS;
  const bytes = entryBytes(entries).subarray(index * FLOW_SIZE);
  bytes.set(guest.our, FlowWord.guestOur * 4);
  bytes.set(guest.endpoint, FlowWord.guestEndpoint * 4);
  bytes.set(host.our, FlowWord.hostOur * 4);
  bytes.set(host.endpoint, FlowWord.hostEndpoint * 4);
  const words = entries.subarray(at, at + FLOW_WORDS);
  words[FlowWord.guestPorts] = guest.ourPort << 16 | guest.endpointPort;
  words[FlowWord.hostPorts] = host.ourPort << 16 | host.endpointPort;
  words[FlowWord.fd] = -1;
  // The guest may have acknowledged more than passt meant to have sent after going back.
  const next = later(flow.seqTo, flow.ackFrom);
  words[TcpWord.seqToGuest] = words[TcpWord.seqMax] = next;
  words[TcpWord.ackFromGuest] = flow.ackFrom;
  words[TcpWord.seqFromGuest] = later(flow.seqFrom, flow.ackTo);
  words[TcpWord.ackToGuest] = flow.ackTo;
  words[TcpWord.isnFromGuest] = inbound ? flow.initFrom - 1 : flow.initFrom;
  words[TcpWord.windows] = flow.windowTo << 16 | flow.windowFrom;
  words[TcpWord.counts] = flow.retries << 16 | flow.scaleTo << 8 | flow.scaleFrom;
  words[TcpWord.mss] = flow.mss;
  words[FlowWord.kind] = FlowKind.tcp | TcpState.established << 8 |
    (inbound ? TcpFlow.inbound : 0) | flagsOf(flow, socket, next);
}

function flagsOf(
  { events, flags, ackFrom }: PasstFlow,
  socket: PasstSocket | undefined,
  next: number,
): number {
  const has = (bit: number) => (events & bit) !== 0;
  const peerFin = has(PasstEvent.sockFinReceived) ||
    socket !== undefined && peerHasClosed(socket.state);
  const acked = has(PasstEvent.tapFinAcked) ||
    has(PasstEvent.tapFinSent) && next === ackFrom;
  const sent = has(PasstEvent.tapFinSent) || acked;
  const guestFin = has(PasstEvent.tapFinReceived) || has(PasstEvent.sockFinSent);
  return TcpFlow.readable |
    (peerFin ? TcpFlow.peerFin : 0) |
    (sent ? TcpFlow.finToGuest | TcpFlow.finSent : 0) |
    (acked ? TcpFlow.finToGuestAcked : 0) |
    (guestFin ? TcpFlow.guestFin : 0) |
    ((flags & PasstFlag.ackToTapDue) !== 0 ? TcpFlow.ackDue : 0);
}

function toRecord(
  entries: Int32Array,
  index: number,
  flow: PasstFlow,
  socket: PasstSocket | undefined,
): MovedTcp {
  const record = baseRecord(index, flow, socket);
  if (socket === undefined) return lose(record, "the source could not save it");
  if ((flow.events & PasstEvent.established) === 0) {
    return lose(record, "it was not established");
  }
  const guestFin = (entries[index * FLOW_WORDS] & TcpFlow.guestFin) !== 0;
  const failed = socket.state === KernelState.close && !guestFin;
  if (failed || !MOVED_STATES.includes(socket.state)) {
    return lose(record, `its socket was in state ${socket.state}`);
  }
  if ((socket.options & WRITTEN_BY_VUELO) === WRITTEN_BY_VUELO) {
    return fromVuelo(record, socket, entries);
  }
  return fromPasstSocket({ ...record, sendsOn: true }, socket, entries, guestFin);
}

/** What needs no correction; zeros if there is no socket record. */
function baseRecord(
  index: number,
  flow: PasstFlow,
  socket: PasstSocket = NO_SOCKET,
): MovedTcp {
  return {
    flow: index,
    lost: "",
    state: socket.state,
    options: socket.options & ~WRITTEN_BY_VUELO,
    sendScale: socket.sendScale,
    receiveScale: socket.receiveScale,
    sendSequence: socket.sendSequence,
    receiveSequence: socket.receiveSequence,
    notSent: socket.notSent,
    mss: socket.mss,
    timestamp: socket.timestamp,
    sndWl1: socket.sndWl1,
    sndWnd: socket.sndWnd,
    maxWindow: socket.maxWindow,
    rcvWnd: socket.rcvWnd,
    rcvWup: socket.rcvWup,
    keepIdle: 0,
    keepInterval: 0,
    keepCount: 0,
    device: "",
    idle: 0,
    gap: 0,
    gapEnd: flow.seqFrom,
    recover: later(flow.seqTo, flow.ackFrom) >>> 0,
    sendQueue: socket.sendQueue,
    receiveQueue: socket.receiveQueue,
  };
}

/** What a state stands for where the peer's FIN has come. */
const CLOSED_AS: Readonly<Record<number, number>> = {
  [KernelState.finWait1]: KernelState.lastAck,
  [KernelState.finWait2]: KernelState.close,
  [KernelState.established]: KernelState.closeWait,
};

/** Undoes what {@link socketOf} does. */
function fromVuelo(
  record: MovedTcp,
  socket: PasstSocket,
  entries: Int32Array,
): MovedTcp {
  const closed = hasPeerFin(entries, record);
  const finWait2 = socket.state === KernelState.finWait2;
  const state = closed ? CLOSED_AS[socket.state] ?? socket.state : socket.state;
  return {
    ...record,
    state,
    sendSequence: socket.sendSequence + (finWait2 ? 1 : 0) >>> 0,
    receiveSequence: socket.receiveSequence - (closed ? 1 : 0) >>> 0,
  };
}

function fromPasstSocket(
  record: MovedTcp,
  socket: PasstSocket,
  entries: Int32Array,
  guestFin: boolean,
): MovedTcp {
  const { state } = socket;
  const corrected = {
    ...record,
    state: withFin(state, guestFin),
    sendSequence: socket.sendSequence - (finIsOut(state) ? 1 : 0) >>> 0,
  };
  if (state === KernelState.closing || state === KernelState.close) {
    return { ...corrected, receiveSequence: socket.receiveSequence - 1 >>> 0 };
  }
  if (!peerHasClosed(state)) return corrected;
  const left = bytesLeftOut(entries, record);
  if (left > 0) {
    const bytes = left === 1 ? "the last byte" : `the last ${left} bytes`;
    return lose(record, `passt left out ${bytes} before the peer's FIN`);
  }
  // passt counts the FIN as received, but takes it out of the window.
  return {
    ...corrected,
    receiveSequence: socket.receiveSequence - 1 >>> 0,
    rcvWnd: Math.max(0, socket.rcvWnd - 1),
    rcvWup: socket.rcvWup + 1 >>> 0,
  };
}

/** The state with the guest's FIN, which passt may not have passed on yet. */
function withFin(state: number, guestFin: boolean): number {
  if (!guestFin) return state;
  if (state === KernelState.established) return KernelState.finWait1;
  return state === KernelState.closeWait ? KernelState.lastAck : state;
}

/** How many bytes at the end of a receive queue, which a FIN follows, passt left out. */
function bytesLeftOut(entries: Int32Array, record: MovedTcp): number {
  const at = record.flow * FLOW_WORDS;
  const flags = entries[at];
  const sent = bytesUnderWay(entries, record.flow);
  const held = record.receiveQueue.length;
  // Once the FIN is out to the guest, all bytes before it are known.
  if ((flags & TcpFlow.finSent) !== 0) return sent - held;
  if (held > 0) return 1;
  const closed = (entries[at + TcpWord.windows] & 0xffff) === 0;
  return sent > 0 ? sent : closed ? 1 : 0;
}

/**
 * Whether the peer's FIN has come. A socket that was restored before may not know it: the
 * kernel has no way to restore CLOSE-WAIT.
 */
function hasPeerFin(entries: Int32Array, record: MovedTcp): boolean {
  const flags = entries[record.flow * FLOW_WORDS];
  return (flags & TcpFlow.peerFin) !== 0 || peerHasClosed(record.state);
}

/** The device for passt, which knows addresses only. */
export function passtDevice(device: MovedDevice): PasstDevice {
  const { mac, address4, address6, linkLocal6 } = device;
  return { mac, address4: address4.subarray(12, 16), address6, linkLocal6 };
}

/** Why a connection cannot be told to passt; "" if it can. */
export function whyNotPasst(entries: Int32Array<ArrayBuffer>, record: MovedTcp): string {
  if (record.lost !== "") return record.lost;
  const at = record.flow * FLOW_WORDS;
  const bytes = entryBytes(entries);
  const hostOur = (at + FlowWord.hostOur) * 4;
  if (((entries[at] >>> 8) & 0xff) !== TcpState.established) {
    return "it is not established towards the guest";
  }
  if ((entries[at] & TcpFlow.failed) !== 0) return "its socket has failed";
  if (entries[at + TcpWord.scope] !== 0 && !isIPv4(bytes, hostOur)) {
    return "its peer has a link-local address";
  }
  if (isUnspecified(bytes, hostOur) || entries[at + FlowWord.hostPorts] >>> 16 === 0) {
    return "its local address is not known";
  }
  if (isIPv4(bytes, hostOur) !== isIPv4(bytes, (at + FlowWord.guestOur) * 4)) {
    return "it is of another family towards its peer than towards the guest";
  }
  return "";
}

/** The flow record of a connection that {@link whyNotPasst} has nothing against. */
export function flowOf(entries: Int32Array<ArrayBuffer>, record: MovedTcp): PasstFlow {
  const at = record.flow * FLOW_WORDS;
  const words = entries.subarray(at, at + FLOW_WORDS);
  const bytes = entryBytes(entries).subarray(at * 4, at * 4 + FLOW_SIZE);
  const side = (ports: number, our: number, endpoint: number) => ({
    our: bytes.subarray(our * 4, our * 4 + 16),
    endpoint: bytes.subarray(endpoint * 4, endpoint * 4 + 16),
    ourPort: words[ports] >>> 16,
    endpointPort: words[ports] & 0xffff,
  });
  const guest = side(FlowWord.guestPorts, FlowWord.guestOur, FlowWord.guestEndpoint);
  const host = side(FlowWord.hostPorts, FlowWord.hostOur, FlowWord.hostEndpoint);
  const inbound = (words[FlowWord.kind] & TcpFlow.inbound) !== 0;
  const counts = words[TcpWord.counts];
  const closed = hasPeerFin(entries, record);
  const queue = Math.max(65536, record.sendQueue.length);
  return {
    offset: 0,
    interfaces: inbound ? [Pif.host, Pif.guest] : [Pif.guest, Pif.host],
    sides: inbound ? [host, guest] : [guest, host],
    retries: Math.min(7, (counts >>> 16) & 0xff),
    scaleFrom: counts & 0xff,
    scaleTo: (counts >>> 8) & 0xff,
    events: eventsOf(words[FlowWord.kind], closed),
    mss: Math.max(4, words[TcpWord.mss] & ~3),
    sendBuffer: Math.ceil(queue / 256),
    flags: passtFlags(words, record, closed),
    // Of no acknowledgement that may come next, so that it is not taken for a repetition.
    duplicate: (words[TcpWord.seqFromGuest] ^ 0x80) & 0xff,
    windowFrom: words[TcpWord.windows] & 0xffff,
    windowTo: words[TcpWord.windows] >>> 16,
    seqTo: words[TcpWord.seqToGuest],
    ackFrom: words[TcpWord.ackFromGuest],
    seqFrom: words[TcpWord.seqFromGuest],
    ackTo: words[TcpWord.ackToGuest],
    initFrom: words[TcpWord.isnFromGuest] + (inbound ? 1 : 0),
  };
}

function eventsOf(flags: number, closed: boolean): number {
  const guestFin = PasstEvent.tapFinReceived | PasstEvent.sockFinSent;
  return PasstEvent.established |
    (closed ? PasstEvent.sockFinReceived : 0) |
    ((flags & TcpFlow.guestFin) !== 0 ? guestFin : 0) |
    ((flags & TcpFlow.finToGuest) !== 0 ? PasstEvent.tapFinSent : 0) |
    ((flags & TcpFlow.finToGuestAcked) !== 0 ? PasstEvent.tapFinAcked : 0);
}

function passtFlags(words: Int32Array, record: MovedTcp, closed: boolean): number {
  const kind = words[FlowWord.kind];
  const flying = words[TcpWord.seqToGuest] - words[TcpWord.ackFromGuest] | 0;
  const owed = (kind & TcpFlow.ackDue) !== 0 ||
    words[TcpWord.ackToGuest] !== words[TcpWord.seqFromGuest];
  const first = (kind & TcpFlow.guestFin) !== 0 && !closed;
  return (record.receiveQueue.length > flying ? PasstFlag.stalled : 0) |
    (first ? PasstFlag.activeClose : 0) |
    (owed ? PasstFlag.ackToTapDue : 0) |
    (flying > 0 ? PasstFlag.ackFromTapDue : 0);
}

/** The state that passt is told. */
function toldState(state: number, closed: boolean): number {
  if (finIsOut(state)) return KernelState.finWait1;
  if (state === KernelState.close) return KernelState.finWait2;
  return closed && state === KernelState.established ? KernelState.closeWait : state;
}

/**
 * The socket record, so that passt makes the same connection of it: its socket sends the
 * FIN of a FIN-WAIT-1 (again), and in FIN-WAIT-2 counts one without sending it. In
 * LAST-ACK and CLOSING it would forget the FIN, so these are told as FIN-WAIT-1, and for
 * the same reason CLOSE as FIN-WAIT-2. The peer's FIN counts as received.
 */
export function socketOf(
  entries: Int32Array<ArrayBuffer>,
  record: MovedTcp,
): PasstSocket {
  const closed = hasPeerFin(entries, record);
  const state = toldState(record.state, closed);
  return {
    ...record,
    state,
    sendSequence: record.sendSequence - (state === KernelState.finWait2 ? 1 : 0),
    receiveSequence: record.receiveSequence + (closed ? 1 : 0),
    options: record.options | WRITTEN_BY_VUELO,
  };
}
