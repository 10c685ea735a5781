/**
 * Data of the peer on its way to the guest: peeked from the socket straight into the
 * guest's receive buffers, and dropped from the socket when the guest acknowledges it.
 */
import { Errno, errno } from "../../../ffi/errno.ts";
import {
  MSG_DONTWAIT,
  MSG_PEEK,
  MSG_TRUNC,
  recv,
  recvmsg,
  setOption,
  SO_PEEK_OFF,
  SOL_SOCKET,
} from "../../../ffi/socket.ts";
import { MAX_FRAMES } from "../../virtio/frame_sink.ts";
import { GsoType } from "../../virtio/net_header.ts";
import { TCP_CHECKSUM_AT, TCP_HEADER_SIZE, TcpFlag } from "../../wire/tcp.ts";
import { isFlow4 } from "../frame_head.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import {
  RTO_FIRST_MS,
  RTO_LONGEST_MS,
  RTO_SYN_MS,
  TcpFlow,
  TcpState,
  TcpWord,
} from "./layout.ts";
import { dataHeadLength, sendSegment, writeSegmentHead } from "./segments.ts";
import type { TcpShared } from "./shared.ts";

/** Payload of the largest frame, whatever the headers. */
const LARGE_PAYLOAD = 65535 - 60;
const DISCARD_PIECE = 65536;
/** Bytes read over and over for want of SO_PEEK_OFF; as iovecs they leave room for data. */
const MOST_SKIPPED = 4 << 20;
const SMALLEST_FRAGMENT = 256;
/** Bytes asked for in the first read of a flow. */
export const FIRST_READ = 4096;
/**
 * And in one read at most: two frames of the largest size, which the guest takes while the
 * next two are read. Of small frames it may be more, as they fill a ring more slowly.
 */
const LONGEST_READ = 2 << 16;
const LONGEST_SMALL = 3 << 16;
/**
 * Buffers that are shown to the guest before more are filled: an eighth of the usual ring,
 * so that both sides work at once. With a quarter, streams of large segments were slower.
 */
const SHOWN_AT_ONCE = 32;

/** How {@link sendData} ended. */
export const Sent = {
  /** Nothing more to send now: all is out, or the guest's window is full. */
  done: 0,
  /** The guest has no receive buffers. */
  starved: 1,
  /** The flow's share of this turn is used up. */
  turn: 2,
  /** The socket failed. */
  failed: 3,
} as const;

/** Bytes the guest has not acknowledged; a FIN counts as one. */
export function inFlight(t: TcpShared, flow: number): number {
  const at = flow * FLOW_WORDS;
  return t.words[at + TcpWord.seqToGuest] - t.words[at + TcpWord.ackFromGuest] | 0;
}

/** The guest's window in bytes, counted from its last acknowledgement. */
export function guestWindow(t: TcpShared, flow: number): number {
  const at = flow * FLOW_WORDS;
  const scale = t.words[at + TcpWord.counts] & 0xff;
  return (t.words[at + TcpWord.windows] & 0xffff) << scale;
}

/** Sends what the guest's window and buffers allow; see {@link Sent}. */
export function sendData(t: TcpShared, flow: number): number {
  dropAcknowledged(t, flow);
  const four = isFlow4(t.words, flow);
  const headLength = dataHeadLength(t, flow);
  const mss = t.words[flow * FLOW_WORDS + TcpWord.mss];
  const large = four ? t.largeReceive4 : t.largeReceive6;
  const segment = large ? Math.max(mss, LARGE_PAYLOAD - LARGE_PAYLOAD % mss) : mss;
  const longest = large ? LONGEST_READ : LONGEST_SMALL;
  const most = longest - longest % segment;
  const peekOffset = four ? t.peekOffset4 : t.peekOffset6;
  for (let turn = 0; turn < t.turnBytes;) {
    if (t.has(flow, TcpFlow.finToGuest)) {
      t.unmark(flow, TcpFlow.readable);
      return Sent.done;
    }
    const flying = inFlight(t, flow);
    let room = guestWindow(t, flow) - flying;
    if (room <= 0 || (!peekOffset && flying > MOST_SKIPPED)) return Sent.done;
    const hint = t.readHint[flow];
    if (room > hint) room = hint;
    if (room > most) room = most;
    t.in.count = 0;
    if (!peekOffset) skipInFlight(t, flying);
    const reserved = reserveFrames(t, headLength, segment, room);
    if (reserved === 0) {
      t.context.sink.end();
      return Sent.starved;
    }
    const skipped = peekOffset ? 0 : flying;
    let got = peek(t, flow);
    if (got > 0) {
      got -= skipped;
      if (got < 0) {
        // Urgent data lies between: a read does not go past its start.
        t.context.sink.end();
        return Sent.done;
      }
    }
    if (got <= 0) return nothingRead(t, flow, got, skipped);
    const drained = got < reserved && t.urgent[flow] === 0;
    commitFrames(t, flow, headLength, got, drained, mss, large, four);
    t.context.sink.end();
    if (t.context.sink.unseen >= SHOWN_AT_ONCE) t.context.showFrames();
    turn += got;
    adaptHint(t, flow, got, reserved);
    if (drained) {
      t.unmark(flow, TcpFlow.readable);
      if (!t.has(flow, TcpFlow.peerFin) || t.has(flow, TcpFlow.finToGuest)) {
        return Sent.done;
      }
    }
  }
  return Sent.turn;
}

