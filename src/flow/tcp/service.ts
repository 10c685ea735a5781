/** What a flow has to do next, whoever asks: an event, a timer, the guest, a free buffer. */
import { Errno } from "../../../ffi/errno.ts";
import {
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLPRI,
  EPOLLRDHUP,
} from "../../../ffi/event.ts";
import { getOption, SO_ERROR, SOL_SOCKET } from "../../../ffi/socket.ts";
import { TcpFlag } from "../../wire/tcp.ts";
import { FLOW_WORDS, FlowKind, FlowWord } from "../table.ts";
import { acknowledge, leavePolled } from "./acknowledge.ts";
import { holdLate } from "./hold.ts";
import {
  IDLE_MS,
  PROBE_MS,
  PROBES,
  RTO_RETRIES,
  SYN_RETRIES,
  TcpFlow,
  TcpState,
  TcpWord,
} from "./layout.ts";
import { closeFlow, connected, connectFailed, resetBoth, resetPeer } from "./open.ts";
import { sendAck, sendSegment, sendSyn } from "./segments.ts";
import type { TcpShared } from "./shared.ts";
import { armRetransmit, inFlight, rewind, sendData, Sent } from "./to_guest.ts";

/** Sends what can be sent of an established flow, and ends it when all is done. */
export function service(t: TcpShared, flow: number): void {
  if (t.has(flow, TcpFlow.readable | TcpFlow.peerFin)) {
    const sent = sendData(t, flow);
    if (sent === Sent.failed) {
      if (!holdLate(t, flow)) resetBoth(t, flow);
      return;
    }
    if (sent === Sent.starved || sent === Sent.turn) t.pushReady(flow);
    else if (inFlight(t, flow) === 0 && isPending(t, flow)) {
      armRetransmit(t, flow); // the guest's window is closed: it will be probed
    }
  }
  if (t.has(flow, TcpFlow.failed) && !t.has(flow, TcpFlow.readable)) {
    if (!holdLate(t, flow)) resetBoth(t, flow);
    return;
  }
  if (t.has(flow, TcpFlow.ackDue)) sendAck(t, flow);
  closeFlow(t, flow);
}

/** Goes on with a flow from the ready ring. */
export function serviceReady(t: TcpShared, flow: number): void {
  switch (t.state(flow)) {
    case TcpState.synAckSent:
    case TcpState.synSent:
      sendSyn(t, flow);
      return;
    case TcpState.established:
      service(t, flow);
  }
}

/** Events of a flow's socket. */
export function takeEvents(t: TcpShared, flow: number, events: number): void {
  const state = t.state(flow);
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  if (state === TcpState.connecting) {
    if ((events & (EPOLLERR | EPOLLHUP)) !== 0) {
      connectFailed(t, flow, getOption(fd, SOL_SOCKET, SO_ERROR, Errno.EIO));
    } else if ((events & EPOLLOUT) !== 0) {
      if ((events & EPOLLRDHUP) !== 0) t.mark(flow, TcpFlow.peerFin);
      if ((events & EPOLLIN) !== 0) t.mark(flow, TcpFlow.readable);
      connected(t, flow);
    }
    return;
  }
  if ((events & EPOLLRDHUP) !== 0) t.mark(flow, TcpFlow.peerFin);
  if ((events & EPOLLIN) !== 0) t.mark(flow, TcpFlow.readable);
  if ((events & EPOLLPRI) !== 0) t.urgent[flow] = 1;
  if ((events & EPOLLERR) !== 0) {
    // One that does not say what is wrong with it has failed, too: no event tells again.
    const number = getOption(fd, SOL_SOCKET, SO_ERROR, Errno.EIO);
    if (number !== 0) {
      if (state !== TcpState.established) {
        resetBoth(t, flow);
        return;
      }
      t.mark(flow, TcpFlow.failed | TcpFlow.readable);
    }
  } else if ((events & EPOLLHUP) !== 0 && !t.has(flow, TcpFlow.guestFin)) {
    t.mark(flow, TcpFlow.failed | TcpFlow.readable); // dead, and not by our shutdown
  }
  if (state !== TcpState.established) return;
  if (
    (events & EPOLLOUT) !== 0 && t.has(flow, TcpFlow.blocked | TcpFlow.unacknowledged)
  ) {
    const force = t.has(flow, TcpFlow.blocked);
    t.unmark(flow, TcpFlow.blocked);
    // The kernel grows it where it was asked to tell of space.
    if (t.has(flow, TcpFlow.watching)) t.sendBuffer[flow] = 0;
    acknowledge(t, flow, force, !force && t.has(flow, TcpFlow.readable));
    // What the socket had no space for is lost to the guest's mind: fast retransmit.
    if (force) { for (let i = 0; i < 3; i++) sendAck(t, flow); }
  }
  service(t, flow);
}

