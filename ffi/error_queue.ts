/** A socket's error queue: ICMP errors that concern what was sent (ip(7), IP_RECVERR). */
import { Arena } from "./arena.ts";
import { IovecArray, MessageArray } from "./iovec.ts";
import {
  IP_PKTINFO,
  IP_RECVERR,
  IPV6_PKTINFO,
  IPV6_RECVERR,
  lastAddress,
  MSG_DONTWAIT,
  MSG_ERRQUEUE,
  readAddress,
  recvmsg,
  SOL_IP,
  SOL_IPV6,
} from "./socket.ts";

/** getsockopt() of a connected socket's path MTU (linux/in.h, linux/in6.h). */
export const IP_MTU = 14;
export const IPV6_MTU = 24;

/** Who found the error (linux/errqueue.h). */
export const ErrorOrigin = { local: 1, icmp: 2, icmp6: 3 } as const;

const QUOTED_SIZE = 576;
const CONTROL_SIZE = 512;
const NAME_SIZE = 32;
/** struct cmsghdr of a 64-bit kernel: length, level, type. */
const CMSG_HEADER = 16;
/** struct sock_extended_err; the offender's address follows. */
const EXTENDED_SIZE = 16;

const arena = new Arena(4096);
const quotedAt = arena.take(QUOTED_SIZE);
const controlAt = arena.take(CONTROL_SIZE);
const nameAt = arena.take(NAME_SIZE);
const iovecs = new IovecArray(arena, 1);
const message = new MessageArray(arena, 1);
iovecs.add(arena.base + quotedAt, QUOTED_SIZE);
message.setIovecs(0, iovecs.address, 1);
const view = arena.view;

/** What {@link readError} took from a queue last. */
export const lastError = {
  /** errno that the kernel made of it. */
  number: 0,
  /** {@link ErrorOrigin} */
  origin: 0,
  /** ICMP or ICMPv6 type and code. */
  type: 0,
  code: 0,
  /** Path MTU of "too big"; may be 0. */
  info: 0,
  /** Who sent the ICMP message, 16 bytes; all zero if that is unknown. */
  offender: new Uint8Array(16),
  /** Where it was sent to: 16 bytes and the port; all zero if that is unknown. */
  peer: new Uint8Array(16),
  peerPort: 0,
  /**
   * Where it was sent from, 16 bytes, on sockets with IP_PKTINFO or IPV6_RECVPKTINFO; all
   * zero if that is unknown.
   */
  local: new Uint8Array(16),
  /**
   * The start of what was sent, as far as it was quoted: of UDP the payload, of a ping
   * socket the ICMP header and payload.
   */
  quoted: new DataView(arena.buffer, quotedAt, QUOTED_SIZE),
  quotedLength: 0,
};

/** Takes one error from a socket's queue into {@link lastError}; false if there is none. */
export function readError(fd: number): boolean {
  message.setControl(0, arena.base + controlAt, CONTROL_SIZE);
  message.setName(0, arena.base + nameAt, NAME_SIZE);
  view.setUint16(nameAt, 0);
  const length = recvmsg(fd, message.pointer, MSG_ERRQUEUE | MSG_DONTWAIT);
  if (length < 0) return false;
  lastError.quotedLength = length;
  lastError.number =
    lastError.origin =
    lastError.type =
    lastError.code =
      0;
  lastError.info = 0;
  lastError.offender.fill(0);
  lastError.local.fill(0);
  const named = readAddress(view, nameAt);
  lastError.peerPort = named ? lastAddress.port : 0;
  if (named) lastError.peer.set(lastAddress.bytes);
  else lastError.peer.fill(0);
  const end = controlAt + Math.min(message.controlLength(0), CONTROL_SIZE);
  for (let at = controlAt; at + CMSG_HEADER <= end;) {
    const size = view.getUint32(at, true);
    if (size < CMSG_HEADER || at + size > end) break;
    const level = view.getInt32(at + 8, true);
    const type = view.getInt32(at + 12, true);
    const isError = level === SOL_IP && type === IP_RECVERR ||
      level === SOL_IPV6 && type === IPV6_RECVERR;
    if (isError && size >= CMSG_HEADER + EXTENDED_SIZE) readExtended(at + CMSG_HEADER);
    else if (!isError) readLocal(level, type, at + CMSG_HEADER, size - CMSG_HEADER);
    at += (size + 7) & ~7;
  }
  return true;
}

/** The address that the ICMP message came to is the one that its cause was sent from. */
function readLocal(level: number, type: number, at: number, size: number): void {
  const { local } = lastError;
  if (level === SOL_IP && type === IP_PKTINFO && size >= 12) {
    local[10] = local[11] = 0xff;
    for (let i = 0; i < 4; i++) local[12 + i] = view.getUint8(at + 8 + i);
  } else if (level === SOL_IPV6 && type === IPV6_PKTINFO && size >= 16) {
    for (let i = 0; i < 16; i++) local[i] = view.getUint8(at + i);
  }
}

function readExtended(at: number): void {
  lastError.number = view.getUint32(at, true);
  lastError.origin = view.getUint8(at + 4);
  lastError.type = view.getUint8(at + 5);
  lastError.code = view.getUint8(at + 6);
  lastError.info = view.getUint32(at + 8, true);
  if (readAddress(view, at + EXTENDED_SIZE)) lastError.offender.set(lastAddress.bytes);
}
