/** ICMP errors towards the guest, about frames that it sent (RFC 792, RFC 4443). */
import type { Config } from "../config.ts";
import {
  ADDRESS_SIZE,
  contains,
  IPV4_AT,
  isIPv4,
  isLoopback,
  isMulticast,
  isUnspecified,
} from "../wire/address.ts";
import { complement, fold, pseudoSum6, sum } from "../wire/checksum.ts";
import {
  ETHERNET_HEADER_SIZE,
  EtherType,
  etherType,
  isGroupMac,
  writeEthernet,
} from "../wire/ethernet.ts";
import {
  ICMPV4_CHECKSUM_AT,
  ICMPV4_HEADER_SIZE,
  IcmpV4Type,
  IcmpV4Unreachable,
  isIcmpV4Error,
} from "../wire/icmpv4.ts";
import {
  ICMPV6_CHECKSUM_AT,
  ICMPV6_HEADER_SIZE,
  IcmpV6Type,
  isIcmpV6Error,
} from "../wire/icmpv6.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import {
  IPV4_DESTINATION_AT,
  IPV4_HEADER_SIZE,
  IPV4_MIN_REASSEMBLY,
  IPV4_SOURCE_AT,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4TotalLength,
  readIPv4Address,
  writeIPv4,
} from "../wire/ipv4.ts";
import {
  copyAddress,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_SIZE,
  IPV6_MIN_MTU,
  IPV6_PAYLOAD_LENGTH_AT,
  IPV6_SOURCE_AT,
  ipv6Upper,
  upperOffset,
  upperProtocol,
  writeIPv6,
} from "../wire/ipv6.ts";
import type { GuestState } from "./guest_state.ts";

const IP_AT = ETHERNET_HEADER_SIZE;
const HEADERS4 = IPV4_HEADER_SIZE + ICMPV4_HEADER_SIZE;
const HEADERS6 = IPV6_HEADER_SIZE + ICMPV6_HEADER_SIZE;

/** Source of the original, its destination, and source of the error, 16 bytes each. */
const addresses = new Uint8Array(3 * ADDRESS_SIZE);
const addressView = new DataView(addresses.buffer);
const TO_AT = 0;
const ABOUT_AT = ADDRESS_SIZE;
const FROM_AT = 2 * ADDRESS_SIZE;

/**
 * Builds Destination Unreachable (ICMP type 3, ICMPv6 type 1) as a whole frame.
 *
 * @param original the guest's frame, Ethernet header on, of which `length` bytes are here
 * @param code of the original's family
 * @param reply gets the frame: room for 1294 bytes
 * @param source who reports it, 16 bytes; vuelo itself unless given and of this family
 * @returns bytes written, 0 if there must be no error about such a frame (RFC 1122,
 * section 3.2.2; RFC 4443, section 2.4(e))
 */
export function unreachable(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  code: number,
  reply: DataView,
  source?: Uint8Array,
): number {
  const [type4, type6] = [IcmpV4Type.unreachable, IcmpV6Type.unreachable];
  return build(config, guest, original, length, type4, type6, code, 0, reply, source);
}

/** Builds Time Exceeded (ICMP type 11, ICMPv6 type 3), else as {@link unreachable}. */
export function timeExceeded(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  code: number,
  reply: DataView,
  source?: Uint8Array,
): number {
  const [type4, type6] = [IcmpV4Type.timeExceeded, IcmpV6Type.timeExceeded];
  return build(config, guest, original, length, type4, type6, code, 0, reply, source);
}

/**
 * Builds "fragmentation needed" (RFC 1191, section 4) or Packet Too Big (RFC 4443,
 * section 3.2) with the MTU in bytes, else as {@link unreachable}.
 */
export function packetTooBig(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  mtu: number,
  reply: DataView,
  source?: Uint8Array,
): number {
  const four = length >= IP_AT && etherType(original, 0) === EtherType.ipv4;
  const [type4, type6] = [IcmpV4Type.unreachable, IcmpV6Type.packetTooBig];
  const code = four ? IcmpV4Unreachable.fragmentationNeeded : 0;
  const word = four ? Math.min(mtu, 0xffff) : mtu;
  return build(config, guest, original, length, type4, type6, code, word, reply, source);
}

/** `word` is what follows the checksum: the MTU lies in its lower bits in both. */
function build(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  type4: number,
  type6: number,
  code: number,
  word: number,
  reply: DataView,
  source: Uint8Array | undefined,
): number {
  if (length < IP_AT || isGroupMac(original, 0)) return 0;
  switch (etherType(original, 0)) {
    case EtherType.ipv4:
      if (!mayReport4(config, original, length - IP_AT)) return 0;
      return build4(config, guest, original, length, type4, code, word, reply, source);
    case EtherType.ipv6:
      if (!mayReport6(config, original, length - IP_AT)) return 0;
      return build6(config, guest, original, length, type6, code, word, reply, source);
    default:
      return 0;
  }
}

/** Checks the original; leaves its addresses in {@link addresses}. */
function mayReport4(config: Config, original: DataView, available: number): boolean {
  if (config.ip4 === undefined || available < IPV4_HEADER_SIZE) return false;
  const first = original.getUint8(IP_AT);
  const headerLength = (first & 0xf) << 2;
  if (first >> 4 !== 4 || headerLength < IPV4_HEADER_SIZE) return false;
  if (headerLength > available || ipv4TotalLength(original, IP_AT) < headerLength) {
    return false;
  }
  if (ipv4IsFragment(original, IP_AT)) return false;
  if (ipv4Protocol(original, IP_AT) === Protocol.icmp) {
    if (headerLength >= available) return false;
    if (isIcmpV4Error(original.getUint8(IP_AT + headerLength))) return false;
  }
  readIPv4Address(original, IP_AT + IPV4_SOURCE_AT, addressView, TO_AT);
  readIPv4Address(original, IP_AT + IPV4_DESTINATION_AT, addressView, ABOUT_AT);
  return isHost4(TO_AT) && addresses[ABOUT_AT + IPV4_AT] < 224 &&
    !isSubnetBroadcast(config);
}

