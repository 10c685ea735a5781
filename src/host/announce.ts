/** A guest has come to this host: its neighbours shall send here what is for it. */
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import { Arena } from "../../ffi/arena.ts";
import { SyscallError } from "../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  closeFd,
  connectSocket,
  IPPROTO_UDP,
  MSG_DONTWAIT,
  openSocket,
  sendmsg,
  SOCK_DGRAM,
} from "../../ffi/socket.ts";
import { isIPv4, isUnspecified } from "../wire/address.ts";

/** The discard service (RFC 863). */
const DISCARD_PORT = 9;

/**
 * Sends an empty datagram from the guest's address to the host's gateway. The kernel asks
 * for the gateway's link-layer address first, with ARP or NDP, and by that question,
 * which a process without rights cannot send itself, switches and the gateway learn where
 * the guest's address is now (RFC 826; RFC 4861, section 7.2.3).
 *
 * @param address,gateway 16 bytes each, of one family
 * @param scope interface index for a link-local gateway
 */
export function announceAt(
  address: Uint8Array,
  gateway: Uint8Array,
  scope: number,
): void {
  if (isUnspecified(address) || isUnspecified(gateway)) return;
  const fd = openSocket(isIPv4(address) ? AF_INET : AF_INET6, SOCK_DGRAM, IPPROTO_UDP);
  if (fd === -1) return;
  const ready = bindSocket(fd, address, 0, 0) === 0 &&
    connectSocket(fd, gateway, 0, DISCARD_PORT, scope) === 0;
  try {
    if (ready) sendmsg(fd, emptyMessage().pointer, MSG_DONTWAIT);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error; // no memory: nobody is told
  } finally {
    closeFd(fd);
  }
}

let message: MessageArray | undefined;

function emptyMessage(): MessageArray {
  if (message !== undefined) return message;
  const arena = new Arena(4096);
  const iovecs = new IovecArray(arena, 1);
  message = new MessageArray(arena, 1);
  message.setIovecs(0, iovecs.address, 0);
  return message;
}
