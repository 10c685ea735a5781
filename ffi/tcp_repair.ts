/**
 * A TCP connection taken apart and put together again: queues, sequence numbers, windows
 * and options of a socket in repair mode (TCP_REPAIR, linux/tcp.h). Only to switch the
 * mode needs rights; all that is here does not.
 */
import { Arena } from "./arena.ts";
import { Errno, errno } from "./errno.ts";
import { rare } from "./libc.ts";
import {
  getOption,
  getStructure,
  IPPROTO_TCP,
  optionWords,
  setOption,
  SOL_IP,
  SOL_SOCKET,
  TCP_INFO,
} from "./socket.ts";

const sys = rare({
  /** int setsockopt(int sockfd, int level, int optname, const void *val, socklen_t len) */
  setsockopt: { parameters: ["i32", "i32", "i32", "pointer", "u32"], result: "i32" },
  /** int getsockopt(int sockfd, int level, int optname, void *val, socklen_t *len) */
  getsockopt: { parameters: ["i32", "i32", "i32", "pointer", "pointer"], result: "i32" },
  /** ssize_t send(int sockfd, const void *buf, size_t len, int flags) */
  send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  /** ssize_t recv(int sockfd, void *buf, size_t len, int flags) */
  recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
});

const TCP_REPAIR_QUEUE = 20;
const TCP_QUEUE_SEQ = 21;
const TCP_REPAIR_OPTIONS = 22;
const TCP_TIMESTAMP = 24;
const TCP_REPAIR_WINDOW = 29;
const SO_BINDTODEVICE = 25;
const SO_BINDTOIFINDEX = 62;
const IP_OPTIONS = 4;

/** Option codes of RFC 9293, section 3.2, RFC 7323 and RFC 2018, which the kernel takes. */
const OPTION_MSS = 2;
const OPTION_WINDOW_SCALE = 3;
const OPTION_SACK = 4;
const OPTION_TIMESTAMPS = 8;

/** Bits of tcpi_options. */
export const InfoOption = { timestamps: 1, sack: 2, windowScale: 4 } as const;

/** For {@link selectQueue}. */
export const RepairQueue = { receive: 1, send: 2 } as const;

/** tcp_repair_opt[4] or tcp_repair_window. */
const arena = new Arena(4096);
const VALUE_AT = arena.take(64);
const value = arena.pointer(VALUE_AT);
const words = arena.words(VALUE_AT, 16);
const LENGTH_AT = arena.take(8);
const length = arena.pointer(LENGTH_AT);

/** Chooses the queue that the calls below are about; 0, or -1 with errno(). */
export function selectQueue(fd: number, queue: number): number {
  return setOption(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);
}

/**
 * Number after the last byte of the selected queue, as 32 bits without sign; -1 with
 * errno() if it cannot be read.
 */
export function queueSequence(fd: number): number {
  return getStructure(fd, IPPROTO_TCP, TCP_QUEUE_SEQ) === 4 ? optionWords[0] : -1;
}

/** Sets that of an empty queue, before connect(); 0, or -1 with errno(). */
export function setQueueSequence(fd: number, sequence: number): number {
  return setOption(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, sequence | 0);
}

/** The value that goes out in timestamps now (TSval), without sign; -1 with errno(). */
export function timestamp(fd: number): number {
  return getStructure(fd, IPPROTO_TCP, TCP_TIMESTAMP) === 4 ? optionWords[0] : -1;
}
/** Makes timestamps go on from a value; 0, or -1 with errno(). */
export function setTimestamp(fd: number, at: number): number {
  return setOption(fd, IPPROTO_TCP, TCP_TIMESTAMP, at | 0);
}

/** Words of struct tcp_repair_window, in {@link windowWords} after {@link readWindows}. */
export const WindowWord = {
  sndWl1: 0,
  sndWnd: 1,
  maxWindow: 2,
  rcvWnd: 3,
  rcvWup: 4,
} as const;
const WINDOW_SIZE = 20;
/** The words of struct tcp_repair_window, in its order. */
export const windowWords: Uint32Array = words;

/** Reads TCP_REPAIR_WINDOW into {@link windowWords}; false with errno() on failure. */
export function readWindows(fd: number): boolean {
  arena.view.setUint32(LENGTH_AT, WINDOW_SIZE, true); // no other length is accepted
  return sys.getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, value, length) === 0;
}

