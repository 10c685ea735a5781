/**
 * DHCPv6 server for one guest (RFC 8415): one address with infinite lifetimes, so that
 * there is no state. An address counts as on the link only if it is that one. The
 * server's DUID is of type DUID-LL, from vuelo's MAC address.
 */

import type { Config } from "../config.ts";
import { isLinkLocal, isUnspecified, sameAddress } from "../wire/address.ts";
import { complement, pseudoSum6, sum } from "../wire/checksum.ts";
import {
  ALL_DHCP_SERVERS,
  DHCPV6_CLIENT_PORT,
  DHCPV6_HEADER_SIZE,
  DHCPV6_SERVER_PORT,
  Dhcpv6Message,
  Dhcpv6Option,
  dhcpv6Option,
  type Dhcpv6OptionAt,
  Dhcpv6Status,
  iaAddressOption,
  iaHeaderSize,
  parseDhcpv6Options,
  statusOption,
} from "../wire/dhcpv6.ts";
import { encodeName, encodeNames } from "../wire/dns_name.ts";
import {
  ETHERNET_HEADER_SIZE,
  ETHERNET_SOURCE_AT,
  EtherType,
  etherType,
  isGroupMac,
  writeEthernet,
} from "../wire/ethernet.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_HEADER_SIZE,
  IPV6_MIN_MTU,
  IPV6_SOURCE_AT,
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
  writeIPv6,
} from "../wire/ipv6.ts";
import {
  UDP_CHECKSUM_AT,
  UDP_DESTINATION_PORT_AT,
  UDP_HEADER_SIZE,
  udpChecksum,
  udpLength,
  writeUdp,
} from "../wire/udp.ts";
import type { GuestState } from "./guest_state.ts";

const MESSAGE_AT = ETHERNET_HEADER_SIZE + IPV6_HEADER_SIZE + UDP_HEADER_SIZE;
/** Replies fit every link, so that none is fragmented. */
const MAX_MESSAGE = IPV6_MIN_MTU - IPV6_HEADER_SIZE - UDP_HEADER_SIZE;
const INFINITE = 0xffffffff;
/** Renewal times T1 and T2 of an address that never expires (RFC 8415, section 21.4). */
const NEVER_RENEW: Uint8Array = new Uint8Array(8).fill(0xff);
/** Two bytes of type, then one to 128 of identifier (RFC 8415, section 11.1). */
const MIN_DUID = 3;
const MAX_DUID = 130;
/** The client need not wait for other servers. */
const MAX_PREFERENCE: Uint8Array = Uint8Array.of(255);

/** Flags of the Client FQDN option (RFC 4704, section 4.1). */
const FQDN_S = 1;
const FQDN_O = 2;
const FQDN_N = 4;

/** A request that is whole: positions count in {@link bytes}, the UDP payload. */
interface Request {
  readonly type: number;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly options: readonly Dhcpv6OptionAt[];
  readonly unicast: boolean;
}

/** An identity association of a request (RFC 8415, sections 21.4, 21.5 and 21.21). */
interface Association {
  readonly code: number;
  readonly id: Uint8Array;
  /** Addresses of its IA Address options, 16 bytes each; IA_PD has none. */
  readonly addresses: readonly Uint8Array[];
}

/** Answers the DHCPv6 requests of the guest. */
export class Dhcpv6 {
  readonly #config: Config;
  readonly #guest: GuestState;
  readonly #address: Uint8Array | undefined;
  readonly #ourLinkLocal: DataView;
  readonly #duid: Uint8Array;
  readonly #dns: Uint8Array | undefined;
  readonly #search: Uint8Array | undefined;

  constructor(config: Config, guest: GuestState) {
    this.#config = config;
    this.#guest = guest;
    const address = config.ip6?.address;
    if (address !== undefined && !isUnspecified(address)) this.#address = address;
    const ours = config.ourLinkLocal;
    this.#ourLinkLocal = new DataView(ours.buffer, ours.byteOffset, ours.byteLength);
    this.#duid = Uint8Array.of(0, 3, 0, 1, ...config.ourMac);
    const dns = config.ip6?.dns ?? [];
    if (config.dhcpDns && dns.length > 0) {
      this.#dns = dhcpv6Option(Dhcpv6Option.dns, ...dns);
    }
    const search = encodeNames(config.search);
    if (config.dhcpSearch && search.length > 0) {
      this.#search = dhcpv6Option(Dhcpv6Option.searchList, search);
    }
  }

