/** Neighbour Discovery (RFC 4861): bodies of its ICMPv6 messages and their options. */
import { ADDRESS_SIZE } from "./address.ts";
import { ICMPV6_HEADER_SIZE, IcmpV6Type } from "./icmpv6.ts";
import { writeMac } from "./ethernet.ts";
import { copyAddress } from "./ipv6.ts";

/** Target address of a neighbour solicitation or advertisement. */
export const NDP_TARGET_AT = 8;
/** Size of a neighbour solicitation or advertisement without options (4.3, 4.4). */
export const NEIGHBOUR_SIZE = 24;
/** Size of a router solicitation without options (4.1). */
export const ROUTER_SOLICITATION_SIZE = 8;
/** Size of a router advertisement without options (4.2). */
export const ROUTER_ADVERTISEMENT_SIZE = 16;
/** Hop limit of every NDP packet: proof that no router has passed it on. */
export const NDP_HOP_LIMIT = 255;

export const NeighbourFlag = { router: 0x80, solicited: 0x40, override: 0x20 } as const;
export const RouterFlag = { managed: 0x80, otherConfig: 0x40 } as const;

/** Option types (RFC 4861, section 4.6; RFC 8106). */
export const NdpOption = {
  sourceLinkLayer: 1,
  targetLinkLayer: 2,
  prefix: 3,
  mtu: 5,
  /** Recursive DNS servers and DNS search list (RFC 8106). */
  rdnss: 25,
  dnssl: 31,
} as const;

export const LINK_LAYER_OPTION_SIZE = 8;
export const INFINITE_LIFETIME = 0xffffffff;

/** On-link and autonomous address-configuration flag (4.6.2). */
const PREFIX_FLAGS = 0xc0;

/**
 * Whether the options from `at` to `end` are well formed, none of length 0 (4.6); with
 * `noSource`, none of them may be the source's link-layer address.
 */
export function ndpOptionsOk(
  view: DataView,
  at: number,
  end: number,
  noSource: boolean,
): boolean {
  while (at < end) {
    if (at + 8 > end) return false;
    const size = view.getUint8(at + 1) << 3;
    if (size === 0 || at + size > end) return false;
    if (noSource && view.getUint8(at) === NdpOption.sourceLinkLayer) return false;
    at += size;
  }
  return true;
}

/** Writes a source or target link-layer address option; returns the offset after it. */
export function writeLinkLayerOption(
  view: DataView,
  at: number,
  type: number,
  mac: Uint8Array,
): number {
  view.setUint8(at, type);
  view.setUint8(at + 1, 1);
  writeMac(view, at + 2, mac);
  return at + LINK_LAYER_OPTION_SIZE;
}

/**
 * Writes a neighbour advertisement with a target link-layer address option, checksum 0.
 *
 * @param flags of {@link NeighbourFlag}
 * @returns the offset after it
 */
export function writeNeighbourAdvertisement(
  view: DataView,
  at: number,
  flags: number,
  target: DataView,
  targetAt: number,
  mac: Uint8Array,
): number {
  view.setUint32(at, IcmpV6Type.neighbourAdvertisement << 24);
  view.setUint32(at + 4, flags << 24);
  copyAddress(target, targetAt, view, at + NDP_TARGET_AT);
  return writeLinkLayerOption(
    view,
    at + NEIGHBOUR_SIZE,
    NdpOption.targetLinkLayer,
    mac,
  );
}

/**
 * Writes a router advertisement without options, checksum 0. Reachable time and
 * retransmission timer are left to the host.
 *
 * @param flags of {@link RouterFlag}
 * @param lifetime seconds for which the sender is a default router, up to 9000
 * @returns the offset after it, where options go
 */
export function writeRouterAdvertisement(
  view: DataView,
  at: number,
  hopLimit: number,
  flags: number,
  lifetime: number,
): number {
  view.setUint32(at, IcmpV6Type.routerAdvertisement << 24);
  view.setUint8(at + 4, hopLimit);
  view.setUint8(at + 5, flags);
  view.setUint16(at + 6, lifetime);
  view.setUint32(at + ICMPV6_HEADER_SIZE, 0);
  view.setUint32(at + ICMPV6_HEADER_SIZE + 4, 0);
  return at + ROUTER_ADVERTISEMENT_SIZE;
}

/**
 * Writes a prefix information option (4.6.2): on-link, for autonomous configuration,
 * valid for ever. `prefix` has no bits set beyond `prefixLength`.
 */
export function writePrefixOption(
  view: DataView,
  at: number,
  prefix: Uint8Array,
  prefixLength: number,
): number {
  view.setUint8(at, NdpOption.prefix);
  view.setUint8(at + 1, 4);
  view.setUint8(at + 2, prefixLength);
  view.setUint8(at + 3, PREFIX_FLAGS);
  view.setUint32(at + 4, INFINITE_LIFETIME);
  view.setUint32(at + 8, INFINITE_LIFETIME);
  view.setUint32(at + 12, 0);
  writeBytes(view, at + 16, prefix);
  return at + 16 + ADDRESS_SIZE;
}

/** Writes an MTU option (4.6.4). */
export function writeMtuOption(view: DataView, at: number, mtu: number): number {
  view.setUint8(at, NdpOption.mtu);
  view.setUint8(at + 1, 1);
  view.setUint16(at + 2, 0);
  view.setUint32(at + 4, mtu);
  return at + 8;
}

/** Writes a recursive DNS server option (RFC 8106, section 5.1), 1 to 127 addresses. */
export function writeRdnssOption(
  view: DataView,
  at: number,
  servers: readonly Uint8Array[],
): number {
  view.setUint8(at, NdpOption.rdnss);
  view.setUint8(at + 1, 1 + 2 * servers.length);
  view.setUint16(at + 2, 0);
  view.setUint32(at + 4, INFINITE_LIFETIME);
  for (const [i, server] of servers.entries()) {
    writeBytes(view, at + 8 + i * ADDRESS_SIZE, server);
  }
  return at + 8 + servers.length * ADDRESS_SIZE;
}

/**
 * Writes a DNS search list option (RFC 8106, section 5.2).
 *
 * @param names in the DNS's uncompressed form one after another, up to 2032 bytes
 */
export function writeDnsslOption(view: DataView, at: number, names: Uint8Array): number {
  const units = Math.ceil(names.length / 8);
  view.setUint8(at, NdpOption.dnssl);
  view.setUint8(at + 1, 1 + units);
  view.setUint16(at + 2, 0);
  view.setUint32(at + 4, INFINITE_LIFETIME);
  for (let i = names.length; i < 8 * units; i++) view.setUint8(at + 8 + i, 0);
  writeBytes(view, at + 8, names);
  return at + 8 + 8 * units;
}

function writeBytes(view: DataView, at: number, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) view.setUint8(at + i, bytes[i]);
}