/** Looks at the send queues of all flows that are due. */
export function pollAcknowledgements(t: TcpShared): void {
  const now = t.context.now;
  let i = 0;
  for (let left = t.polledCount; left > 0; left--) {
    const flow = t.polled[i];
    const waits = t.has(flow, TcpFlow.unacknowledged) && t.frozen[flow] === 0;
    if (waits && t.pollAt[flow] > now) {
      i++;
      continue;
    }
    leavePolled(t, i);
    // The entry may be free by now, or in use by a flow of another kind.
    if (!waits || t.context.table.kind(flow) !== FlowKind.tcp) continue;
    acknowledge(t, flow, false);
    closeFlow(t, flow);
  }
}

/** The flow's timer has expired; it stands for several things that may be due. */
export function takeTimer(t: TcpShared, flow: number): void {
  const state = t.state(flow);
  if (state === TcpState.synAckSent || state === TcpState.synSent) {
    repeatSyn(t, flow);
    return;
  }
  if (state !== TcpState.established) return;
  const { now, timers } = t.context;
  if (t.has(flow, TcpFlow.unacknowledged) && t.pollAt[flow] <= now) {
    acknowledge(t, flow, false);
    if (closeFlow(t, flow)) return;
  }
  const waits = isPending(t, flow);
  if (waits && t.retransmitAt[flow] <= now) {
    if (!retransmit(t, flow)) return;
  } else if (!waits && now - t.heardAt[flow] >= IDLE_MS) {
    // Probes that were answered do not count.
    if (now - t.heardAt[flow] < IDLE_MS + PROBE_MS) t.setRetries(flow, 0);
    if (!probe(t, flow)) return;
  }
  if (isPending(t, flow)) timers.setEarlier(flow, t.retransmitAt[flow]);
  if (t.has(flow, TcpFlow.unacknowledged)) timers.setEarlier(flow, t.pollAt[flow]);
  timers.setEarlier(flow, Math.max(t.heardAt[flow] + IDLE_MS, now + PROBE_MS));
}

/** The guest has something to acknowledge, or to make room for. */
export function isPending(t: TcpShared, flow: number): boolean {
  return inFlight(t, flow) > 0 || t.has(flow, TcpFlow.readable) ||
    (t.has(flow, TcpFlow.peerFin) && !t.has(flow, TcpFlow.finToGuest));
}

function repeatSyn(t: TcpShared, flow: number): void {
  const retries = t.retries(flow);
  if (retries >= SYN_RETRIES) {
    resetPeer(t, flow);
    return;
  }
  t.setRetries(flow, retries + 1);
  sendSyn(t, flow);
  armRetransmit(t, flow);
}

/** Sends again what the guest has not acknowledged, or probes its closed window. */
function retransmit(t: TcpShared, flow: number): boolean {
  const retries = t.retries(flow);
  const flying = inFlight(t, flow) > 0;
  // A guest without receive buffers was sent nothing that it could have answered.
  if (!t.context.sink.starved) {
    if (flying && retries >= RTO_RETRIES) {
      resetBoth(t, flow);
      return false;
    }
    if (flying) rewind(t, flow);
    else sendProbe(t, flow);
    t.setRetries(flow, Math.min(retries + 1, RTO_RETRIES));
  }
  if (flying) t.pushReady(flow);
  armRetransmit(t, flow);
  return true;
}

/** A segment that the guest must answer: one byte before what comes next. */
function sendProbe(t: TcpShared, flow: number): void {
  const sequence = t.words[flow * FLOW_WORDS + TcpWord.seqToGuest] - 1;
  sendSegment(t, flow, sequence, TcpFlag.ack);
}

/** Nothing was heard for long: asks whether the guest still knows the connection. */
function probe(t: TcpShared, flow: number): boolean {
  const retries = t.retries(flow);
  if (retries >= PROBES) {
    resetBoth(t, flow);
    return false;
  }
  t.setRetries(flow, retries + 1);
  sendProbe(t, flow);
  return true;
}