/** Sets TCP_REPAIR_WINDOW, after the receive queue is filled; 0, or -1 with errno(). */
export function setWindows(
  fd: number,
  sndWl1: number,
  sndWnd: number,
  maxWindow: number,
  rcvWnd: number,
  rcvWup: number,
): number {
  words[WindowWord.sndWl1] = sndWl1;
  words[WindowWord.sndWnd] = sndWnd;
  words[WindowWord.maxWindow] = maxWindow;
  words[WindowWord.rcvWnd] = rcvWnd;
  words[WindowWord.rcvWup] = rcvWup;
  return sys.setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, value, WINDOW_SIZE);
}

/**
 * Sets what the handshake agreed on, after connect(); 0, or -1 with errno().
 *
 * @param options {@link InfoOption} bits
 * @param mss the clamp that the peer announced
 */
export function setAgreed(
  fd: number,
  options: number,
  mss: number,
  sendScale: number,
  receiveScale: number,
): number {
  let count = 0;
  words[count++] = OPTION_MSS;
  words[count++] = mss;
  // Without it the kernel would scale windows as it would for a connection of its own.
  const scaled = (options & InfoOption.windowScale) !== 0;
  words[count++] = OPTION_WINDOW_SCALE;
  words[count++] = scaled ? sendScale | (receiveScale << 16) : 0;
  if ((options & InfoOption.sack) !== 0) {
    words[count++] = OPTION_SACK;
    words[count++] = 0;
  }
  if ((options & InfoOption.timestamps) !== 0) {
    words[count++] = OPTION_TIMESTAMPS;
    words[count++] = 0;
  }
  return sys.setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, value, count * 4);
}

/**
 * Makes the kernel compute its segment size anew: from the clamp, the route and the
 * largest window. It does so when IP options change; these are none, as before. Works
 * for sockets of either family.
 */
export function refreshMss(fd: number): void {
  sys.setsockopt(fd, SOL_IP, IP_OPTIONS, null, 0);
}

/** send(); bytes taken, or -1 with errno(). In repair mode they enter the selected queue. */
export function sendBytes(fd: number, bytes: Uint8Array<ArrayBuffer>, flags = 0): number {
  let count: number;
  do {
    count = sys.send(fd, bytes, bytes.length, flags);
  } while (count === -1 && errno() === Errno.EINTR);
  return count;
}

/** recv(); bytes, 0 at the end, or -1 with errno(). */
export function receiveBytes(
  fd: number,
  into: Uint8Array<ArrayBuffer>,
  flags: number,
): number {
  let count: number;
  do {
    count = sys.recv(fd, into, into.length, flags);
  } while (count === -1 && errno() === Errno.EINTR);
  return count;
}

/** Name of the interface that the socket is bound to, "" if none. */
export function boundDevice(fd: number): string {
  if (getOption(fd, SOL_SOCKET, SO_BINDTOIFINDEX, 0) === 0) return "";
  const size = getStructure(fd, SOL_SOCKET, SO_BINDTODEVICE);
  if (size <= 1) return "";
  const bytes = new Uint8Array(optionWords.buffer, optionWords.byteOffset, size);
  return new TextDecoder().decode(bytes.slice(0, size - 1));
}

/** Bytes of struct tcp_info (linux/tcp.h) that {@link readInfo} copies out. */
export interface TcpInfo {
  state: number;
  options: number;
  sendScale: number;
  receiveScale: number;
  sendMss: number;
  /** Segments sent and not acknowledged; bytes accepted and not sent. */
  unacked: number;
  notSent: number;
}
const info: TcpInfo = {
  state: 0,
  options: 0,
  sendScale: 0,
  receiveScale: 0,
  sendMss: 0,
  unacked: 0,
  notSent: 0,
};

/** TCP_INFO, valid until the next call; undefined with errno() on failure. */
export function readInfo(fd: number): Readonly<TcpInfo> | undefined {
  if (getStructure(fd, IPPROTO_TCP, TCP_INFO) < 148) return undefined;
  info.state = optionWords[0] & 0xff;
  info.options = (optionWords[1] >>> 8) & 0xff;
  info.sendScale = (optionWords[1] >>> 16) & 0xf;
  info.receiveScale = (optionWords[1] >>> 20) & 0xf;
  info.sendMss = optionWords[4];
  info.unacked = optionWords[6];
  info.notSent = optionWords[36];
  return info;
}
