/**
 * Makes sockets for connections that were moved here, in the order that the kernel wants.
 * They stay frozen (freeze.ts) until thaw.ts lets them go: what ends before that ends in
 * silence, and the source goes on.
 *
 * The peer's FIN cannot be given to a new socket. Its number is counted instead, so that
 * all acknowledgements are right, and the socket is shut down for reading, so that it is
 * at its end where the data is; the kernel goes on to believe that the peer may send.
 */
import { Errno, errno, errnoName } from "../../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  bindToDevice,
  closeFd,
  connectSocket,
  getOption,
  interfaceIndex,
  IPPROTO_TCP,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  openSocket,
  resetOnClose,
  setOption,
  SHUT_RD,
  shutdownSocket,
  SO_BUF_LOCK,
  SO_OOBINLINE,
  SO_RCVLOWAT,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_LINGER2,
  TCP_MAXSEG,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
import { deafen } from "../../../ffi/socket_filter.ts";
import {
  InfoOption,
  refreshMss,
  RepairQueue,
  selectQueue,
  sendBytes,
  setAgreed,
  setQueueSequence,
  setTimestamp,
  setWindows,
} from "../../../ffi/tcp_repair.ts";
import type { FamilyConfig } from "../../config.ts";
import { log } from "../../log.ts";
import type { RepairSwitch } from "../../repair/switch.ts";
import {
  formatAddress,
  isIPv4,
  isLinkLocal,
  isLoopback,
  isUnspecified,
} from "../../wire/address.ts";
import { nameConnection } from "../../wire/state/flow_entry.ts";
import { KernelState, peerHasClosed } from "../../wire/state/kernel_tcp.ts";
import type { MovedTcp } from "../../wire/state/model.ts";
import { isFlow4 } from "../frame_head.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, Side } from "../table.ts";
import { SWITCH_TIMEOUT_MS } from "./freeze.ts";
import { TcpFlow, TcpState, TcpWord } from "./layout.ts";
import { clearState, release } from "./open.ts";
import { Frozen, type TcpShared } from "./shared.ts";

/** Larger queues and windows need more buffer than a new socket has. */
const ORDINARY_SEND = 8192;
const ORDINARY_RECEIVE = 65536;
/** Largest TCP_MAXSEG (MAX_TCP_WINDOW of the kernel). */
const LARGEST_MAXSEG = 32767;
const LARGEST_SCALE = 14;
/** TCP_MIN_MSS of the kernel, and the largest there can be. */
const SMALLEST_MSS = 88;
const LARGEST_MSS = 65535;
const LARGEST_PACKET = 65535;
/** Of an interface (IFNAMSIZ less its zero byte). */
const LONGEST_NAME = 15;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
/** What a socket of flow is set up for anew. */
const ANEW = TcpFlow.watching | TcpFlow.grown;

/** Values of {@link TcpShared.peerClosed}. */
export const PeerClosed = {
  no: 0,
  /** The FIN is counted; the kernel does not know. */
  counted: 1,
  /** All is acknowledged both ways: the socket only holds what the guest has to read. */
  ended: 2,
} as const;

/** How connections are put together again. */
export interface RestoreOptions {
  /** Connections over the host's loopback move as well: for tests within one host. */
  readonly loopback?: boolean;
}

/**
 * Makes the sockets of flows that were moved here, frozen. A connection that cannot be
 * had is lost alone, with a line in the log; its guest is told when all thaws.
 *
 * @param flows by the index that a record has as its flow: the flow whose entry has been
 *   copied from the stream, -1 if there is none
 * @returns 0, or an error number if repair mode cannot be had
 */
export function restoreTcp(
  t: TcpShared,
  records: readonly MovedTcp[],
  flows: ArrayLike<number>,
  repair: RepairSwitch | undefined,
  options: RestoreOptions = {},
): number {
  const { table } = t.context;
  const taken: MovedTcp[] = [];
  const fds: number[] = [];
  for (const record of records) {
    const flow = flows[record.flow] ?? -1;
    if (flow < 0 || table.kind(flow) !== FlowKind.tcp) continue;
    if (t.frozen[flow] !== Frozen.no || !adopt(t, flow, record)) continue;
    const fd = begin(t, flow, record, options);
    if (fd < 0) continue;
    taken.push(record);
    fds.push(fd);
  }
  for (let i = 0; i < flows.length; i++) {
    const flow = flows[i];
    if (flow < 0 || table.kind(flow) !== FlowKind.tcp) continue;
    if (t.frozen[flow] === Frozen.no) release(t, flow); // without a record
  }
  if (fds.length === 0) return 0;
  const number = repair?.switchSockets(fds, true, SWITCH_TIMEOUT_MS) ?? Errno.EPERM;
  if (number !== 0) return number;
  for (let i = 0; i < taken.length; i++) {
    const flow = flows[taken[i].flow];
    const problem = rebuild(t, flow, fds[i], taken[i]);
    if (problem !== "") lose(t, flow, problem);
  }
  return 0;
}

