/**
 * Makes a new socket in repair mode the connection that a record describes, in the order
 * that the kernel wants.
 *
 * The peer's FIN cannot be given to a new socket. Its number is counted instead, so that
 * all acknowledgements are right, and the socket is shut down for reading, so that it is
 * at its end where the data is; the kernel goes on to believe that the peer may send.
 */
import { errno, errnoName } from "../../../ffi/errno.ts";
import {
  bindSocket,
  bindToDevice,
  connectSocket,
  getOption,
  interfaceIndex,
  IPPROTO_TCP,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  resetOnClose,
  setOption,
  SHUT_RD,
  shutdownSocket,
  SO_BUF_LOCK,
  SO_OOBINLINE,
  SO_RCVLOWAT,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_LINGER2,
  TCP_MAXSEG,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
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
import {
  formatAddress,
  isLinkLocal,
  isLoopback,
  isUnspecified,
} from "../../wire/address.ts";
import { KernelState, peerHasClosed } from "../../wire/state/kernel_tcp.ts";
import type { MovedTcp } from "../../wire/state/model.ts";
import { isFlow4 } from "../frame_head.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowWord } from "../table.ts";
import { TcpFlow, TcpWord } from "./layout.ts";
import { PeerClosed, type TcpShared } from "./shared.ts";

/** Larger queues and windows need more buffer than a new socket has. */
const ORDINARY_SEND = 8192;
const ORDINARY_RECEIVE = 65536;
/** Largest TCP_MAXSEG (MAX_TCP_WINDOW of the kernel). */
const LARGEST_MAXSEG = 32767;
/** TCP_MIN_MSS of the kernel, and the largest there can be. */
const SMALLEST_MSS = 88;
const LARGEST_MSS = 65535;
/** Of an interface (IFNAMSIZ less its zero byte). */
const LONGEST_NAME = 15;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;

/**
 * Puts a connection together in a deaf socket in repair mode.
 *
 * @param record what the source saved of it, and nothing contradicts
 * @returns what went wrong, or ""
 */
export function rebuild(
  t: TcpShared,
  flow: number,
  fd: number,
  record: MovedTcp,
): string {
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
  if (isLoopback(bytes, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4)) return device;
  return familyOf(t, flow)?.outboundInterface ?? device;
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
    // What is the guest's would be taken for its peer's.
    if (selectQueue(fd, RepairQueue.send) === -1) {
      return `TCP_REPAIR_QUEUE: ${errnoName(errno())}`;
    }
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

/** What this host has configured for a connection's family. */
export function familyOf(t: TcpShared, flow: number): FamilyConfig | undefined {
  const { ip4, ip6 } = t.context.config;
  return isFlow4(t.words, flow) ? ip4 : ip6;
}
