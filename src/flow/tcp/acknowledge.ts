/**
 * Acknowledgements and windows for the guest, taken from the host socket's send queue.
 *
 * A byte is acknowledged to the guest when the peer's kernel has it: SIOCOUTQ counts what
 * the peer has not acknowledged yet. No event tells when that changes, so flows with
 * bytes under way are looked at again after about the time the peer takes to answer: soon
 * and often at first, then with back-off, at last by the ordinary flow timer.
 *
 * While the guest repairs a loss on its own link, what the socket has taken counts: the
 * guest then sends one segment per acknowledgement, and the peer would delay each of its
 * own by up to 40 ms.
 */
import { EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP } from "../../../ffi/event.ts";
import {
  getOption,
  queueLength,
  setOption,
  SIOCOUTQ,
  SO_BUF_LOCK,
  SO_SNDBUF,
  SOL_SOCKET,
} from "../../../ffi/socket.ts";
import { eventData, EventKind } from "../context.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { TICK_MS } from "../timers.ts";
import { drainBacklog } from "./backlog.ts";
import { TcpFlow, TcpWord } from "./layout.ts";
import { sendAck } from "./segments.ts";
import type { TcpShared } from "./shared.ts";

export const TCP_EVENTS = EPOLLIN + EPOLLPRI + EPOLLOUT + EPOLLRDHUP + EPOLLET;

/** Asked for; the kernel grants at most net.core.wmem_max, and doubles it. */
const LARGE_BUFFER = 4 << 20;
const FIRST_DELAY_MS = 0.03;
const LONGEST_DELAY_MS = 200;
/** So much of its window left, and a guest needs no more yet. */
const WIDE_WINDOW = 32768;

/**
 * Looks at the send queue and tells the guest what is new: bytes acknowledged, or room.
 *
 * @param force acknowledge even if nothing changed
 * @param later leave it to what is sent next: the caller sends or acknowledges in any case
 */
export function acknowledge(
  t: TcpShared,
  flow: number,
  force: boolean,
  later = false,
): void {
  const words = t.words;
  const at = flow * FLOW_WORDS;
  const fd = words[at + FlowWord.fd];
  const sequence = words[at + TcpWord.seqFromGuest];
  const last = words[at + TcpWord.ackToGuest];
  if (t.held[flow] !== 0) drainBacklog(t, flow);
  const queued = queueLength(fd, SIOCOUTQ);
  let outstanding = queued > 0 ? queued : 0;
  if (t.held[flow] !== 0) outstanding += t.heldBytes(flow);
  let ack = t.gap[flow] === 0 ? sequence - outstanding | 0 : sequence;
  if ((ack - last | 0) < 0) ack = last;
  const window = offeredWindow(t, flow, fd, ack, outstanding);
  const progress = ack - last | 0;
  const opened = window - (words[at + TcpWord.windows] >>> 16);
  words[at + TcpWord.ackToGuest] = ack;
  setOffered(words, at, window);
  schedulePoll(t, flow, outstanding, progress);
  if (!force && progress <= 0 && !worthTelling(opened, window)) return;
  if (later) t.mark(flow, TcpFlow.ackDue);
  else sendAck(t, flow);
}

/** A window update is sent when the window opens, or grows to twice what it was. */
function worthTelling(opened: number, window: number): boolean {
  return opened > 0 && opened * 2 >= window;
}

function setOffered(words: Int32Array, at: number, window: number): void {
  const windows = at + TcpWord.windows;
  words[windows] = (words[windows] & 0xffff) | (window << 16);
}

/**
 * The window to offer, scaled: what the socket's send buffer has room for, counted from
 * `ack`; its right edge never moves back (RFC 9293, section 3.8.6).
 */
function offeredWindow(
  t: TcpShared,
  flow: number,
  fd: number,
  ack: number,
  outstanding: number,
): number {
  const words = t.words;
  const at = flow * FLOW_WORDS;
  const scale = (words[at + TcpWord.counts] >>> 8) & 0xff;
  const before = words[at + TcpWord.ackToGuest] +
      ((words[at + TcpWord.windows] >>> 16) << scale) - ack | 0;
  const taken = words[at + TcpWord.seqFromGuest] - ack | 0;
  let buffer = t.sendBuffer[flow];
  // A short exchange needs no more than the window that SYN offered.
  const known = buffer !== 0 || before - taken >= WIDE_WINDOW;
  if (!known || (buffer !== 0 && outstanding * 4 > buffer)) {
    buffer = readSendBuffer(t, flow, fd);
  }
  let room = buffer - (buffer >> 3) - outstanding;
  if (room < 0) room = 0;
  if (room * 3 < buffer) watchForSpace(t, flow, fd);
  let bytes = taken + room;
  if (bytes < before) bytes = before + (1 << scale) - 1;
  const window = bytes >>> scale;
  return window > 0xffff ? 0xffff : window;
}