/** Takes an entry of the stream over; false if it is none that makes sense. */
function adopt(t: TcpShared, flow: number, record: MovedTcp): boolean {
  const { table, now } = t.context;
  const { words } = t;
  const at = flow * FLOW_WORDS;
  const state = t.state(flow);
  if (state < TcpState.synAckSent || state > TcpState.established) return false;
  if (findTwin(t, flow)) {
    log.warn(
      `${
        nameConnection(t.words, flow)
      } came twice with the guest: the second one is dropped`,
    );
    return false;
  }
  const counts = words[at + TcpWord.counts];
  const theirs = Math.min(counts & 0xff, LARGEST_SCALE);
  const ours = Math.min((counts >>> 8) & 0xff, LARGEST_SCALE);
  words[at + TcpWord.counts] = theirs | (ours << 8);
  const mss = words[at + TcpWord.mss];
  // With its headers, a segment has to be a packet.
  const most = LARGEST_PACKET - (isFlow4(words, flow) ? 40 : 60);
  if (mss < 1 || mss > most) words[at + TcpWord.mss] = mss < 1 ? 536 : most;
  words[at + FlowWord.fd] = -1;
  t.unmark(flow, ANEW);
  clearState(t, flow);
  t.heardAt[flow] = now - record.idle;
  t.gap[flow] = record.gap;
  t.gapEnd[flow] = record.gapEnd;
  t.recover[flow] = record.recover;
  const flying = words[at + TcpWord.seqToGuest] - words[at + TcpWord.ackFromGuest] | 0;
  if (state === TcpState.established && record.lost === "") {
    const fin = t.has(flow, TcpFlow.finToGuest) ? 1 : 0;
    if (flying < 0 || flying - fin > record.receiveQueue.length) {
      words[at + TcpWord.seqToGuest] = words[at + TcpWord.ackFromGuest];
      t.unmark(flow, TcpFlow.finToGuest);
    }
    if (peerHasClosed(record.state)) t.mark(flow, TcpFlow.peerFin);
  }
  table.insert(flow, Side.guest);
  t.setFrozen(flow, Frozen.kept);
  return true;
}

/** Whether another flow of the guest has the same addresses and ports. */
function findTwin(t: TcpShared, flow: number): boolean {
  const { table } = t.context;
  const at = flow * FLOW_WORDS + FlowWord.guestPorts;
  for (let i = 0; i < 9; i++) table.key[1 + i] = t.words[at + i];
  return table.find(FlowKind.tcp, Side.guest) >= 0;
}

