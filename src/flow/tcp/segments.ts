/** Segments without payload for the guest: SYN, ACK, FIN, RST. */
import { Protocol } from "../../wire/ip.ts";
import {
  TCP_CHECKSUM_AT,
  TCP_HEADER_SIZE,
  TCP_SYN_OPTIONS_SIZE,
  TCP_WINDOW_AT,
  TcpFlag,
  writeTcp,
  writeTcpSynOptions,
} from "../../wire/tcp.ts";
import { flowPseudoSum, HEAD4, HEAD6, isFlow4, writeFlowHead } from "../frame_head.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { OUR_WINDOW_SCALE, TcpFlow, TcpState, TcpWord } from "./layout.ts";
import type { TcpShared } from "./shared.ts";

/** Length of all headers of a data segment to the guest. */
export function dataHeadLength(t: TcpShared, flow: number): number {
  return (isFlow4(t.words, flow) ? HEAD4 : HEAD6) + TCP_HEADER_SIZE;
}

/** Payload bytes per segment that fit the MTU of the guest's link. */
export function linkMss(t: TcpShared, flow: number): number {
  const overhead = isFlow4(t.words, flow) ? 40 : 60;
  return Math.min(t.context.mtu, 65535) - overhead;
}

/**
 * Writes all headers of a segment of the flow into the sink's head, checksum partial,
 * with the acknowledgement and window that the entry holds.
 *
 * @returns offset of the TCP header
 */
export function writeSegmentHead(
  t: TcpShared,
  flow: number,
  sequence: number,
  flags: number,
  headerLength: number,
  payload: number,
): number {
  const words = t.words;
  const at = flow * FLOW_WORDS;
  const length = headerLength + payload;
  const transportAt = writeFlowHead(t.context, flow, Protocol.tcp, length);
  const head = t.context.sink.head;
  const ports = words[at + FlowWord.guestPorts];
  writeTcp(
    head,
    transportAt,
    ports >>> 16,
    ports & 0xffff,
    sequence >>> 0,
    (flags & TcpFlag.ack) !== 0 ? words[at + TcpWord.ackToGuest] >>> 0 : 0,
    headerLength,
    flags,
    words[at + TcpWord.windows] >>> 16,
  );
  const partial = flowPseudoSum(head, transportAt, Protocol.tcp, length);
  head.setUint16(transportAt + TCP_CHECKSUM_AT, partial);
  return transportAt;
}

/** Sends a bare segment; false if the guest has no buffer for it. */
export function sendSegment(
  t: TcpShared,
  flow: number,
  sequence: number,
  flags: number,
): boolean {
  const { sink } = t.context;
  const length = dataHeadLength(t, flow);
  sink.begin();
  if (sink.reserve(length, 0, undefined) < 0) return false;
  const at = writeSegmentHead(t, flow, sequence, flags, TCP_HEADER_SIZE, 0);
  sink.commit(0, length, 0, at, TCP_CHECKSUM_AT, 0, 0);
  sink.end();
  return true;
}

/** Sends SYN, or SYN and ACK, with the options that the flow's state asks for. */
export function sendSyn(t: TcpShared, flow: number): boolean {
  const { sink } = t.context;
  const size = TCP_HEADER_SIZE + TCP_SYN_OPTIONS_SIZE;
  const length = dataHeadLength(t, flow) + TCP_SYN_OPTIONS_SIZE;
  sink.begin();
  if (sink.reserve(length, 0, undefined) < 0) return false;
  const flags = t.state(flow) === TcpState.synSent
    ? TcpFlag.syn
    : TcpFlag.syn | TcpFlag.ack;
  const word = flow * FLOW_WORDS;
  const sequence = t.words[word + TcpWord.seqToGuest] - 1;
  const at = writeSegmentHead(t, flow, sequence, flags, size, 0);
  const scaled = flags === TcpFlag.syn || (t.words[word + TcpWord.counts] & 0xff00) !== 0;
  // Never scaled (RFC 7323, section 2.2), so not what the entry holds.
  sink.head.setUint16(at + TCP_WINDOW_AT, 0xffff);
  writeTcpSynOptions(sink.head, at, linkMss(t, flow), scaled ? OUR_WINDOW_SCALE : -1);
  sink.commit(0, length, 0, at, TCP_CHECKSUM_AT, 0, 0);
  sink.end();
  return true;
}

/**
 * Acknowledges with the values in the entry; owes it where there is no buffer. Its number
 * is SND.NXT: after a rewind, seqToGuest may lie before what the guest takes, which would
 * answer it.
 */
export function sendAck(t: TcpShared, flow: number): void {
  const sequence = t.words[flow * FLOW_WORDS + TcpWord.seqMax];
  if (sendSegment(t, flow, sequence, TcpFlag.ack)) t.unmark(flow, TcpFlow.ackDue);
  else {
    t.mark(flow, TcpFlow.ackDue);
    t.pushReady(flow);
  }
}

/** Tells the guest that the connection is gone. */
export function sendReset(t: TcpShared, flow: number): void {
  const at = flow * FLOW_WORDS;
  if (t.state(flow) === TcpState.connecting) {
    // Refused: RST answers the SYN, whose number is acknowledged (RFC 9293, 3.10.7.3).
    t.words[at + TcpWord.ackToGuest] = t.words[at + TcpWord.isnFromGuest] + 1;
    sendSegment(t, flow, 0, TcpFlag.rst | TcpFlag.ack);
    return;
  }
  sendSegment(t, flow, t.words[at + TcpWord.seqToGuest], TcpFlag.rst | TcpFlag.ack);
}
