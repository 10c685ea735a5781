/**
 * Neighbour Discovery (RFC 4861): vuelo is the router on the guest's link, and every
 * IPv6 address but the guest's own is at its MAC address.
 */
import type { Config } from "../config.ts";
import {
  ADDRESS_SIZE,
  isIPv4,
  isLoopback,
  isMulticast,
  isUnspecified,
  MAC_SIZE,
  maskAddress,
  sameAddress,
} from "../wire/address.ts";
import { complement, pseudoSum6, sum } from "../wire/checksum.ts";
import { encodeNames } from "../wire/dns_name.ts";
import {
  ETHERNET_HEADER_SIZE,
  ETHERNET_SOURCE_AT,
  EtherType,
  etherType,
  isGroupMac,
  writeEthernet,
} from "../wire/ethernet.ts";
import { ICMPV6_CHECKSUM_AT, ICMPV6_CODE_AT, IcmpV6Type } from "../wire/icmpv6.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import {
  copyAddress,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_SIZE,
  IPV6_HOP_LIMIT_AT,
  IPV6_MIN_MTU,
  IPV6_SOURCE_AT,
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
  writeIPv6,
} from "../wire/ipv6.ts";
import {
  NDP_HOP_LIMIT,
  NDP_TARGET_AT,
  NdpOption,
  ndpOptionsOk,
  NEIGHBOUR_SIZE,
  NeighbourFlag,
  ROUTER_SOLICITATION_SIZE,
  RouterFlag,
  writeDnsslOption,
  writeLinkLayerOption,
  writeMtuOption,
  writeNeighbourAdvertisement,
  writePrefixOption,
  writeRdnssOption,
  writeRouterAdvertisement,
} from "../wire/ndp.ts";
import type { GuestState } from "./guest_state.ts";

const IP_AT = ETHERNET_HEADER_SIZE;
const ICMP_AT = IP_AT + IPV6_HEADER_SIZE;

/** AdvDefaultLifetime has this as its maximum (section 6.2.1), in seconds. */
const ROUTER_LIFETIME = 9000;
/** Interface identifiers on Ethernet are 64 bits (RFC 2464): no other prefix will do. */
const SLAAC_PREFIX = 64;
/** Most bytes of an advertisement that the smallest MTU lets through. */
const MAX_ADVERTISEMENT = IPV6_MIN_MTU - IPV6_HEADER_SIZE;
/** More than hosts keep (RFC 8106, section 5.3.1, asks for three); leaves room. */
const MAX_SERVERS = 16;

/** All nodes on the link, ff02::1, and its MAC address (RFC 2464, section 7). */
const ALL_NODES = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC = Uint8Array.of(0x33, 0x33, 0, 0, 0, 1);
const allNodesView = new DataView(ALL_NODES.buffer);

/** Answers neighbour and router solicitations (RFC 4861, sections 6.2.6 and 7.2.4). */
export class Ndp {
  readonly #config: Config;
  readonly #guest: GuestState;
  /** The router advertisement's ICMPv6 message, checksum 0: it never changes. */
  readonly #advertisement: Uint8Array;
  readonly #mac = new Uint8Array(MAC_SIZE);
  readonly #source = new Uint8Array(ADDRESS_SIZE);
  readonly #sourceView = new DataView(this.#source.buffer);
  readonly #target = new Uint8Array(ADDRESS_SIZE);
  readonly #targetView = new DataView(this.#target.buffer);
  readonly #ours: DataView;

  constructor(config: Config, guest: GuestState) {
    this.#config = config;
    this.#guest = guest;
    this.#ours = new DataView(config.ourLinkLocal.slice().buffer);
    this.#advertisement = advertisement(config);
  }

