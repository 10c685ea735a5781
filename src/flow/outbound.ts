/** What sockets towards the outside have in common. */
import { Errno } from "../../ffi/errno.ts";
import {
  bindSocket,
  bindToDevice,
  IP_BIND_ADDRESS_NO_PORT,
  IP_MTU_DISCOVER,
  IPV6_MTU_DISCOVER,
  setOption,
  SOL_IP,
  SOL_IPV6,
} from "../../ffi/socket.ts";
import type { FamilyConfig } from "../config.ts";
import { isLoopback } from "../wire/address.ts";
import { ipv4DontFragment } from "../wire/ipv4.ts";
import type { FlowContext } from "./context.ts";

const ETHERNET_MTU = 1500;

/**
 * Whether the host may cut the guest's current packet up where it exceeds the path's MTU.
 * Of a packet with Don't Fragment, and of IPv6, the guest is told "too big" instead, which
 * is what path MTU discovery lives on. But a packet that no Ethernet carries whole is cut
 * in any case: its sender never thought of the path, only of a guest's link with a large
 * MTU, and the fragments that it would send when told are refused here.
 *
 * @param upper bytes of transport header and payload, where that isn't all of the frame
 */
export function mayFragment(
  { packet, source }: FlowContext,
  upper: number = packet.transportLength,
): boolean {
  if (packet.transportAt - packet.ipAt + upper > ETHERNET_MTU) return true;
  return packet.version === 4 && !ipv4DontFragment(source.head, packet.ipAt);
}

/** Code of Destination Unreachable for a local error (RFC 792, RFC 4443 3.1), or -1. */
export function unreachableCode(number: number, four: boolean): number {
  switch (number) {
    case Errno.ENETUNREACH:
    case Errno.ENETDOWN:
    case Errno.EADDRNOTAVAIL:
      return 0;
    case Errno.EHOSTUNREACH:
    case Errno.EHOSTDOWN:
      return four ? 1 : 3;
    case Errno.EACCES:
    case Errno.EPERM:
      return four ? 13 : 1;
    default:
      return -1;
  }
}

/** IP_MTU_DISCOVER, or what IPv6 has; 0, or -1 with errno(). */
export function setDiscovery(fd: number, four: boolean, mode: number): number {
  return four
    ? setOption(fd, SOL_IP, IP_MTU_DISCOVER, mode)
    : setOption(fd, SOL_IPV6, IPV6_MTU_DISCOVER, mode);
}

/**
 * Binds a socket that is to be connected to `peer` (16 bytes) as its family is configured
 * (-o, --outbound-if4, --outbound-if6). Sockets to the host itself are not bound: they come from loopback, too.
 *
 * @returns false with errno() if that is not possible, an interface that is gone
 *   included: nothing may leave by another one then
 */
export function bindOutbound(
  fd: number,
  peer: Uint8Array,
  family: FamilyConfig | undefined,
): boolean {
  if (family === undefined || isLoopback(peer)) return true;
  const { outbound, outboundInterface } = family;
  if (outboundInterface !== undefined && bindToDevice(fd, outboundInterface) === -1) {
    return false;
  }
  if (outbound === undefined) return true;
  // connect() finds a port then, which only has to be free towards its peer.
  setOption(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  return bindSocket(fd, outbound, 0, 0) === 0;
}
