/**
 * Segments of the guest (RFC 9293, section 3.10.7). Data in sequence is gathered over the
 * segments of a batch; see gathered.ts.
 */
import {
  IPPROTO_TCP,
  setOption,
  SO_KEEPALIVE,
  SOL_SOCKET,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
} from "../../../ffi/socket.ts";
import {
  tcpAcknowledgement,
  TcpFlag,
  tcpFlags,
  tcpHeaderLength,
  tcpSequence,
  tcpWindow,
} from "../../wire/tcp.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { acknowledge } from "./acknowledge.ts";
import { OUR_WINDOW_SCALE, TcpFlow, TcpState, TcpWord } from "./layout.ts";
import { becomeEstablished, resetPeer, takeSynOptions } from "./open.ts";
import { type Gathered, sendGathered } from "./gathered.ts";
import { sendAck, sendSegment, sendSyn } from "./segments.ts";
import type { TcpShared } from "./shared.ts";
import { acceptAck, guestWindow, inFlight, rewind } from "./to_guest.ts";

/** Duplicate acknowledgements that make a sender send again. */
const DUPLICATES = 3;

/** Takes the current packet, a segment of `flow`, which is {@link Gathered.flow}. */
export function takeSegment(t: TcpShared, g: Gathered, flow: number): void {
  const { source, packet } = t.context;
  const head = source.head;
  const at = packet.transportAt;
  const headerLength = tcpHeaderLength(head, at, packet.transportLength);
  if (headerLength < 0) {
    t.context.drops.malformed++;
    return;
  }
  const flags = tcpFlags(head, at);
  t.heardAt[flow] = t.context.now;
  const state = t.state(flow);
  if (state !== TcpState.established) {
    if (!source.need(at + headerLength)) return;
    if (!takeHandshake(t, g, flow, state, flags, headerLength)) return;
  }
  if ((flags & TcpFlag.rst) !== 0) return takeReset(t, g, flow);
  if ((flags & TcpFlag.syn) !== 0) {
    // A SYN inside a connection is answered, never obeyed (RFC 5961, section 4.2).
    g.force = true;
    return;
  }
  if ((flags & TcpFlag.ack) === 0) return;
  const payload = packet.transportLength - headerLength;
  if (!takeAck(t, g, flow, payload, flags)) return;
  takeData(t, g, flow, at + headerLength, payload, (flags & TcpFlag.fin) !== 0);
}

/** Segments before the connection is established; true if it now is. */
function takeHandshake(
  t: TcpShared,
  g: Gathered,
  flow: number,
  state: number,
  flags: number,
  headerLength: number,
): boolean {
  const { source, packet } = t.context;
  const head = source.head;
  const at = packet.transportAt;
  const word = flow * FLOW_WORDS;
  const expected = t.words[word + TcpWord.seqToGuest];
  if ((flags & TcpFlag.rst) !== 0) {
    takeReset(t, g, flow);
    if (g.force && state === TcpState.synAckSent) {
      sendSegment(t, flow, expected, TcpFlag.ack);
      g.force = false;
    }
    return false;
  }
  if (state === TcpState.connecting) return false; // a repeated SYN: connect() goes on
  if (state === TcpState.synAckSent) {
    return takeFirstAck(t, g, flow, flags, packet.transportLength - headerLength);
  }
  const both = TcpFlag.syn | TcpFlag.ack;
  const acknowledged = tcpAcknowledgement(head, at);
  if ((flags & TcpFlag.ack) !== 0 && (acknowledged | 0) !== expected) {
    // The guest speaks of an earlier connection: it is to forget that one (3.10.7.3).
    sendSegment(t, flow, acknowledged | 0, TcpFlag.rst);
    sendSyn(t, flow);
    return false;
  }
  if ((flags & both) !== both) return false;
  takeSynOptions(t, flow, headerLength);
  const sequence = tcpSequence(head, at) | 0;
  t.words[word + TcpWord.isnFromGuest] = sequence;
  t.words[word + TcpWord.seqFromGuest] = sequence + 1;
  t.words[word + TcpWord.ackToGuest] = sequence + 1;
  t.words[word + TcpWord.ackFromGuest] = expected;
  // The window of a SYN is never scaled (RFC 7323, section 2.2).
  const counts = t.words[word + TcpWord.counts];
  const offered = (counts & 0xff00) === 0 ? 0xffff : 0xffff >> OUR_WINDOW_SCALE;
  t.words[word + TcpWord.windows] = tcpWindow(head, at) >>> (counts & 0xff) |
    (offered << 16);
  becomeEstablished(t, flow);
  g.force = g.acked = true;
  return false;
}