/** What follows from a read that brought nothing (0) or failed (-1). */
function nothingRead(t: TcpShared, flow: number, got: number, skipped: number): number {
  t.context.sink.end();
  if (got === 0 && skipped > 0 && t.urgent[flow] !== 0) return Sent.done;
  t.urgent[flow] = 0;
  if (got < 0 && errno() === Errno.EINTR) return Sent.turn; // no event tells again
  if (got < 0 && errno() !== Errno.EAGAIN && skipped === 0) return Sent.failed;
  if (got === 0 && (skipped === 0 || t.has(flow, TcpFlow.peerFin))) {
    if (t.has(flow, TcpFlow.failed)) return Sent.failed;
    t.mark(flow, TcpFlow.peerFin);
    return sendFin(t, flow);
  }
  t.unmark(flow, TcpFlow.readable);
  return Sent.done;
}

/** Reserving buffers costs time: a flow gets as many as it filled lately. */
function adaptHint(t: TcpShared, flow: number, got: number, reserved: number): void {
  const hint = t.readHint[flow];
  if (got === reserved) t.readHint[flow] = Math.min(hint * 4, LONGEST_SMALL);
  else if (got * 4 < hint) t.readHint[flow] = Math.max(hint >> 1, FIRST_READ);
}

/** Reserves frames for up to `room` bytes of payload; returns how many bytes fit. */
function reserveFrames(
  t: TcpShared,
  headLength: number,
  segment: number,
  room: number,
): number {
  const { sink } = t.context;
  sink.begin();
  let total = 0;
  while (total < room && sink.frames < MAX_FRAMES) {
    const left = room - total;
    let want = left < segment ? left : segment;
    let fits = sink.reserve(headLength, want, t.in);
    // All the guest's buffers together may be too small for it.
    while (fits < 0 && total === 0 && want > SMALLEST_FRAGMENT) {
      want >>= 1;
      fits = sink.reserve(headLength, want, t.in);
    }
    if (fits < 0) break;
    // 0: a buffer that does not merge holds headers alone, and goes to the guest so.
    t.frameRoom[sink.frames - 1] = fits;
    total += fits;
  }
  return total;
}

/** Without SO_PEEK_OFF, a peek starts at the first byte not acknowledged. */
function skipInFlight(t: TcpShared, flying: number): void {
  for (let left = flying; left > 0; left -= DISCARD_PIECE) {
    t.in.add(t.discardAddress, left < DISCARD_PIECE ? left : DISCARD_PIECE);
    if (t.in.count === t.in.capacity) return;
  }
}

function peek(t: TcpShared, flow: number): number {
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  t.inMessage.setIovecs(0, t.in.address, t.in.count);
  return recvmsg(fd, t.inMessage.pointer, MSG_PEEK | MSG_DONTWAIT);
}

/**
 * Writes headers for `got` bytes that lie in the reserved frames. The last one takes the
 * peer's FIN along if they were all there is.
 */
function commitFrames(
  t: TcpShared,
  flow: number,
  headLength: number,
  got: number,
  drained: boolean,
  mss: number,
  large: boolean,
  four: boolean,
): void {
  const at = flow * FLOW_WORDS;
  const words = t.words;
  const fin = drained && t.has(flow, TcpFlow.peerFin) && !t.has(flow, TcpFlow.failed);
  const last = TcpFlag.ack | (drained ? TcpFlag.psh : 0) | (fin ? TcpFlag.fin : 0);
  let sequence = words[at + TcpWord.seqToGuest];
  let left = got;
  for (let frame = 0; left > 0; frame++) {
    const room = t.frameRoom[frame];
    const payload = room < left ? room : left;
    left -= payload;
    const flags = left === 0 ? last : TcpFlag.ack;
    const start = writeSegmentHead(t, flow, sequence, flags, TCP_HEADER_SIZE, payload);
    let gso: number = GsoType.none;
    if (large && payload > mss) gso = four ? GsoType.tcp4 : GsoType.tcp6;
    t.context.sink.commit(
      frame,
      headLength,
      payload,
      start,
      TCP_CHECKSUM_AT,
      gso,
      mss,
    );
    sequence = sequence + payload | 0;
  }
  if (fin) {
    sequence = sequence + 1 | 0;
    t.mark(flow, TcpFlow.finToGuest | TcpFlow.finSent);
  }
  advance(t, flow, sequence);
  t.unmark(flow, TcpFlow.ackDue);
}