/** A new socket for the flow, deaf; -1 if the connection is lost. */
function begin(
  t: TcpShared,
  flow: number,
  record: MovedTcp,
  options: RestoreOptions,
): number {
  const problem = record.lost !== ""
    ? `the source could not save it: ${record.lost}`
    : contradiction(record) || switchedOff(t, flow) ||
      (options.loopback === true ? "" : ownPeer(t, flow));
  if (problem !== "") {
    lose(t, flow, problem);
    return -1;
  }
  const { bytes } = t.context.table;
  const four = isIPv4(bytes, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  const fd = openSocket(four ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP);
  if (fd === -1) {
    lose(t, flow, `socket: ${errnoName(errno())}`);
    return -1;
  }
  t.words[flow * FLOW_WORDS + FlowWord.fd] = fd;
  t.context.table.ownSocket(flow);
  deafen(fd);
  return fd;
}

/** What is wrong with a record, "" if nothing. */
function contradiction(record: MovedTcp): string {
  switch (record.state) {
    case KernelState.established:
    case KernelState.finWait1:
    case KernelState.finWait2:
    case KernelState.closeWait:
    case KernelState.lastAck:
    case KernelState.closing:
    case KernelState.close:
      break;
    default:
      return `its state is ${record.state}`;
  }
  const { length } = record.sendQueue;
  if (record.notSent > length) {
    return `${record.notSent} of ${length} bytes of its send queue were never sent`;
  }
  return "";
}

/** Why the guest has no such connections here, "" if it may have. */
function switchedOff(t: TcpShared, flow: number): string {
  if (!t.context.config.tcp) return "TCP is switched off here";
  if (familyOf(t, flow) !== undefined) return "";
  return `IPv${isFlow4(t.words, flow) ? 4 : 6} is switched off here`;
}

/** What this host has configured for a connection's family. */
function familyOf(t: TcpShared, flow: number): FamilyConfig | undefined {
  const { ip4, ip6 } = t.context.config;
  return isFlow4(t.words, flow) ? ip4 : ip6;
}

/** Why a connection ended at the source host itself, "" if it did not. */
function ownPeer(t: TcpShared, flow: number): string {
  const { bytes } = t.context.table;
  const our = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const endpoint = flow * FLOW_SIZE + FlowWord.hostEndpoint * 4;
  let same = true;
  for (let i = 0; i < 16; i++) if (bytes[our + i] !== bytes[endpoint + i]) same = false;
  return same || isLoopback(bytes, endpoint) ? "its peer is the source host itself" : "";
}

/** Gives up a connection that was to be moved; the guest is told when all thaws. */
function lose(t: TcpShared, flow: number, problem: string): void {
  const at = flow * FLOW_WORDS + FlowWord.fd;
  if (t.words[at] !== -1) closeFd(t.words[at]);
  t.words[at] = -1;
  t.letGo(flow);
  t.setFrozen(flow, Frozen.lost);
  log.warn(`${nameConnection(t.words, flow)} is lost: ${problem}`);
}

/** Puts a connection together in a socket in repair mode; what went wrong, or "". */
function rebuild(t: TcpShared, flow: number, fd: number, record: MovedTcp): string {
  const { bytes } = t.context.table;
  const at = flow * FLOW_WORDS;
  const our = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const endpoint = flow * FLOW_SIZE + FlowWord.hostEndpoint * 4;
  const ports = t.words[at + FlowWord.hostPorts];
  const device = deviceHere(t, flow, record.device);
  const scope = isLinkLocal(bytes, endpoint) ? scopeHere(t, flow, device) : 0;
  t.words[at + TcpWord.scope] = scope;
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  setOption(fd, SOL_SOCKET, SO_OOBINLINE, 1);
  if (device.length > LONGEST_NAME) return "its interface has no proper name";
  if (device !== "" && bindToDevice(fd, device) === -1) {
    return `interface ${device}: ${errnoName(errno())}`;
  }
  if (
    isUnspecified(bytes, our) || bindSocket(fd, bytes, our, ports >>> 16, scope) === -1
  ) {
    const address = formatAddress(bytes, our);
    return `bind to ${address} port ${ports >>> 16}: ${errnoName(errno())}`;
  }
  if (!makeRoom(fd, record)) return `SO_RCVLOWAT: ${errnoName(errno())}`;
  const peerFin = peerHasClosed(record.state);
  // A FIN that is acknowledged is sent once more: the answer makes it so again.
  const finAgain = record.state === KernelState.finWait2 ? 1 : 0;
  const clock = (record.options & InfoOption.timestamps) !== 0;
  if (clock && setTimestamp(fd, record.timestamp) === -1) {
    return `TCP_TIMESTAMP: ${errnoName(errno())}`;
  }
  if (
    !setSequence(fd, RepairQueue.send, record.sendSequence - finAgain) ||
    !setSequence(fd, RepairQueue.receive, record.receiveSequence + (peerFin ? 1 : 0))
  ) {
    return `TCP_QUEUE_SEQ: ${errnoName(errno())}`;
  }
  if (connectSocket(fd, bytes, endpoint, ports & 0xffff, scope) === -1) {
    return `connect: ${errnoName(errno())}`;
  }
  return fill(t, flow, fd, record);
}

/**
 * The interface to bind to: what this host's operator says (--outbound-if4, -if6), else
 * what it was at the source, whose names may not be those here. What came in through a
 * forwarded port is bound as that was.
 */
function deviceHere(t: TcpShared, flow: number, device: string): string {
  const { bytes } = t.context.table;
  if (t.has(flow, TcpFlow.inbound)) return device;
  const outbound = familyOf(t, flow)?.outboundInterface ?? device;
  const loopback = isLoopback(bytes, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  return loopback ? device : outbound;
}

/** Index of this host's interface towards a link-local peer. */
function scopeHere(t: TcpShared, flow: number, device: string): number {
  const { scope } = t.context.map;
  if (scope !== 0) return scope;
  const bound = device === "" ? 0 : interfaceIndex(device);
  // Without anything better it is what it was at the source.
  return bound !== 0 ? bound : t.words[flow * FLOW_WORDS + TcpWord.scope];
}

/** Where a queue goes on; false with errno() on failure. */
function setSequence(fd: number, queue: number, sequence: number): boolean {
  return selectQueue(fd, queue) === 0 && setQueueSequence(fd, sequence) === 0;
}

/**
 * Buffers for what the connection holds and was promised, as far as they can be had.
 *
 * @returns false with errno() if the socket would tell nobody of what comes
 */
function makeRoom(fd: number, record: MovedTcp): boolean {
  const sent = record.sendQueue.length - record.notSent;
  if (sent > ORDINARY_SEND) {
    // An ordinary user gets net.core.wmem_max, twice; the kernel then tunes it upwards.
    // Before that it allows for ten segments of the largest size.
    setOption(fd, IPPROTO_TCP, TCP_MAXSEG, LARGEST_MAXSEG);
    const wanted = record.sendQueue.length * 2;
    if (getOption(fd, SOL_SOCKET, SO_SNDBUF) < wanted) {
      // What is asked for is doubled, and cut to the limit unless forced by the mighty.
      if (setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, wanted) === -1) {
        setOption(fd, SOL_SOCKET, SO_SNDBUF, wanted);
      }
      setOption(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
    }
  }
  const received = record.receiveQueue.length + record.rcvWnd;
  if (received > ORDINARY_RECEIVE) {
    // Raises the receive buffer as far as net.ipv4.tcp_rmem allows.
    setOption(fd, SOL_SOCKET, SO_RCVLOWAT, Math.min(received, 0x7fff_ffff));
    return setOption(fd, SOL_SOCKET, SO_RCVLOWAT, 1) === 0;
  }
  return true;
}

/** Queues, options and windows of a connected socket; what went wrong, or "". */
function fill(
  t: TcpShared,
  flow: number,
  fd: number,
  record: MovedTcp,
): string {
  const { receiveQueue, sendQueue, sndWnd } = record;
  const received = push(fd, receiveQueue);
  if (received < receiveQueue.length) {
    return `${received} of ${receiveQueue.length} received bytes fit: ` +
      `${errnoName(errno())} (net.ipv4.tcp_rmem)`;
  }
  const { options, sendScale, receiveScale } = record;
  const mss = Math.min(Math.max(record.mss, SMALLEST_MSS), LARGEST_MSS);
  if (setAgreed(fd, options, mss, sendScale, receiveScale) === -1) {
    return `TCP_REPAIR_OPTIONS: ${errnoName(errno())}`;
  }
  const largest = Math.max(record.maxWindow, sndWnd);
  const { sndWl1, rcvWnd, rcvWup } = record;
  if (setWindows(fd, sndWl1, sndWnd, largest, rcvWnd, rcvWup) === -1) {
    return `TCP_REPAIR_WINDOW: ${errnoName(errno())}`;
  }
  refreshMss(fd);
  const sent = sendQueue.length - record.notSent;
  const most = record.sendsOn === true ? sendQueue.length : sent;
  let taken = 0;
  if (most > 0) {
    selectQueue(fd, RepairQueue.send);
    taken = push(fd, sendQueue.subarray(0, most));
  }
  if (taken < sent) {
    return `${taken} of ${sent} sent bytes fit: ${errnoName(errno())} ` +
      "(net.core.wmem_max)";
  }
  keepForThaw(t, flow, fd, record, taken);
  return "";
}

/** Fills the selected queue; returns how many bytes it took. */
function push(fd: number, bytes: Uint8Array): number {
  let done = 0;
  while (done < bytes.length) {
    const rest = bytes.subarray(done) as Uint8Array<ArrayBuffer>;
    const taken = sendBytes(fd, rest, SEND_FLAGS);
    if (taken <= 0) break;
    done += taken;
  }
  return done;
}

/**
 * What only thaw.ts can do: our FIN, and bytes after the `taken` that are as good as sent;
 * and what the peer's FIN means.
 */
function keepForThaw(
  t: TcpShared,
  flow: number,
  fd: number,
  record: MovedTcp,
  taken: number,
): void {
  const { sendQueue, state } = record;
  const fin = state === KernelState.finWait1 || state === KernelState.finWait2 ||
    state === KernelState.lastAck || state === KernelState.closing;
  if (taken < sendQueue.length || fin) {
    const rest = sendQueue.subarray(taken);
    t.hold(flow, { bytes: rest as Uint8Array<ArrayBuffer>, fin });
  }
  if (record.keepIdle > 0) {
    t.mark(flow, TcpFlow.keepAlive);
    setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, record.keepIdle);
    setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, record.keepInterval);
    if (record.keepCount > 0) setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, record.keepCount);
  }
  if (!peerHasClosed(state)) return;
  shutdownSocket(fd, SHUT_RD);
  // After our FIN the kernel waits for one that came long ago.
  setOption(fd, IPPROTO_TCP, TCP_LINGER2, 1);
  const ended = state === KernelState.close;
  t.peerClosed[flow] = ended ? PeerClosed.ended : PeerClosed.counted;
  if (ended) resetOnClose(fd); // it has nothing more to say to anybody
}