/** As takeHandshake(), of a guest that has opened the connection itself. */
function takeFirstAck(
  t: TcpShared,
  g: Gathered,
  flow: number,
  flags: number,
  payload: number,
): boolean {
  const expected = t.words[flow * FLOW_WORDS + TcpWord.seqToGuest];
  if ((flags & TcpFlag.syn) !== 0) {
    sendSyn(t, flow);
    return false;
  }
  if (!isAcceptable(t, flow, payload + (flags & TcpFlag.fin))) {
    sendSegment(t, flow, expected, TcpFlag.ack);
    return false;
  }
  if ((flags & TcpFlag.ack) === 0) return false;
  const { source, packet } = t.context;
  const acknowledged = tcpAcknowledgement(source.head, packet.transportAt) | 0;
  if (acknowledged !== expected) {
    sendSegment(t, flow, acknowledged, TcpFlag.rst); // RFC 9293, 3.10.7.4
    return false;
  }
  becomeEstablished(t, flow);
  g.acked = true;
  return true;
}

/**
 * RST (RFC 5961, section 3.2): obeyed if it is the next in sequence, challenged within the
 * window, else ignored. The next in sequence is what the guest sent last, or what it was
 * told last: a socket that is gone answers with that.
 */
function takeReset(t: TcpShared, g: Gathered, flow: number): void {
  const { source, packet } = t.context;
  const head = source.head;
  const at = packet.transportAt;
  const word = flow * FLOW_WORDS;
  const state = t.state(flow);
  if (state === TcpState.synSent) {
    if ((tcpFlags(head, at) & TcpFlag.ack) === 0) return;
    if ((tcpAcknowledgement(head, at) | 0) !== t.words[word + TcpWord.seqToGuest]) return;
    t.counters.refused++;
  } else {
    const sequence = tcpSequence(head, at) | 0;
    const told = t.words[word + TcpWord.ackToGuest];
    const fin = g.fin ? 1 : 0;
    const ahead = sequence - t.words[word + TcpWord.seqFromGuest] - g.bytes - fin | 0;
    if (ahead > 0 || (sequence - told | 0) < 0) {
      if (ahead > 0 && (sequence - told | 0) < offered(t, flow)) g.force = true;
      return;
    }
  }
  if (g.bytes > 0) sendGathered(t, g);
  g.clear();
  if (t.state(flow) !== 0) resetPeer(t, flow);
}

/** Whether a segment lies in the window at all (RFC 9293, section 3.10.7.4, first). */
function isAcceptable(t: TcpShared, flow: number, length: number): boolean {
  const { source, packet } = t.context;
  const sequence = tcpSequence(source.head, packet.transportAt) | 0;
  const ahead = sequence - t.words[flow * FLOW_WORDS + TcpWord.ackToGuest] | 0;
  const window = offered(t, flow);
  if (ahead >= 0 && ahead < window) return true;
  const last = ahead + length - 1;
  return length > 0 && last >= 0 && last < window;
}

/** The window that was offered to the guest, in bytes from the last acknowledgement. */
function offered(t: TcpShared, flow: number): number {
  const at = flow * FLOW_WORDS;
  const scale = (t.words[at + TcpWord.counts] >>> 8) & 0xff;
  return (t.words[at + TcpWord.windows] >>> 16) << scale;
}

/** The acknowledgement and window of a segment; false if it is not acceptable. */
function takeAck(
  t: TcpShared,
  g: Gathered,
  flow: number,
  payload: number,
  flags: number,
): boolean {
  const { source, packet } = t.context;
  const words = t.words;
  const at = flow * FLOW_WORDS;
  const ack = tcpAcknowledgement(source.head, packet.transportAt) | 0;
  const window = tcpWindow(source.head, packet.transportAt);
  if ((ack - words[at + TcpWord.seqMax] | 0) > 0) {
    g.force = true; // of something never sent (RFC 9293, 3.10.7.4)
    return false;
  }
  const progress = ack - words[at + TcpWord.ackFromGuest] | 0;
  if (progress < 0) {
    // Older than any window that the guest can have had (RFC 5961, section 5.2).
    if (progress >= -(0xffff << (words[at + TcpWord.counts] & 0xff))) return true;
    g.force = true;
    return false;
  }
  const before = words[at + TcpWord.windows] & 0xffff;
  words[at + TcpWord.windows] = (words[at + TcpWord.windows] & ~0xffff) | window;
  if (progress > 0) {
    acceptAck(t, flow, ack);
    g.acked = true;
  }
  if (before !== window) {
    g.acked = true;
    if (inFlight(t, flow) === 0) t.setRetries(flow, 0); // of window probes
    noteWindow(t, flow);
  } else if (progress === 0 && payload === 0 && (flags & TcpFlag.fin) === 0) {
    if (isLoss(t, flow, ack)) {
      rewind(t, flow);
      g.acked = true;
    }
  }
  return true;
}