  /**
   * Answers a guest's neighbour or router solicitation.
   *
   * @param frame Ethernet header on, `length` bytes
   * @param reply gets a whole frame: room for 1294 bytes
   * @returns bytes written, 0 if there is no answer
   */
  respond(frame: DataView, length: number, reply: DataView): number {
    if (!this.#config.ndp || this.#config.ip6 === undefined) return 0;
    if (length < IP_AT || etherType(frame, 0) !== EtherType.ipv6) return 0;
    if (isGroupMac(frame, ETHERNET_SOURCE_AT)) return 0;
    const ipLength = ipv6Length(frame, IP_AT, length - IP_AT);
    if (ipLength < 0) return 0;
    const upper = ipv6Upper(frame, IP_AT, ipLength);
    if (upper < 0 || upperProtocol(upper) !== Protocol.icmpv6) return 0;
    const at = IP_AT + upperOffset(upper);
    const size = ipLength - upperOffset(upper);
    if (size < ROUTER_SOLICITATION_SIZE || !isValid(frame, at, size)) return 0;
    for (let i = 0; i < MAC_SIZE; i++) {
      this.#mac[i] = frame.getUint8(ETHERNET_SOURCE_AT + i);
    }
    copyAddress(frame, IP_AT + IPV6_SOURCE_AT, this.#sourceView, 0);
    if (isMulticast(this.#source)) return 0;
    switch (frame.getUint8(at)) {
      case IcmpV6Type.neighbourSolicitation:
        return this.#neighbour(frame, at, size, reply);
      case IcmpV6Type.routerSolicitation:
        return this.#router(frame, at, size, reply);
      default:
        return 0;
    }
  }

  /**
   * Builds the router advertisement to all nodes (section 6.2.4).
   *
   * @returns bytes written to `reply`, 0 if advertisements are off
   */
  advertise(reply: DataView): number {
    const { ip6, ndp, ra } = this.#config;
    if (ip6 === undefined || !ndp || !ra) return 0;
    return this.#advertiseTo(reply, ALL_NODES_MAC, allNodesView);
  }

  /**
   * Builds an unsolicited neighbour advertisement (section 7.2.6) of the router: a guest
   * that has moved here learns this vuelo's MAC address.
   *
   * @returns bytes written to `reply`, 0 if there is nothing to announce
   */
  announce(reply: DataView): number {
    const { ip6, ndp, ourMac } = this.#config;
    if (ip6 === undefined || !ndp) return 0;
    const flags = NeighbourFlag.router | NeighbourFlag.override;
    const end = writeNeighbourAdvertisement(
      reply,
      ICMP_AT,
      flags,
      this.#ours,
      0,
      ourMac,
    );
    return this.#finish(reply, end, ALL_NODES_MAC, this.#ours, allNodesView);
  }

  /** A neighbour solicitation, valid as section 7.1.1 has it. */
  #neighbour(frame: DataView, at: number, size: number, reply: DataView): number {
    if (size < NEIGHBOUR_SIZE) return 0;
    // With the source unspecified it is about a duplicate address (RFC 4862, 5.4.3).
    const detection = isUnspecified(this.#source);
    if (!ndpOptionsOk(frame, at + NEIGHBOUR_SIZE, at + size, detection)) return 0;
    if (detection && !isSolicitedNode(frame, IP_AT + IPV6_DESTINATION_AT)) return 0;
    copyAddress(frame, at + NDP_TARGET_AT, this.#targetView, 0);
    if (detection ? !this.#isOurs() : !this.#isElsewhere()) return 0;
    const flags = NeighbourFlag.router | NeighbourFlag.override |
      (detection ? 0 : NeighbourFlag.solicited);
    const [to, view] = [detection ? ALL_NODES_MAC : this.#mac, this.#targetView];
    const end = writeNeighbourAdvertisement(
      reply,
      ICMP_AT,
      flags,
      view,
      0,
      this.#config.ourMac,
    );
    return this.#finish(
      reply,
      end,
      to,
      view,
      detection ? allNodesView : this.#sourceView,
    );
  }

  /** Whether vuelo goes by the target's address, so that the guest must not. */
  #isOurs(): boolean {
    const { ip6, ourLinkLocal } = this.#config;
    const target = this.#target;
    if (ip6 === undefined || isUnspecified(target)) return false;
    return sameAddress(target, ourLinkLocal) || sameAddress(target, ip6.ourAddress) ||
      sameAddress(target, ip6.gateway);
  }

  /** Whether the target is an address that some host but the guest may have. */
  #isElsewhere(): boolean {
    const target = this.#target;
    const { ip6 } = this.#config;
    if (ip6 === undefined || isUnspecified(target)) return false;
    if (isMulticast(target) || isLoopback(target)) return false;
    const { address6, linkLocal6 } = this.#guest;
    return !sameAddress(target, ip6.address) && !sameAddress(target, address6) &&
      !sameAddress(target, linkLocal6) && !sameAddress(target, this.#source);
  }

  /** A router solicitation, valid as section 6.1.1 has it. */
  #router(frame: DataView, at: number, size: number, reply: DataView): number {
    if (!this.#config.ra) return 0;
    const nobody = isUnspecified(this.#source);
    const options = at + ROUTER_SOLICITATION_SIZE;
    if (!ndpOptionsOk(frame, options, at + size, nobody)) return 0;
    if (nobody) return this.#advertiseTo(reply, ALL_NODES_MAC, allNodesView);
    return this.#advertiseTo(reply, this.#mac, this.#sourceView);
  }

  #advertiseTo(reply: DataView, mac: Uint8Array, to: DataView): number {
    const message = this.#advertisement;
    for (let i = 0; i < message.length; i++) reply.setUint8(ICMP_AT + i, message[i]);
    return this.#finish(reply, ICMP_AT + message.length, mac, this.#ours, to);
  }

  /** Puts headers before the message at {@link ICMP_AT} and the checksum into it. */
  #finish(
    reply: DataView,
    end: number,
    mac: Uint8Array,
    from: DataView,
    to: DataView,
  ): number {
    const size = end - ICMP_AT;
    const protocol = Protocol.icmpv6;
    writeEthernet(reply, 0, mac, this.#config.ourMac, EtherType.ipv6);
    writeIPv6(reply, IP_AT, size, protocol, NDP_HOP_LIMIT, from, 0, to, 0);
    const partial = sum(reply, ICMP_AT, size, pseudoSum6(reply, IP_AT, protocol, size));
    reply.setUint16(ICMP_AT + ICMPV6_CHECKSUM_AT, complement(partial));
    return end;
  }
}

/** What all NDP messages have to fulfil (sections 6.1.1 and 7.1.1). */
function isValid(frame: DataView, at: number, size: number): boolean {
  if (frame.getUint8(IP_AT + IPV6_HOP_LIMIT_AT) !== NDP_HOP_LIMIT) return false;
  if (frame.getUint8(at + ICMPV6_CODE_AT) !== 0) return false;
  const pseudo = pseudoSum6(frame, IP_AT, Protocol.icmpv6, size);
  return sum(frame, at, size, pseudo) === 0xffff;
}

/** Whether the address lies in ff02::1:ff00:0/104 (RFC 4291, section 2.7.1). */
function isSolicitedNode(view: DataView, at: number): boolean {
  return view.getUint32(at) === 0xff020000 && view.getUint32(at + 4) === 0 &&
    view.getUint32(at + 8) === 1 && view.getUint8(at + 12) === 0xff;
}

/** The ICMPv6 message of a router advertisement with its options (section 6.2.3). */
function advertisement(config: Config): Uint8Array {
  const { ip6 } = config;
  const bytes = new Uint8Array(MAX_ADVERTISEMENT);
  const view = new DataView(bytes.buffer);
  const flags = config.dhcpv6 ? RouterFlag.managed | RouterFlag.otherConfig : 0;
  let at = writeRouterAdvertisement(view, 0, DEFAULT_TTL, flags, ROUTER_LIFETIME);
  at = writeLinkLayerOption(view, at, NdpOption.sourceLinkLayer, config.ourMac);
  if (config.mtu >= IPV6_MIN_MTU) at = writeMtuOption(view, at, config.mtu);
  if (ip6 !== undefined && !isUnspecified(ip6.address)) {
    const prefix = maskAddress(ip6.address, SLAAC_PREFIX);
    at = writePrefixOption(view, at, prefix, SLAAC_PREFIX);
  }
  const servers = ip6 !== undefined && config.dhcpDns
    ? ip6.dns.filter((server) => !isIPv4(server)).slice(0, MAX_SERVERS)
    : [];
  if (servers.length > 0) at = writeRdnssOption(view, at, servers);
  const names = config.dhcpSearch
    ? searchList(config.search, MAX_ADVERTISEMENT - at - 15)
    : new Uint8Array(0);
  if (names.length > 0) at = writeDnsslOption(view, at, names);
  return bytes.slice(0, at);
}

/** The first of the names whose encoding fits into `room` bytes. */
function searchList(names: readonly string[], room: number): Uint8Array {
  let count = names.length;
  while (encodeNames(names.slice(0, count)).length > room) count--;
  return encodeNames(names.slice(0, count));
}
