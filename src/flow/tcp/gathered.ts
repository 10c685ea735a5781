/**
 * What the segments of a batch add up to, for one flow: its data goes to the socket in one
 * sendmsg(), from guest memory, and one acknowledgement answers all of them.
 */
import { Errno, errno } from "../../../ffi/errno.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  sendmsg,
  SHUT_WR,
  shutdownSocket,
} from "../../../ffi/socket.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { acknowledge, expectAck, growSendBuffer, watchForSpace } from "./acknowledge.ts";
import { TcpFlow, TcpState, TcpWord } from "./layout.ts";
import { closeFlow } from "./open.ts";
import { service } from "./service.ts";
import type { TcpShared } from "./shared.ts";
import { dropAcknowledged } from "./to_guest.ts";

/** Bytes in one sendmsg() after which a near peer may have acknowledged them already. */
const BULK = 4096;
/** What a socket can buffer at least, unless the host was tuned to less (tcp_wmem). */
const LEAST_BUFFER = 16384;

/** What the segments of one batch add up to, for the flow they belong to. */
export class Gathered {
  /** The flow, or -1. */
  flow = -1;
  /** Payload bytes in {@link TcpShared.out}. */
  bytes = 0;
  /** A FIN follows them. */
  fin = false;
  /** An acknowledgement must go out even if nothing is new. */
  force = false;
  /** The guest acknowledged something or changed its window. */
  acked = false;
  /** Enough was sent to look for its acknowledgement at once. */
  bulk = false;

  /** Forgets what was gathered: it was sent, or will not be. */
  clear(): void {
    this.flow = -1;
    this.bytes = 0;
    this.fin =
      this.force =
      this.acked =
      this.bulk =
        false;
  }
}

/**
 * Sends what was gathered. Bytes the socket does not take are not acknowledged: the guest
 * keeps them, and sends them again when it is told of room.
 */
export function sendGathered(t: TcpShared, g: Gathered): void {
  const flow = g.flow;
  const at = flow * FLOW_WORDS;
  const fd = t.words[at + FlowWord.fd];
  let sent = 0;
  if (g.bytes > 0) {
    t.outMessage.setIovecs(0, t.out.address, t.out.count);
    const full = t.held[flow] !== 0; // with bytes that were acknowledged at the source
    do {
      sent = full ? -1 : sendmsg(fd, t.outMessage.pointer, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (!full && sent < 0 && errno() === Errno.EINTR);
    t.out.count = 0;
    if (sent < 0) {
      const number = full ? Errno.EAGAIN : errno();
      sent = 0;
      if (number !== Errno.EAGAIN && number !== Errno.ENOBUFS) {
        // What the peer sent before it failed goes to the guest first.
        t.mark(flow, TcpFlow.failed | TcpFlow.readable);
        g.bytes = 0;
        g.fin = g.force = g.bulk = false;
        g.acked = true;
        return;
      }
    }
    t.words[at + TcpWord.seqFromGuest] += sent;
    if (sent > 0) {
      expectAck(t, flow);
      const waiting = t.words[at + TcpWord.seqFromGuest] -
        t.words[at + TcpWord.ackToGuest];
      const buffer = t.sendBuffer[flow];
      const half = buffer === 0 ? LEAST_BUFFER : buffer;
      if ((waiting | 0) * 2 > half) growSendBuffer(t, flow, fd);
      if (sent >= BULK) g.bulk = true;
      if (t.gap[flow] !== 0) fillGap(t, flow);
    }
    if (sent < g.bytes) {
      t.counters.blocked++;
      t.mark(flow, TcpFlow.blocked);
      watchForSpace(t, flow, fd);
      g.fin = false;
      g.force = true;
    }
  }
  g.bytes = 0;
  if (g.fin && t.held[flow] !== 0) {
    t.mark(flow, TcpFlow.blocked);
    g.fin = false;
    g.force = true;
  }
  if (g.fin) takeFin(t, g, flow, fd);
}

/** Data in sequence came while there is a hole, which it may fill. */
function fillGap(t: TcpShared, flow: number): void {
  t.gapAcks[flow] = 0;
  const sequence = t.words[flow * FLOW_WORDS + TcpWord.seqFromGuest];
  acknowledge(t, flow, true);
  if ((sequence - t.gapEnd[flow] | 0) >= 0) t.gap[flow] = 0;
}

/** All data before it is in the socket: the guest's FIN becomes the socket's. */
function takeFin(t: TcpShared, g: Gathered, flow: number, fd: number): void {
  g.fin = false;
  if (shutdownSocket(fd, SHUT_WR) === -1) {
    t.mark(flow, TcpFlow.failed); // the peer would wait for ever
    t.pushReady(flow);
  }
  t.words[flow * FLOW_WORDS + TcpWord.seqFromGuest] += 1;
  t.mark(flow, TcpFlow.guestFin);
  expectAck(t, flow);
}

/** Ends a run of segments of one flow: data out, acknowledgement and data back. */
export function finish(t: TcpShared, g: Gathered): void {
  const flow = g.flow;
  if (flow < 0) return;
  if (g.bytes > 0 || g.fin) sendGathered(t, g);
  const { force, acked, bulk } = g;
  g.clear();
  if (t.state(flow) !== TcpState.established) return;
  dropAcknowledged(t, flow);
  const sends = acked && t.has(flow, TcpFlow.readable | TcpFlow.peerFin);
  if (force || bulk) acknowledge(t, flow, force, sends);
  if (sends) service(t, flow);
  else if (acked || force || bulk) closeFlow(t, flow);
}