/** All before `sequence` has gone to the guest. */
function advance(t: TcpShared, flow: number, sequence: number): void {
  const words = t.words;
  const at = flow * FLOW_WORDS;
  if (inFlight(t, flow) === 0) armRetransmit(t, flow);
  words[at + TcpWord.seqToGuest] = sequence;
  if ((sequence - words[at + TcpWord.seqMax] | 0) > 0) {
    words[at + TcpWord.seqMax] = sequence;
  }
}

/** Passes the peer's FIN on, after everything before it. */
function sendFin(t: TcpShared, flow: number): number {
  const at = flow * FLOW_WORDS;
  const sequence = t.words[at + TcpWord.seqToGuest];
  if (!sendSegment(t, flow, sequence, TcpFlag.fin | TcpFlag.ack)) return Sent.starved;
  advance(t, flow, sequence + 1 | 0);
  t.mark(flow, TcpFlow.finToGuest | TcpFlow.finSent);
  t.unmark(flow, TcpFlow.ackDue | TcpFlow.readable);
  return Sent.done;
}

/** Starts the retransmission timer (RFC 6298, 5.1), backed off by the retries so far. */
export function armRetransmit(t: TcpShared, flow: number): void {
  const { now, timers } = t.context;
  const first = t.state(flow) === TcpState.established ? RTO_FIRST_MS : RTO_SYN_MS;
  const wait = Math.min(first * (1 << Math.min(t.retries(flow), 20)), RTO_LONGEST_MS);
  t.retransmitAt[flow] = now + wait;
  timers.setEarlier(flow, now + wait);
}

/**
 * Goes back to the first byte that the guest has not acknowledged; not if the socket cannot:
 * what it gave next would be taken for what is sent again. The timer has it tried anew.
 */
export function rewind(t: TcpShared, flow: number): void {
  const at = flow * FLOW_WORDS;
  dropAcknowledged(t, flow);
  if (!peekFromStart(t, flow)) return;
  t.words[at + TcpWord.seqToGuest] = t.words[at + TcpWord.ackFromGuest];
  t.unmark(flow, TcpFlow.finToGuest | TcpFlow.shrunk);
  t.mark(flow, TcpFlow.readable | TcpFlow.recovering);
  t.recover[flow] = t.words[at + TcpWord.seqMax];
  t.counters.retransmits++;
}

/** The next peek is to start at the first byte in the socket; false if it would not. */
function peekFromStart(t: TcpShared, flow: number): boolean {
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  if (setOption(fd, SOL_SOCKET, SO_PEEK_OFF, 0) === 0) return true;
  return !(isFlow4(t.words, flow) ? t.peekOffset4 : t.peekOffset6);
}

/**
 * Drops from the socket what the guest has acknowledged: once for all acknowledgements of
 * a batch, and before anything that counts from the first byte in the socket.
 */
export function dropAcknowledged(t: TcpShared, flow: number): void {
  let left = t.undropped[flow];
  if (left === 0) return;
  t.undropped[flow] = 0;
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  while (left > 0) {
    const dropped = recv(fd, null, left, MSG_TRUNC | MSG_DONTWAIT);
    if (dropped <= 0) {
      t.undropped[flow] = left; // in repair mode, by a helper that was late
      return;
    }
    left -= dropped;
  }
}

/**
 * Takes an acknowledgement of the guest: `acknowledge - ackFromGuest` bytes are to be
 * dropped from the socket. The caller has checked that it is at most seqMax.
 */
export function acceptAck(t: TcpShared, flow: number, acknowledge: number): void {
  const words = t.words;
  const at = flow * FLOW_WORDS;
  let bytes = acknowledge - words[at + TcpWord.ackFromGuest] | 0;
  const ahead = acknowledge - words[at + TcpWord.seqToGuest] | 0;
  words[at + TcpWord.ackFromGuest] = acknowledge;
  if (t.retries(flow) > 0) {
    t.setRetries(flow, 0);
    t.context.timers.setEarlier(flow, t.context.now + RTO_FIRST_MS);
  }
  if ((acknowledge - t.recover[flow] | 0) > 0) t.unmark(flow, TcpFlow.recovering);
  if (t.state(flow) !== TcpState.established) return;
  const all = acknowledge === words[at + TcpWord.seqMax];
  if (all && bytes > 0 && t.has(flow, TcpFlow.finSent)) {
    bytes--;
    t.mark(flow, TcpFlow.finToGuestAcked | TcpFlow.finToGuest);
  }
  t.undropped[flow] += bytes;
  if (ahead > 0) {
    // It had what was about to be sent again.
    words[at + TcpWord.seqToGuest] = acknowledge;
    dropAcknowledged(t, flow);
    if (!peekFromStart(t, flow)) {
      // What the socket gave next would be taken for what is due.
      t.unmark(flow, TcpFlow.readable);
      t.mark(flow, TcpFlow.failed);
      t.pushReady(flow);
    }
  }
  if (inFlight(t, flow) > 0) t.retransmitAt[flow] = t.context.now + RTO_FIRST_MS;
}