/**
 * A duplicate acknowledgement: the guest has something after a hole. Its ring keeps the
 * order, so the first one means a loss (RFC 5827 for the smallest threshold); those that
 * answer what was sent again do not count (RFC 6582, "recover").
 */
function isLoss(t: TcpShared, flow: number, ack: number): boolean {
  if (inFlight(t, flow) <= 0) return false;
  if (t.has(flow, TcpFlow.recovering) && (ack - t.recover[flow] | 0) <= 0) return false;
  return true;
}

/**
 * The guest's window may shrink below what is under way: a guest short of memory drops
 * that, and says so by nothing but the window. Once there is room it is sent again.
 */
function noteWindow(t: TcpShared, flow: number): void {
  const excess = inFlight(t, flow) - guestWindow(t, flow);
  // Less than a unit of the scaled window may be rounding (RFC 7323, section 2.4).
  const unit = 1 << (t.words[flow * FLOW_WORDS + TcpWord.counts] & 0xff);
  if (excess >= unit) t.mark(flow, TcpFlow.shrunk);
  else if (t.has(flow, TcpFlow.shrunk)) {
    t.unmark(flow, TcpFlow.shrunk);
    if (inFlight(t, flow) > 0) rewind(t, flow);
  }
}

/** Payload and FIN of a segment: gathered if they are next in sequence. */
function takeData(
  t: TcpShared,
  g: Gathered,
  flow: number,
  payloadAt: number,
  payload: number,
  fin: boolean,
): void {
  const { source, packet } = t.context;
  const sequence = tcpSequence(source.head, packet.transportAt) | 0;
  const expected = t.words[flow * FLOW_WORDS + TcpWord.seqFromGuest] + g.bytes +
      (g.fin ? 1 : 0) | 0;
  const behind = expected - sequence | 0;
  if (payload === 0 && !fin) {
    // A probe: one before what is expected (RFC 9293, section 3.8.4).
    if (behind !== 0) g.force = true;
    if (behind === 1) watchPeer(t, flow);
    return;
  }
  if (behind < 0) {
    takeGap(t, g, flow, sequence + payload | 0);
    return;
  }
  if (g.fin || t.has(flow, TcpFlow.guestFin)) {
    g.force = true;
    return;
  }
  const fresh = payload - behind;
  if (fresh < 0 || (fresh === 0 && !fin)) {
    g.force = true;
    if (behind === 1 && payload === 1) watchPeer(t, flow);
    return;
  }
  if (fresh > 0) {
    if (t.out.count + source.pieces > t.out.capacity) {
      const wanted = g.bytes;
      const before = t.words[flow * FLOW_WORDS + TcpWord.seqFromGuest];
      sendGathered(t, g);
      const sent = t.words[flow * FLOW_WORDS + TcpWord.seqFromGuest] - before | 0;
      // What does not follow on what the socket took is out of order.
      if (sent !== wanted || source.pieces > t.out.capacity) return;
    }
    source.appendPayload(payloadAt + behind, fresh, t.out);
    g.bytes += fresh;
  }
  g.fin = fin;
}

/**
 * A segment beyond a hole: the guest is to send all from the hole on again. It is told by
 * as many duplicate acknowledgements as it waits for (RFC 5681, section 3.2), and no
 * more: each further one would count as a segment that arrived, but none of these is kept.
 */
function takeGap(t: TcpShared, g: Gathered, flow: number, end: number): void {
  t.counters.outOfOrder++;
  if (t.has(flow, TcpFlow.blocked)) {
    sendAck(t, flow); // the socket is full: what is missing was not lost on the link
    return;
  }
  if (t.gap[flow] === 0 || (end - t.gapEnd[flow] | 0) > 0) t.gapEnd[flow] = end;
  if (t.gap[flow] === 0) {
    if (g.bytes > 0) sendGathered(t, g);
    const at = flow * FLOW_WORDS + TcpWord.ackToGuest;
    const before = t.words[at];
    t.gap[flow] = 1;
    acknowledge(t, flow, true);
    t.gapAcks[flow] = t.words[at] === before ? 1 : 0;
    return;
  }
  if (t.gapAcks[flow] >= DUPLICATES) return;
  t.gapAcks[flow]++;
  sendAck(t, flow);
}

/** The guest probes its peer, so the host's kernel does the same from now on. */
function watchPeer(t: TcpShared, flow: number): void {
  if (t.has(flow, TcpFlow.keepAlive)) return;
  t.mark(flow, TcpFlow.keepAlive);
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
  setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 15);
}
