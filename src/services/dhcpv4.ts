/**
 * DHCP server for one guest (RFC 2131): one address, leased for ever, so that there is no
 * state. Also answers BOOTP (RFC 1534) and rapid commit (RFC 4039). Messages that came
 * through a relay agent are ignored: the guest's link has no other network behind it.
 */

import type { Config, FamilyConfig } from "../config.ts";
import {
  contains,
  IPV4_AT,
  isUnspecified,
  MAC_SIZE,
  mapIPv4,
  maskAddress,
} from "../wire/address.ts";
import { complement, pseudoSum4, sum } from "../wire/checksum.ts";
import {
  BOOTP_CHADDR_AT,
  BOOTP_CIADDR_AT,
  BOOTP_FIXED_SIZE,
  BOOTP_FLAGS_AT,
  BOOTP_MIN_SIZE,
  BOOTP_REPLY,
  BOOTP_XID_AT,
  BOOTP_YIADDR_AT,
  BROADCAST_FLAG,
  DHCP_CLIENT_PORT,
  DHCP_MAGIC_COOKIE,
  DHCP_SERVER_PORT,
  DhcpMessage,
  DhcpOption,
  type DhcpOptions,
  DhcpOptionWriter,
  isBootpRequest,
  parseDhcpOptions,
} from "../wire/dhcpv4.ts";
import { encodeName, encodeNamesCompressed } from "../wire/dns_name.ts";
import {
  BROADCAST_MAC,
  ETHERNET_HEADER_SIZE,
  EtherType,
  etherType,
  isGroupMac,
  isMac,
  writeEthernet,
} from "../wire/ethernet.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import {
  IPV4_DESTINATION_AT,
  IPV4_HEADER_SIZE,
  ipv4ChecksumOk,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4TotalLength,
  writeIPv4,
} from "../wire/ipv4.ts";
import {
  UDP_CHECKSUM_AT,
  UDP_DESTINATION_PORT_AT,
  UDP_HEADER_SIZE,
  udpChecksum,
  udpLength,
  writeUdp,
} from "../wire/udp.ts";
import type { GuestState } from "./guest_state.ts";

/** BOOTP replies have no message type. */
const NO_TYPE = 0;
const BROADCAST = 0xffffffff;
const INFINITE_LEASE = [0xff, 0xff, 0xff, 0xff];
const MESSAGE_AT = ETHERNET_HEADER_SIZE + IPV4_HEADER_SIZE + UDP_HEADER_SIZE;
/** IP datagrams that a client takes without and with option 57 (RFC 2131, section 2). */
const DEFAULT_MAX_SIZE = 576;
const LARGEST_MAX_SIZE = 1500;

/** Flags of the Client FQDN option (RFC 4702, section 2.1). */
const FQDN_S = 1;
const FQDN_O = 2;
const FQDN_E = 4;
const FQDN_N = 8;

/** Sent whether the client asked for them or not; the mask comes before the router. */
const ALWAYS: readonly number[] = [
  DhcpOption.subnetMask,
  DhcpOption.router,
  DhcpOption.dns,
  DhcpOption.mtu,
  DhcpOption.classlessRoutes,
];
/** Sent to a client without a parameter request list, too. */
const DEFAULTS: readonly number[] = [
  ...ALWAYS,
  DhcpOption.hostname,
  DhcpOption.searchList,
];

/** Answers the DHCP and BOOTP requests of the guest. */
export class Dhcpv4 {
  readonly #config: Config;
  /** The address to lease; unspecified without one. */
  readonly #leased: Uint8Array;
  readonly #guest: GuestState;
  readonly #address: DataView;
  readonly #server: DataView;
  readonly #broadcast: number;
  /** Options that are the same for every client, by code. */
  readonly #values: ReadonlyMap<number, ArrayLike<number>>;

  constructor(config: Config, guest: GuestState) {
    const family = config.ip4;
    this.#config = config;
    this.#guest = guest;
    this.#leased = family?.address ?? new Uint8Array(16);
    this.#address = viewOf(this.#leased);
    this.#server = viewOf(family?.ourAddress ?? new Uint8Array(16));
    const mask = viewOf(maskOf(family?.prefixLength ?? 0)).getUint32(IPV4_AT);
    this.#broadcast = (this.#address.getUint32(IPV4_AT) | ~mask) >>> 0;
    this.#values = family === undefined ? new Map() : optionValues(config, family);
  }

