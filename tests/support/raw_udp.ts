/** Datagrams that no UDP socket would send: with a wrong checksum (RFC 768). */
import { Arena } from "../../ffi/arena.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import {
  AF_INET,
  closeFd,
  connectSocket,
  IPPROTO_UDP,
  MSG_DONTWAIT,
  openSocket,
  sendmsg,
} from "../../ffi/socket.ts";

const SOCK_RAW = 3;

/**
 * Sends a datagram whose checksum is wrong to an IPv4 address (16 bytes).
 *
 * @returns false where this process may not (CAP_NET_RAW)
 */
export function sendDamaged(to: Uint8Array, port: number, length: number): boolean {
  const fd = openSocket(AF_INET, SOCK_RAW, IPPROTO_UDP);
  if (fd === -1) return false;
  const arena = new Arena(65536 + 4096);
  const at = arena.take(8 + length);
  const view = new DataView(arena.buffer, at, 8 + length);
  view.setUint16(0, 4321);
  view.setUint16(2, port);
  view.setUint16(4, 8 + length);
  view.setUint16(6, 1);
  for (let i = 0; i < length; i++) view.setUint8(8 + i, 0xee);
  const iovecs = new IovecArray(arena, 1);
  iovecs.add(arena.base + at, 8 + length);
  const message = new MessageArray(arena, 1);
  message.setIovecs(0, iovecs.address, 1);
  connectSocket(fd, to, 0, 0);
  const sent = sendmsg(fd, message.pointer, MSG_DONTWAIT);
  closeFd(fd);
  return sent === 8 + length;
}