/**
 * Makes the kernel notice that the buffer is nearly full: epoll_ctl() polls the socket,
 * which then tells when there is space (EPOLLOUT) and grows the buffer if the path is
 * worth it (tcp_new_space).
 */
export function watchForSpace(t: TcpShared, flow: number, fd: number): void {
  if (t.has(flow, TcpFlow.watching)) return;
  t.mark(flow, TcpFlow.watching);
  rearm(t, flow, fd);
}

/** The event of {@link watchForSpace} comes once for each call. */
function rearm(t: TcpShared, flow: number, fd: number): void {
  const { epoll, table } = t.context;
  const data = eventData(EventKind.tcp, flow);
  if (epoll.tryModify(fd, TCP_EVENTS, data, table.generation(flow))) return;
  t.mark(flow, TcpFlow.failed); // nothing would tell when there is space
  t.pushReady(flow);
}

/**
 * Half the send buffer is in use: gives the socket the largest that an ordinary user may
 * set, and unlocks it (SO_BUF_LOCK) so that the kernel goes on tuning it upwards. Left
 * to itself the kernel starts with 46 KB, and grows that only when it hinders.
 */
export function growSendBuffer(t: TcpShared, flow: number, fd: number): void {
  if (t.has(flow, TcpFlow.grown)) {
    watchForSpace(t, flow, fd);
    return;
  }
  t.mark(flow, TcpFlow.grown);
  if (t.bufferLock) {
    setOption(fd, SOL_SOCKET, SO_SNDBUF, LARGE_BUFFER);
    setOption(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
  }
  readSendBuffer(t, flow, fd);
}

function readSendBuffer(t: TcpShared, flow: number, fd: number): number {
  const size = getOption(fd, SOL_SOCKET, SO_SNDBUF, 65536);
  t.sendBuffer[flow] = size;
  return size;
}

/** The guest's data went to the socket: its acknowledgement is to be looked for. */
export function expectAck(t: TcpShared, flow: number): void {
  if (t.has(flow, TcpFlow.unacknowledged)) return;
  t.mark(flow, TcpFlow.unacknowledged);
  t.sentAt[flow] = t.context.now;
  t.pollDelay[flow] = startDelay(t, flow);
  enterPolled(t, flow);
}

function startDelay(t: TcpShared, flow: number): number {
  const half = t.roundTrip[flow] * 0.5;
  return half < FIRST_DELAY_MS ? FIRST_DELAY_MS : half;
}

function schedulePoll(
  t: TcpShared,
  flow: number,
  outstanding: number,
  progress: number,
): void {
  if (outstanding === 0) {
    if (t.has(flow, TcpFlow.unacknowledged)) {
      const took = t.context.now - t.sentAt[flow];
      t.roundTrip[flow] += (took - t.roundTrip[flow]) * 0.25;
    }
    t.unmark(flow, TcpFlow.unacknowledged);
    return;
  }
  t.mark(flow, TcpFlow.unacknowledged);
  if (progress > 0) t.pollDelay[flow] = FIRST_DELAY_MS;
  else t.pollDelay[flow] = Math.min(t.pollDelay[flow] * 1.5, LONGEST_DELAY_MS);
  // Looked at rarely, a buffer that is full for the kernel (sk_stream_is_writeable) has an
  // event tell of the peer that takes something at last.
  const buffer = t.sendBuffer[flow];
  if (t.pollDelay[flow] >= TICK_MS && buffer > 0 && outstanding * 3 > buffer * 2) {
    rearm(t, flow, t.words[flow * FLOW_WORDS + FlowWord.fd]);
  }
  enterPolled(t, flow);
}

/** Has a flow's send queue looked at after its delay. */
export function enterPolled(t: TcpShared, flow: number): void {
  const due = t.context.now + t.pollDelay[flow];
  t.pollAt[flow] = due;
  if (t.pollDelay[flow] >= TICK_MS) {
    t.context.timers.setEarlier(flow, due);
    return;
  }
  if (t.inPolled[flow] !== 0) return;
  t.inPolled[flow] = 1;
  t.polled[t.polledCount++] = flow;
}

/** Takes entry `i` out of the list of flows looked at soon; the last takes its place. */
export function leavePolled(t: TcpShared, i: number): void {
  t.inPolled[t.polled[i]] = 0;
  t.polled[i] = t.polled[--t.polledCount];
}

/** Milliseconds until a flow is to be looked at; -1 if none is. */
export function untilPoll(t: TcpShared): number {
  let first = Infinity;
  for (let i = 0; i < t.polledCount; i++) {
    const due = t.pollAt[t.polled[i]];
    if (due < first) first = due;
  }
  if (first === Infinity) return -1;
  return first > t.context.now ? first - t.context.now : 0;
}
