/**
 * Which address outside an address of the guest's side stands for, and back. The rules
 * are passt's, so that --map-host-loopback, --map-guest-addr, --dns-forward and their
 * defaults mean the same:
 *
 * | the guest sends to              | goes to                          |
 * | ------------------------------- | -------------------------------- |
 * | dnsForward, ports 53 and 853    | dnsHost                          |
 * | mapHostLoopback                 | 127.0.0.1, ::1                   |
 * | mapGuestAddress                 | the address given to the guest,  |
 * |                                 | which is the host's own          |
 * | anything else                   | that                             |
 * | itself, loopback, unspecified,  | nowhere                          |
 * | multicast, broadcast            |                                  |
 *
 * | a peer that opens a flow        | is seen as                       |
 * | ------------------------------- | -------------------------------- |
 * | loopback                        | mapHostLoopback, else ourAddress |
 * | the guest's own address         | mapGuestAddress, else as above   |
 * | anything else, link-local too   | itself                           |
 *
 * Replies need no rule: a flow keeps the addresses that it was opened with.
 */
import { interfaceIndex } from "../../ffi/socket.ts";
import type { Config, FamilyConfig } from "../config.ts";
import type { GuestState } from "../services/guest_state.ts";
import {
  isBroadcast,
  isIPv4,
  isLinkLocal,
  isLoopback,
  isMulticast,
  isUnspecified,
  parseAddress,
  sameAddress,
} from "../wire/address.ts";
import { Protocol } from "../wire/ip.ts";

const DNS_PORT = 53;
/** DNS over TLS (RFC 7858) and over DTLS (RFC 8094). */
const DNS_TLS_PORT = 853;

/** Loopback addresses of either family, as 16 bytes. */
export const LOOPBACK4 = parseAddress("127.0.0.1") as Uint8Array;
export const LOOPBACK6 = parseAddress("::1") as Uint8Array;

/** Translates addresses between the guest's link and the host. */
export class AddressMap {
  /**
   * Interface index for link-local peers that the guest names (sin6_scope_id): that of
   * the outbound interface, 0 if none was given.
   */
  scope = 0;
  readonly #ip4: FamilyConfig | undefined;
  readonly #ip6: FamilyConfig | undefined;
  readonly #guest: GuestState;

  constructor(config: Config, guest: GuestState) {
    this.#ip4 = config.ip4;
    this.#ip6 = config.ip6;
    this.#guest = guest;
    const name = config.ip6?.outboundInterface;
    if (name !== undefined) this.scope = interfaceIndex(name);
  }

  /**
   * Where a packet of the guest to the 16 bytes at `at` of `bytes` goes: writes the 16
   * bytes of the address outside to `to`.
   *
   * @param port destination port, 0 for ICMP
   * @param protocol IP protocol number
   * @returns the port outside, or -1 if there is no way out
   */
  outward(
    bytes: Uint8Array,
    at: number,
    port: number,
    protocol: number,
    to: Uint8Array,
  ): number {
    const four = isIPv4(bytes, at);
    const family = four ? this.#ip4 : this.#ip6;
    if (family === undefined) return -1;
    const { dnsForward, dnsHost, mapHostLoopback, mapGuestAddress } = family;
    if (
      dnsForward !== undefined && dnsHost !== undefined && isDns(port, protocol) &&
      sameAddress(bytes, dnsForward, at)
    ) {
      to.set(dnsHost);
    } else if (mapHostLoopback !== undefined && sameAddress(bytes, mapHostLoopback, at)) {
      to.set(four ? LOOPBACK4 : LOOPBACK6);
    } else if (mapGuestAddress !== undefined && sameAddress(bytes, mapGuestAddress, at)) {
      if (isUnspecified(family.address)) return -1;
      to.set(family.address);
    } else {
      if (this.#isGuest(bytes, at, four) || isNowhere(bytes, at)) return -1;
      for (let i = 0; i < 16; i++) to[i] = bytes[at + i];
    }
    return port;
  }

  /**
   * How the guest sees a peer that opens a flow towards it: writes 16 bytes to `to`.
   *
   * @param peer its address, 16 bytes
   * @param scope interface index of a link-local peer. The guest sees the address alone:
   *   peers of one address on several links are one to it
   * @returns false if the peer cannot be shown to the guest: its family is off, or the
   *   address is none that packets come from
   */
  inward(peer: Uint8Array, _scope: number, to: Uint8Array): boolean {
    const four = isIPv4(peer);
    const family = four ? this.#ip4 : this.#ip6;
    if (family === undefined) return false;
    if (isLoopback(peer)) return put(family.mapHostLoopback ?? family.ourAddress, to);
    if (isNowhere(peer, 0)) return false;
    if (this.#isGuest(peer, 0, four) || sameAddress(peer, family.address)) {
      const { mapGuestAddress, mapHostLoopback, ourAddress } = family;
      return put(mapGuestAddress ?? mapHostLoopback ?? ourAddress, to);
    }
    to.set(peer);
    return true;
  }

  /** Whether an address is one that the guest itself uses. */
  #isGuest(bytes: Uint8Array, at: number, four: boolean): boolean {
    const guest = this.#guest;
    if (four) return sameAddress(bytes, guest.address4, at);
    return isLinkLocal(bytes, at)
      ? sameAddress(bytes, guest.linkLocal6, at)
      : sameAddress(bytes, guest.address6, at);
  }
}

function isDns(port: number, protocol: number): boolean {
  return (port === DNS_PORT || port === DNS_TLS_PORT) &&
    (protocol === Protocol.udp || protocol === Protocol.tcp);
}

/** No single other host has such an address. */
function isNowhere(bytes: Uint8Array, at: number): boolean {
  return isLoopback(bytes, at) || isUnspecified(bytes, at) || isMulticast(bytes, at) ||
    isBroadcast(bytes, at);
}

function put(address: Uint8Array, to: Uint8Array): boolean {
  if (isUnspecified(address)) return false;
  to.set(address);
  return true;
}
