/** Where sockets towards the outside are bound to: -o, --outbound-if4, --outbound-if6. */
import { bindSocket, bindToDevice } from "../../ffi/socket.ts";
import type { FamilyConfig } from "../config.ts";
import { isLoopback } from "../wire/address.ts";

/**
 * Binds a socket that is to be connected to `peer` (16 bytes) as its family is
 * configured. Sockets to the host itself are not bound: they come from loopback, too.
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
  return outbound === undefined || bindSocket(fd, outbound, 0, 0) === 0;
}