/** Whether the address can be one host's: not 0/8, loopback, or multicast and above. */
function isHost4(at: number): boolean {
  const first = addresses[at + IPV4_AT];
  return first !== 0 && first !== 127 && first < 224;
}

/** Whether the original went to the broadcast address of the guest's network. */
function isSubnetBroadcast(config: Config): boolean {
  const ip4 = config.ip4;
  if (ip4 === undefined || ip4.prefixLength === 0 || ip4.prefixLength > 30) return false;
  if (!contains(ip4.address, ip4.prefixLength, addresses, ABOUT_AT)) return false;
  const hostBits = -1 >>> ip4.prefixLength;
  return (addressView.getInt32(ABOUT_AT + IPV4_AT) & hostBits) === (hostBits | 0);
}

function mayReport6(config: Config, original: DataView, available: number): boolean {
  if (config.ip6 === undefined || available < IPV6_HEADER_SIZE) return false;
  if (original.getUint8(IP_AT) >> 4 !== 6) return false;
  const payload = original.getUint16(IP_AT + IPV6_PAYLOAD_LENGTH_AT);
  const length = Math.min(available, IPV6_HEADER_SIZE + payload);
  const upper = ipv6Upper(original, IP_AT, length);
  if (upper < 0 || upperProtocol(upper) === Protocol.fragment) return false;
  if (upperProtocol(upper) === Protocol.icmpv6) {
    if (upperOffset(upper) >= length) return false;
    if (isIcmpV6Error(original.getUint8(IP_AT + upperOffset(upper)))) return false;
  }
  copyAddress(original, IP_AT + IPV6_SOURCE_AT, addressView, TO_AT);
  copyAddress(original, IP_AT + IPV6_DESTINATION_AT, addressView, ABOUT_AT);
  return !isUnspecified(addresses, TO_AT) && !isMulticast(addresses, TO_AT) &&
    !isLoopback(addresses, TO_AT) && !isMulticast(addresses, ABOUT_AT);
}

function build4(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  type: number,
  code: number,
  word: number,
  reply: DataView,
  source: Uint8Array | undefined,
): number {
  if (config.ip4 === undefined) return 0;
  const given = source !== undefined && isIPv4(source);
  addresses.set(given ? source : config.ip4.ourAddress, FROM_AT);
  const limit = config.mtu === 0
    ? IPV4_MIN_REASSEMBLY
    : Math.min(config.mtu, IPV4_MIN_REASSEMBLY);
  const whole = Math.min(length - IP_AT, ipv4TotalLength(original, IP_AT));
  const quote = Math.min(whole, limit - HEADERS4);
  const [view, at] = [addressView, IP_AT + IPV4_HEADER_SIZE];
  const total = HEADERS4 + quote;
  writeEthernet(reply, 0, guest.mac, config.ourMac, EtherType.ipv4);
  const icmp = Protocol.icmp;
  writeIPv4(reply, IP_AT, total, icmp, DEFAULT_TTL, view, FROM_AT, view, TO_AT);
  writeError(original, quote, type, code, word, reply, at);
  const partial = sum(reply, at, ICMPV4_HEADER_SIZE + quote);
  reply.setUint16(at + ICMPV4_CHECKSUM_AT, complement(partial));
  return IP_AT + total;
}

function build6(
  config: Config,
  guest: GuestState,
  original: DataView,
  length: number,
  type: number,
  code: number,
  word: number,
  reply: DataView,
  source: Uint8Array | undefined,
): number {
  if (config.ip6 === undefined) return 0;
  const given = source !== undefined && !isIPv4(source);
  addresses.set(given ? source : config.ip6.ourAddress, FROM_AT);
  const payload = original.getUint16(IP_AT + IPV6_PAYLOAD_LENGTH_AT);
  const whole = Math.min(length - IP_AT, IPV6_HEADER_SIZE + payload);
  const quote = Math.min(whole, IPV6_MIN_MTU - HEADERS6);
  const [view, at] = [addressView, IP_AT + IPV6_HEADER_SIZE];
  const size = ICMPV6_HEADER_SIZE + quote;
  writeEthernet(reply, 0, guest.mac, config.ourMac, EtherType.ipv6);
  const icmp = Protocol.icmpv6;
  writeIPv6(reply, IP_AT, size, icmp, DEFAULT_TTL, view, FROM_AT, view, TO_AT);
  writeError(original, quote, type, code, word, reply, at);
  const partial = sum(reply, at, size, pseudoSum6(reply, IP_AT, icmp, size));
  reply.setUint16(at + ICMPV6_CHECKSUM_AT, complement(fold(partial)));
  return IP_AT + IPV6_HEADER_SIZE + size;
}

/** Writes an error's header, checksum 0, and `quote` bytes of the original's packet. */
function writeError(
  original: DataView,
  quote: number,
  type: number,
  code: number,
  word: number,
  reply: DataView,
  at: number,
): void {
  reply.setUint8(at, type);
  reply.setUint8(at + 1, code);
  reply.setUint16(at + 2, 0);
  reply.setUint32(at + 4, word);
  for (let i = 0; i < quote; i++) {
    reply.setUint8(at + ICMPV4_HEADER_SIZE + i, original.getUint8(IP_AT + i));
  }
}