  /**
   * Takes the first `length` bytes of `frame`, an Ethernet frame of the guest. Returns the
   * length of the frame written to `reply`, or 0 if there is nothing to say.
   */
  respond(frame: DataView, length: number, reply: DataView): number {
    if (!this.#config.dhcpv6 || this.#config.ip6 === undefined) return 0;
    if (reply.byteLength < MESSAGE_AT + MAX_MESSAGE) return 0;
    const request = this.#request(frame, Math.min(length, frame.byteLength));
    if (request === undefined || !this.#isValid(request)) return 0;
    const associations = parseAssociations(request);
    if (associations === undefined) return 0;
    const writer = new MessageWriter(reply, request.view);
    if (!this.#answer(request, associations, writer)) return 0;
    return this.#writeHeaders(frame, reply, writer.length);
  }

  /** The message of a whole, undamaged datagram to our port and address. */
  #request(frame: DataView, length: number): Request | undefined {
    const ip = ETHERNET_HEADER_SIZE;
    if (length < ip || etherType(frame, 0) !== EtherType.ipv6) return undefined;
    if (isGroupMac(frame, ETHERNET_SOURCE_AT)) return undefined;
    const size = ipv6Length(frame, ip, length - ip);
    if (size < 0) return undefined;
    const upper = ipv6Upper(frame, ip, size);
    if (upper < 0 || upperProtocol(upper) !== Protocol.udp) return undefined;
    const udp = ip + upperOffset(upper);
    const udpSize = udpLength(frame, udp, size - upperOffset(upper));
    if (udpSize < UDP_HEADER_SIZE + DHCPV6_HEADER_SIZE) return undefined;
    if (frame.getUint16(udp + UDP_DESTINATION_PORT_AT) !== DHCPV6_SERVER_PORT) {
      return undefined;
    }
    // IPv6 has no UDP without a checksum (RFC 8200, section 8.1).
    const pseudo = pseudoSum6(frame, ip, Protocol.udp, udpSize);
    if (frame.getUint16(udp + UDP_CHECKSUM_AT) === 0) return undefined;
    if (sum(frame, udp, udpSize, pseudo) !== 0xffff) return undefined;
    const source = new Uint8Array(
      frame.buffer,
      frame.byteOffset + ip + IPV6_SOURCE_AT,
      16,
    );
    if (!isLinkLocal(source)) return undefined;
    const to = new Uint8Array(
      frame.buffer,
      frame.byteOffset + ip + IPV6_DESTINATION_AT,
      16,
    );
    const unicast = !sameAddress(to, ALL_DHCP_SERVERS);
    if (unicast && !this.#isOurs(to)) return undefined;
    const at = frame.byteOffset + udp + UDP_HEADER_SIZE;
    const view = new DataView(frame.buffer, at, udpSize - UDP_HEADER_SIZE);
    const bytes = new Uint8Array(frame.buffer, at, view.byteLength);
    const options = parseDhcpv6Options(view, DHCPV6_HEADER_SIZE, view.byteLength);
    if (options === undefined) return undefined;
    return { type: view.getUint8(0), view, bytes, options, unicast };
  }

  #isOurs(address: Uint8Array): boolean {
    const { ip6, ourLinkLocal } = this.#config;
    return sameAddress(address, ourLinkLocal) ||
      ip6 !== undefined && sameAddress(address, ip6.ourAddress);
  }

  /** Which messages count: RFC 8415, section 16. */
  #isValid(request: Request): boolean {
    const client = valueOf(request, Dhcpv6Option.clientId);
    const server = valueOf(request, Dhcpv6Option.serverId);
    if (client && (client.length < MIN_DUID || client.length > MAX_DUID)) return false;
    const toUs = server !== undefined && sameBytes(server, this.#duid);
    switch (request.type) {
      case Dhcpv6Message.solicit:
      case Dhcpv6Message.confirm:
      case Dhcpv6Message.rebind:
        return client !== undefined && server === undefined && !request.unicast;
      case Dhcpv6Message.request:
      case Dhcpv6Message.renew:
      case Dhcpv6Message.release:
      case Dhcpv6Message.decline:
        return client !== undefined && toUs;
      case Dhcpv6Message.informationRequest:
        return (server === undefined || toUs) && !request.unicast &&
          !request.options.some((option) => isAssociation(option.code));
      default:
        return false;
    }
  }

  /** RFC 8415, section 18.3; false if there is no answer. */
  #answer(
    request: Request,
    associations: readonly Association[],
    writer: MessageWriter,
  ): boolean {
    const client = valueOf(request, Dhcpv6Option.clientId);
    if (client) writer.write(dhcpv6Option(Dhcpv6Option.clientId, client));
    writer.write(dhcpv6Option(Dhcpv6Option.serverId, this.#duid));
    if (request.unicast) {
      // We never sent a Server Unicast option (RFC 8415, section 18.4).
      writer.write(statusOption(Dhcpv6Status.useMulticast));
      return true;
    }
    switch (request.type) {
      case Dhcpv6Message.solicit:
        this.#solicit(request, writer);
        break;
      case Dhcpv6Message.confirm:
        return this.#confirm(associations, writer);
      case Dhcpv6Message.release:
      case Dhcpv6Message.decline:
        this.#giveUp(associations, writer);
        return true;
    }
    this.#assign(request.type, associations, writer);
    if (writer.type === Dhcpv6Message.reply && writer.assigned && this.#address) {
      // From now on the guest is to be found there, whatever address it had before.
      this.#guest.address6.set(this.#address);
    }
    this.#writeSettings(request, writer);
    return true;
  }

  #solicit(request: Request, writer: MessageWriter): void {
    if (valueOf(request, Dhcpv6Option.rapidCommit) !== undefined) {
      writer.write(dhcpv6Option(Dhcpv6Option.rapidCommit));
      return;
    }
    writer.type = Dhcpv6Message.advertise;
    writer.write(dhcpv6Option(Dhcpv6Option.preference, MAX_PREFERENCE));
  }

  /** RFC 8415, section 18.3.3: without any address there is nothing to confirm. */
  #confirm(associations: readonly Association[], writer: MessageWriter): boolean {
    const addresses = associations.flatMap((association) => association.addresses);
    if (addresses.length === 0) return false;
    const onLink = addresses.every((address) => this.#isLeased(address));
    writer.write(statusOption(onLink ? Dhcpv6Status.success : Dhcpv6Status.notOnLink));
    return true;
  }

  /** Release and Decline (RFC 8415, sections 18.3.7 and 18.3.8): we keep no lease. */
  #giveUp(associations: readonly Association[], writer: MessageWriter): void {
    writer.write(statusOption(Dhcpv6Status.success));
    for (const { code, id, addresses } of associations) {
      if (code === Dhcpv6Option.iaNa && addresses.some((a) => this.#isLeased(a))) {
        continue;
      }
      writer.writeStatus(code, id, Dhcpv6Status.noBinding);
    }
  }

  /** Our address goes to the first IA_NA; the others get none. */
  #assign(
    type: number,
    associations: readonly Association[],
    writer: MessageWriter,
  ): void {
    for (const { code, id, addresses } of associations) {
      if (code === Dhcpv6Option.iaPd) {
        writer.writeStatus(code, id, Dhcpv6Status.noPrefixAvail);
        continue;
      }
      const foreign = addresses.filter((address) => !this.#isLeased(address));
      if (type === Dhcpv6Message.request && foreign.length > 0) {
        writer.writeStatus(code, id, Dhcpv6Status.notOnLink);
      } else if (
        code === Dhcpv6Option.iaTa || this.#address === undefined || writer.assigned
      ) {
        writer.writeStatus(code, id, Dhcpv6Status.noAddrsAvail);
      } else {
        const extending = type === Dhcpv6Message.renew || type === Dhcpv6Message.rebind;
        // Lifetime 0 tells the client to give up an address of elsewhere.
        const stale = extending ? foreign.map((a) => iaAddressOption(a, 0)) : [];
        const ours = iaAddressOption(this.#address, INFINITE);
        writer.assigned = writer.write(
          dhcpv6Option(code, id, NEVER_RENEW, ours, ...stale),
        );
      }
    }
  }

  /** Resolvers, search list and name, unless the client's Option Request lacks them. */
  #writeSettings(request: Request, writer: MessageWriter): void {
    const asked = valueOf(request, Dhcpv6Option.requested);
    if (this.#dns && isAsked(asked, Dhcpv6Option.dns)) writer.write(this.#dns);
    if (this.#search && isAsked(asked, Dhcpv6Option.searchList)) {
      writer.write(this.#search);
    }
    const client = valueOf(request, Dhcpv6Option.clientFqdn);
    if (client === undefined && !(asked && isAsked(asked, Dhcpv6Option.clientFqdn))) {
      return;
    }
    const name = this.#config.fqdn === undefined
      ? undefined
      : encodeName(this.#config.fqdn);
    if (name === undefined) return;
    // vuelo updates no DNS: N, and O where the client had asked for it (RFC 4704, 6).
    const overridden = ((client?.[0] ?? 0) & FQDN_S) !== 0;
    const flags = Uint8Array.of(FQDN_N | (overridden ? FQDN_O : 0));
    writer.write(dhcpv6Option(Dhcpv6Option.clientFqdn, flags, name));
  }

  #isLeased(address: Uint8Array): boolean {
    return this.#address !== undefined && sameAddress(address, this.#address);
  }

  /** To the sender's link-local address; returns the length of the frame. */
  #writeHeaders(frame: DataView, reply: DataView, messageSize: number): number {
    const mac = new Uint8Array(frame.buffer, frame.byteOffset + ETHERNET_SOURCE_AT, 6);
    writeEthernet(reply, 0, mac, this.#config.ourMac, EtherType.ipv6);
    const ip = ETHERNET_HEADER_SIZE;
    const udp = ip + IPV6_HEADER_SIZE;
    const size = UDP_HEADER_SIZE + messageSize;
    const to = ip + IPV6_SOURCE_AT;
    const ours = this.#ourLinkLocal;
    writeIPv6(reply, ip, size, Protocol.udp, DEFAULT_TTL, ours, 0, frame, to);
    writeUdp(reply, udp, DHCPV6_SERVER_PORT, DHCPV6_CLIENT_PORT, size);
    const partial = sum(reply, udp, size, pseudoSum6(reply, ip, Protocol.udp, size));
    reply.setUint16(udp + UDP_CHECKSUM_AT, udpChecksum(complement(partial)));
    return udp + size;
  }
}

/** Writes the options of a reply, up to {@link MAX_MESSAGE}. */
class MessageWriter {
  /** Whether an association has got our address. */
  assigned = false;
  readonly #bytes: Uint8Array;
  #at = DHCPV6_HEADER_SIZE;

  /** Starts a Reply to `request`, whose transaction id it takes. */
  constructor(reply: DataView, request: DataView) {
    this.#bytes = new Uint8Array(
      reply.buffer,
      reply.byteOffset + MESSAGE_AT,
      MAX_MESSAGE,
    );
    for (let i = 1; i < DHCPV6_HEADER_SIZE; i++) this.#bytes[i] = request.getUint8(i);
    this.type = Dhcpv6Message.reply;
  }

  get type(): number {
    return this.#bytes[0];
  }
  set type(type: number) {
    this.#bytes[0] = type;
  }

  get length(): number {
    return this.#at;
  }

  /** Appends an option whole, or not at all if it does not fit; the result tells. */
  write(option: Uint8Array): boolean {
    if (this.#at + option.length > MAX_MESSAGE) return false;
    this.#bytes.set(option, this.#at);
    this.#at += option.length;
    return true;
  }

  /** Appends an association that got nothing but a status. */
  writeStatus(code: number, id: Uint8Array, status: number): void {
    const times = new Uint8Array(iaHeaderSize(code) - id.length);
    this.write(dhcpv6Option(code, id, times, statusOption(status)));
  }
}

function isAssociation(code: number): boolean {
  return code === Dhcpv6Option.iaNa || code === Dhcpv6Option.iaTa ||
    code === Dhcpv6Option.iaPd;
}

/** The identity associations in order; undefined if one of them is malformed. */
function parseAssociations(request: Request): Association[] | undefined {
  const associations: Association[] = [];
  for (const { code, at, length } of request.options) {
    if (!isAssociation(code)) continue;
    const header = iaHeaderSize(code);
    if (length < header) return undefined;
    const inner = parseDhcpv6Options(request.view, at + header, at + length);
    if (inner === undefined) return undefined;
    const addresses: Uint8Array[] = [];
    for (const option of inner) {
      if (code === Dhcpv6Option.iaPd || option.code !== Dhcpv6Option.iaAddress) continue;
      // An address and two lifetimes; options of the address follow.
      if (option.length < 24) return undefined;
      addresses.push(request.bytes.subarray(option.at, option.at + 16));
    }
    associations.push({ code, id: request.bytes.subarray(at, at + 4), addresses });
  }
  return associations;
}

function valueOf(request: Request, code: number): Uint8Array | undefined {
  const option = request.options.find((option) => option.code === code);
  if (option === undefined) return undefined;
  return request.bytes.subarray(option.at, option.at + option.length);
}

/** Whether the Option Request lists `code`; a client without one gets everything. */
function isAsked(asked: Uint8Array | undefined, code: number): boolean {
  if (asked === undefined) return true;
  for (let at = 0; at + 1 < asked.length; at += 2) {
    if ((asked[at] << 8 | asked[at + 1]) === code) return true;
  }
  return false;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