  /**
   * Takes the first `length` bytes of `frame`, an Ethernet frame of the guest. Returns the
   * length of the frame written to `reply`, or 0 if there is nothing to say.
   */
  respond(frame: DataView, length: number, reply: DataView): number {
    if (!this.#config.dhcp || isUnspecified(this.#leased)) return 0;
    const request = this.#request(frame, Math.min(length, frame.byteLength));
    if (request === undefined || !isBootpRequest(request)) return 0;
    if (isGroupMac(request, BOOTP_CHADDR_AT)) return 0;
    const options = parseDhcpOptions(request);
    if (options === undefined) return 0;
    const type = this.#replyType(request, options);
    if (type === undefined) return 0;
    const limit = messageLimit(options, type, this.#config.mtu);
    if (reply.byteLength < MESSAGE_AT + Math.max(limit, BOOTP_MIN_SIZE)) return 0;
    return this.#reply(request, options, type, limit, reply);
  }

  /** The UDP payload of a whole, undamaged datagram to our port and address. */
  #request(frame: DataView, length: number): DataView | undefined {
    const ip = ETHERNET_HEADER_SIZE;
    if (length < ip || etherType(frame, 0) !== EtherType.ipv4) return undefined;
    if (!isMac(frame, 0, BROADCAST_MAC) && !isMac(frame, 0, this.#config.ourMac)) {
      return undefined;
    }
    const header = ipv4HeaderLength(frame, ip, length - ip);
    if (header < 0 || !ipv4ChecksumOk(frame, ip, header)) return undefined;
    if (ipv4IsFragment(frame, ip) || ipv4Protocol(frame, ip) !== Protocol.udp) {
      return undefined;
    }
    const destination = frame.getUint32(ip + IPV4_DESTINATION_AT);
    if (
      destination !== BROADCAST && destination !== this.#broadcast &&
      destination !== this.#server.getUint32(IPV4_AT)
    ) return undefined;
    const udp = ip + header;
    const size = udpLength(frame, udp, ipv4TotalLength(frame, ip) - header);
    if (size < 0) return undefined;
    if (frame.getUint16(udp + UDP_DESTINATION_PORT_AT) !== DHCP_SERVER_PORT) {
      return undefined;
    }
    if (frame.getUint16(udp + UDP_CHECKSUM_AT) !== 0) {
      const pseudo = pseudoSum4(frame, ip, Protocol.udp, size);
      if (sum(frame, udp, size, pseudo) !== 0xffff) return undefined;
    }
    const at = frame.byteOffset + udp + UDP_HEADER_SIZE;
    return new DataView(frame.buffer, at, size - UDP_HEADER_SIZE);
  }

  /** What to answer (RFC 2131, section 4.3); undefined is nothing. */
  #replyType(request: DataView, options: DhcpOptions): number | undefined {
    const type = options.get(DhcpOption.messageType);
    if (type === undefined) return NO_TYPE;
    if (type.length !== 1) return undefined;
    switch (type[0]) {
      case DhcpMessage.discover:
        return options.has(DhcpOption.rapidCommit) ? DhcpMessage.ack : DhcpMessage.offer;
      case DhcpMessage.request:
        return this.#answerRequest(request, options);
      case DhcpMessage.inform:
        return DhcpMessage.ack;
      default:
        return undefined;
    }
  }

  /** RFC 2131, section 4.3.2: the client selects, comes back, renews or rebinds. */
  #answerRequest(request: DataView, options: DhcpOptions): number | undefined {
    const server = options.get(DhcpOption.serverId);
    if (server !== undefined && !isQuad(server, this.#server)) return undefined;
    const requested = options.get(DhcpOption.requestedAddress);
    const ciaddr = request.getUint32(BOOTP_CIADDR_AT);
    if (requested !== undefined) {
      if (requested.length !== 4) return undefined;
      return isQuad(requested, this.#address) ? DhcpMessage.ack : DhcpMessage.nak;
    }
    if (ciaddr === 0) return undefined;
    const same = ciaddr === this.#address.getUint32(IPV4_AT);
    return same ? DhcpMessage.ack : DhcpMessage.nak;
  }

  #reply(
    request: DataView,
    options: DhcpOptions,
    type: number,
    limit: number,
    reply: DataView,
  ): number {
    const room = Math.max(limit, BOOTP_MIN_SIZE);
    const bytes = new Uint8Array(reply.buffer, reply.byteOffset + MESSAGE_AT, room);
    bytes.fill(0);
    const message = new DataView(bytes.buffer, bytes.byteOffset, room);
    const inform = options.get(DhcpOption.messageType)?.[0] === DhcpMessage.inform;
    this.#writeFixed(request, type, inform, message);
    const writer = new DhcpOptionWriter(bytes, limit);
    if (type === DhcpMessage.nak) this.#writeNak(options, writer);
    else this.#writeOptions(options, type, inform, writer);
    const size = Math.max(writer.end(), BOOTP_MIN_SIZE);
    this.#writeHeaders(message, type, reply, size);
    // From now on the guest is to be found there, whatever address it had before.
    if (type === DhcpMessage.ack && !inform) this.#guest.address4.set(this.#leased);
    return MESSAGE_AT + size;
  }

  /** The fields of RFC 2131, section 4.3.1, table 3; the rest stays zero. */
  #writeFixed(
    request: DataView,
    type: number,
    inform: boolean,
    message: DataView,
  ): void {
    message.setUint8(0, BOOTP_REPLY);
    message.setUint8(1, 1);
    message.setUint8(2, MAC_SIZE);
    message.setUint32(BOOTP_XID_AT, request.getUint32(BOOTP_XID_AT));
    message.setUint16(BOOTP_FLAGS_AT, request.getUint16(BOOTP_FLAGS_AT));
    for (let i = 0; i < 16; i++) {
      message.setUint8(BOOTP_CHADDR_AT + i, request.getUint8(BOOTP_CHADDR_AT + i));
    }
    message.setUint32(BOOTP_FIXED_SIZE, DHCP_MAGIC_COOKIE);
    if (type === DhcpMessage.nak) return;
    if (type !== DhcpMessage.offer) {
      message.setUint32(BOOTP_CIADDR_AT, request.getUint32(BOOTP_CIADDR_AT));
    }
    if (!inform) {
      message.setUint32(BOOTP_YIADDR_AT, this.#address.getUint32(IPV4_AT));
    }
  }

  #writeNak(options: DhcpOptions, writer: DhcpOptionWriter): void {
    writer.write(DhcpOption.messageType, [DhcpMessage.nak]);
    writer.write(DhcpOption.serverId, quad(this.#server));
    echoClientId(options, writer);
    const text = new TextEncoder().encode("address is not the one of this guest");
    writer.write(DhcpOption.message, text);
  }

  #writeOptions(
    options: DhcpOptions,
    type: number,
    inform: boolean,
    writer: DhcpOptionWriter,
  ): void {
    if (type !== NO_TYPE) {
      writer.write(DhcpOption.messageType, [type]);
      writer.write(DhcpOption.serverId, quad(this.#server));
      if (!inform) writer.write(DhcpOption.leaseTime, INFINITE_LEASE);
      echoClientId(options, writer);
      const discover = options.get(DhcpOption.messageType)?.[0] === DhcpMessage.discover;
      if (discover && type === DhcpMessage.ack) writer.write(DhcpOption.rapidCommit, []);
    }
    const asked = options.get(DhcpOption.parameterList);
    const wanted = new Set([DhcpOption.subnetMask, ...asked ?? []]);
    for (const code of asked === undefined ? DEFAULTS : ALWAYS) wanted.add(code);
    if (options.has(DhcpOption.clientFqdn)) wanted.add(DhcpOption.clientFqdn);
    for (const code of wanted) {
      const value = code === DhcpOption.clientFqdn
        ? this.#fqdn(options.get(code))
        : this.#values.get(code);
      if (value !== undefined) writer.write(code, value);
    }
  }

  /**
   * The guest's name in the encoding of the client's own option. vuelo updates no DNS,
   * so N is set, and O where the client had asked for an update (RFC 4702, section 4).
   */
  #fqdn(client: Uint8Array | undefined): ArrayLike<number> | undefined {
    const name = this.#config.fqdn;
    if (name === undefined) return undefined;
    const flags = client?.[0] ?? FQDN_E;
    const encoded = flags & FQDN_E ? encodeName(name) : new TextEncoder().encode(name);
    if (encoded === undefined) return undefined;
    const ours = FQDN_N | flags & FQDN_E | (flags & FQDN_S ? FQDN_O : 0);
    return [ours, 0xff, 0xff, ...encoded];
  }

  /** Where to: RFC 2131, section 4.1. A NAK is always broadcast. */
  #writeHeaders(
    message: DataView,
    type: number,
    reply: DataView,
    size: number,
  ): void {
    let to = BROADCAST;
    if (type !== DhcpMessage.nak) {
      const ciaddr = message.getUint32(BOOTP_CIADDR_AT);
      const yiaddr = message.getUint32(BOOTP_YIADDR_AT);
      const broadcast = (message.getUint16(BOOTP_FLAGS_AT) & BROADCAST_FLAG) !== 0;
      if (ciaddr !== 0) to = ciaddr;
      else if (!broadcast && yiaddr !== 0) to = yiaddr;
    }
    const quadTo = Uint8Array.of(to >>> 24, to >>> 16, to >>> 8, to);
    const destination = viewOf(mapIPv4(quadTo));
    const chaddr = message.byteOffset + BOOTP_CHADDR_AT;
    const mac = to === BROADCAST
      ? BROADCAST_MAC
      : new Uint8Array(message.buffer, chaddr, MAC_SIZE);
    writeEthernet(reply, 0, mac, this.#config.ourMac, EtherType.ipv4);
    const ip = ETHERNET_HEADER_SIZE;
    const udp = ip + IPV4_HEADER_SIZE;
    const udpSize = UDP_HEADER_SIZE + size;
    const total = IPV4_HEADER_SIZE + udpSize;
    const server = this.#server;
    writeIPv4(reply, ip, total, Protocol.udp, DEFAULT_TTL, server, 0, destination, 0);
    writeUdp(reply, udp, DHCP_SERVER_PORT, DHCP_CLIENT_PORT, udpSize);
    const partial = sum(
      reply,
      udp,
      udpSize,
      pseudoSum4(reply, ip, Protocol.udp, udpSize),
    );
    reply.setUint16(udp + UDP_CHECKSUM_AT, udpChecksum(complement(partial)));
  }
}

/** Options of the configuration; those that it leaves open are missing. */
function optionValues(
  config: Config,
  family: FamilyConfig,
): Map<number, ArrayLike<number>> {
  const values = new Map<number, ArrayLike<number>>();
  values.set(DhcpOption.subnetMask, maskOf(family.prefixLength).subarray(IPV4_AT));
  if (!isUnspecified(family.gateway)) {
    values.set(DhcpOption.router, family.gateway.subarray(IPV4_AT));
    if (
      family.prefixLength === 32 ||
      !contains(family.address, family.prefixLength, family.gateway)
    ) values.set(DhcpOption.classlessRoutes, routesTo(family.gateway));
  }
  if (config.dhcpDns && family.dns.length > 0) {
    const dns = family.dns.flatMap((address) => [...address.subarray(IPV4_AT)]);
    values.set(DhcpOption.dns, dns);
  }
  if (config.hostname) {
    const hostname = new TextEncoder().encode(config.hostname);
    values.set(DhcpOption.hostname, hostname);
  }
  if (config.mtu > 0) values.set(DhcpOption.mtu, [config.mtu >> 8, config.mtu & 0xff]);
  const search = encodeNamesCompressed(config.search);
  if (config.dhcpSearch && search.length > 0) values.set(DhcpOption.searchList, search);
  return values;
}

/** The router as a host on the link, and the default route over it (RFC 3442). */
function routesTo(gateway: Uint8Array): number[] {
  const router = [...gateway.subarray(IPV4_AT)];
  return [32, ...router, 0, 0, 0, 0, 0, ...router];
}

/** Bytes that the reply may have: option 57 counts the IP and UDP headers, too. */
function messageLimit(options: DhcpOptions, type: number, mtu: number): number {
  if (type === NO_TYPE) return BOOTP_MIN_SIZE;
  const option = options.get(DhcpOption.maxMessageSize);
  const told = option?.length === 2 ? option[0] << 8 | option[1] : DEFAULT_MAX_SIZE;
  const link = mtu > 0 ? Math.min(mtu, LARGEST_MAX_SIZE) : LARGEST_MAX_SIZE;
  const size = Math.max(DEFAULT_MAX_SIZE, Math.min(told, link));
  return size - IPV4_HEADER_SIZE - UDP_HEADER_SIZE;
}

/** RFC 6842: replies carry the client identifier back. */
function echoClientId(options: DhcpOptions, writer: DhcpOptionWriter): void {
  const clientId = options.get(DhcpOption.clientId);
  if (clientId !== undefined) writer.write(DhcpOption.clientId, clientId);
}

function maskOf(prefixLength: number): Uint8Array {
  const ones = mapIPv4(Uint8Array.of(0xff, 0xff, 0xff, 0xff));
  return maskAddress(ones, prefixLength);
}

function isQuad(bytes: Uint8Array, address: DataView): boolean {
  if (bytes.length !== 4) return false;
  return bytes.every((byte, i) => byte === address.getUint8(IPV4_AT + i));
}

function quad(address: DataView): Uint8Array {
  return new Uint8Array(address.buffer, address.byteOffset + IPV4_AT, 4);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
