/**
 * What both formats tell of a socket in the same order: 4 bytes each of the number of the
 * first byte in the send queue, that of the receive queue, the send queue's length, that
 * of its part never sent, the receive queue's length, TCP_MAXSEG, TCP_TIMESTAMP, and
 * TCP_REPAIR_WINDOW (snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup).
 */
import type { FieldReader, FieldWriter } from "./fields.ts";
import type { MovedTcp } from "./model.ts";
import { MAX_QUEUE, MAX_WINDOW } from "./sections.ts";

/** The words but for the lengths. */
export type SocketWords = Pick<
  MovedTcp,
  | "sendSequence"
  | "receiveSequence"
  | "notSent"
  | "mss"
  | "timestamp"
  | "sndWl1"
  | "sndWnd"
  | "maxWindow"
  | "rcvWnd"
  | "rcvWup"
>;

/** With their queues. */
export type QueuedSocket = SocketWords & Pick<MovedTcp, "sendQueue" | "receiveQueue">;

/** Bounds that differ: those of a send queue's length, and the least segment size. */
export interface SocketLimits {
  readonly leastSend: number;
  readonly mostSend: number;
  readonly leastMss: number;
}

const USUAL: SocketLimits = { leastSend: 0, mostSend: MAX_QUEUE, leastMss: 1 };

/** Writes what {@link readSocketWords} reads. */
export function writeSocketWords(out: FieldWriter, socket: QueuedSocket): void {
  out.u32(socket.sendSequence);
  out.u32(socket.receiveSequence);
  out.u32(socket.sendQueue.length);
  out.u32(socket.notSent);
  out.u32(socket.receiveQueue.length);
  out.u32(socket.mss);
  out.u32(socket.timestamp);
  out.u32(socket.sndWl1);
  out.u32(socket.sndWnd);
  out.u32(socket.maxWindow);
  out.u32(socket.rcvWnd);
  out.u32(socket.rcvWup);
}

/** @throws StateError where a value cannot be */
export function readSocketWords(
  reader: FieldReader,
  { leastSend, mostSend, leastMss } = USUAL,
): { words: SocketWords; sendLength: number; receiveLength: number } {
  const sendSequence = reader.u32();
  const receiveSequence = reader.u32();
  const sendLength = reader.range(
    "send queue's length",
    reader.u32(),
    leastSend,
    mostSend,
  );
  const notSent = reader.range("bytes not sent", reader.u32(), 0, sendLength);
  const receiveLength = reader.range(
    "receive queue's length",
    reader.u32(),
    0,
    MAX_QUEUE,
  );
  // The fields are read in the order they stand in here.
  const words = {
    sendSequence,
    receiveSequence,
    notSent,
    mss: reader.range("MSS", reader.u32(), leastMss, 65535),
    timestamp: reader.u32(),
    sndWl1: reader.u32(),
    sndWnd: reader.range("snd_wnd", reader.u32(), 0, MAX_WINDOW),
    maxWindow: reader.range("max_window", reader.u32(), 0, MAX_WINDOW),
    rcvWnd: reader.range("rcv_wnd", reader.u32(), 0, MAX_WINDOW),
    rcvWup: reader.u32(),
  };
  return { words, sendLength, receiveLength };
}
