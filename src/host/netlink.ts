/**
 * Messages of rtnetlink(7): requests for dumps, and what the kernel answers. Numbers
 * are in the host's byte order, little-endian on every machine that Deno runs on.
 */
import { ADDRESS_SIZE, mapIPv4 } from "../wire/address.ts";

export const AF_INET = 2;
export const AF_INET6 = 10;
const AF_UNSPEC = 0;

/** Dumps that the kernel is asked for (uapi/linux/rtnetlink.h). */
export const DumpType = { link: 18, address: 22, route: 26 } as const;

/** Types of the messages of a dump's answer. */
const NEW_LINK = 16;
const NEW_ADDRESS = 20;
const NEW_ROUTE = 24;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLM_F_REQUEST_DUMP = 0x301;

const HEADER_SIZE = 16;
const ATTRIBUTE_HEADER_SIZE = 4;
/** struct ifinfomsg, ifaddrmsg, rtmsg and rtnexthop. */
const LINK_SIZE = 16;
const ADDRESS_MESSAGE_SIZE = 8;
const ROUTE_SIZE = 12;
const NEXT_HOP_SIZE = 8;

const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_MULTIPATH = 9;
const RTA_TABLE = 15;
const RTA_VIA = 18;

const IFF_LOOPBACK = 0x8;
const IFA_F_DADFAILED = 0x08;
const IFA_F_DEPRECATED = 0x20;
const IFA_F_TENTATIVE = 0x40;
const RT_TABLE_MAIN = 254;
const RTN_UNICAST = 1;

/** An interface of the host. */
export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mtu: number;
  readonly loopback: boolean;
}

/** An address of an interface; 16 bytes, and the prefix length as its family counts. */
export interface InterfaceAddress {
  readonly index: number;
  readonly address: Uint8Array;
  readonly prefixLength: number;
  /** 0 is everywhere, 253 the link, 254 the host. */
  readonly scope: number;
  /** False while the kernel is not to use it: tentative, failed or deprecated. */
  readonly usable: boolean;
}

/** A unicast route of the main table. */
export interface Route {
  readonly family: typeof AF_INET | typeof AF_INET6;
  /** 16 bytes; undefined is the default route. */
  readonly destination?: Uint8Array;
  /** 0 to 32, or 0 to 128. */
  readonly prefixLength: number;
  /** Index of the interface; 0 if the route has none. */
  readonly index: number;
  /** 16 bytes; undefined if the destination is on the link. */
  readonly gateway?: Uint8Array;
}

/** What dumps have told so far. */
export interface Dump {
  readonly links: Link[];
  readonly addresses: InterfaceAddress[];
  readonly routes: Route[];
}

/** Routers on the internet have a million routes, of which only the first matter here. */
const MAX_ENTRIES = 4096;

/** A request for every link, address or route of one family or of all. */
export function dumpRequest(type: number, family: number = AF_UNSPEC): Uint8Array {
  // A header as long as the longest of the three makes the kernel accept them all.
  const request = new Uint8Array(HEADER_SIZE + LINK_SIZE);
  const view = new DataView(request.buffer);
  const size = type === DumpType.link
    ? LINK_SIZE
    : type === DumpType.route
    ? ROUTE_SIZE
    : ADDRESS_MESSAGE_SIZE;
  view.setUint32(0, HEADER_SIZE + size, true);
  view.setUint16(4, type, true);
  view.setUint16(6, NLM_F_REQUEST_DUMP, true);
  view.setUint32(8, 1, true);
  request[HEADER_SIZE] = family;
  return request.subarray(0, HEADER_SIZE + size);
}

/**
 * Adds what one datagram of an answer tells to `dump`. A broken message ends the answer.
 *
 * @return true when the answer is complete
 */
export function readDump(datagram: Uint8Array, dump: Dump): boolean {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  let at = 0;
  while (at + HEADER_SIZE <= datagram.length) {
    const length = view.getUint32(at, true);
    if (length < HEADER_SIZE || length > datagram.length - at) return true;
    const type = view.getUint16(at + 4, true);
    if (type === NLMSG_DONE || type === NLMSG_ERROR) return true;
    const body = datagram.subarray(at + HEADER_SIZE, at + length);
    if (type === NEW_LINK) add(dump.links, readLink(body));
    else if (type === NEW_ADDRESS) add(dump.addresses, readAddress(body));
    else if (type === NEW_ROUTE) add(dump.routes, readRoute(body));
    at += align(length);
  }
  return false;
}

function add<T>(entries: T[], entry: T | undefined): void {
  if (entry !== undefined && entries.length < MAX_ENTRIES) entries.push(entry);
}

function align(length: number): number {
  return (length + 3) & ~3;
}

/** Attributes by type, each a view of its payload; stops at the first broken one. */
function attributes(body: Uint8Array, at: number): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  while (at + ATTRIBUTE_HEADER_SIZE <= body.length) {
    const length = view.getUint16(at, true);
    if (length < ATTRIBUTE_HEADER_SIZE || length > body.length - at) break;
    // The upper two bits say how the payload is built.
    const type = view.getUint16(at + 2, true) & 0x3fff;
    found.set(type, body.subarray(at + ATTRIBUTE_HEADER_SIZE, at + length));
    at += align(length);
  }
  return found;
}

function uint32(bytes: Uint8Array | undefined, otherwise: number): number {
  if (bytes === undefined || bytes.length < 4) return otherwise;
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
}

/** 16 bytes from the 4 or 16 of an attribute. */
function addressOf(bytes: Uint8Array | undefined): Uint8Array | undefined {
  if (bytes?.length === 4) return mapIPv4(bytes);
  return bytes?.length === ADDRESS_SIZE ? bytes.slice() : undefined;
}

function readLink(body: Uint8Array): Link | undefined {
  if (body.length < LINK_SIZE) return undefined;
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const found = attributes(body, LINK_SIZE);
  const nameBytes = found.get(IFLA_IFNAME);
  if (nameBytes === undefined) return undefined;
  const end = nameBytes.indexOf(0);
  const name = nameBytes.subarray(0, end === -1 ? nameBytes.length : end);
  return {
    index: view.getInt32(4, true),
    name: new TextDecoder().decode(name),
    mtu: uint32(found.get(IFLA_MTU), 0),
    loopback: (view.getUint32(8, true) & IFF_LOOPBACK) !== 0,
  };
}

function readAddress(body: Uint8Array): InterfaceAddress | undefined {
  if (body.length < ADDRESS_MESSAGE_SIZE) return undefined;
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const found = attributes(body, ADDRESS_MESSAGE_SIZE);
  // On a point-to-point link IFA_ADDRESS is the peer's, IFA_LOCAL the own one.
  const address = addressOf(found.get(IFA_LOCAL) ?? found.get(IFA_ADDRESS));
  if (address === undefined) return undefined;
  const flags = uint32(found.get(IFA_FLAGS), body[2]);
  return {
    index: view.getUint32(4, true),
    address,
    prefixLength: body[1],
    scope: body[3],
    usable: (flags & (IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE)) === 0,
  };
}

function readRoute(body: Uint8Array): Route | undefined {
  if (body.length < ROUTE_SIZE) return undefined;
  const [family, prefixLength, , , table, , , type] = body;
  if (family !== AF_INET && family !== AF_INET6 || type !== RTN_UNICAST) return undefined;
  const found = attributes(body, ROUTE_SIZE);
  if (uint32(found.get(RTA_TABLE), table) !== RT_TABLE_MAIN) return undefined;
  const destination = addressOf(found.get(RTA_DST));
  if (prefixLength > 0 && destination === undefined) return undefined;
  const hop = bestHop(found.get(RTA_MULTIPATH)) ?? hopOf(0, found);
  return {
    family,
    prefixLength,
    index: hop.index,
    destination: prefixLength === 0 ? undefined : destination,
    gateway: hop.gateway,
  };
}

interface Hop {
  readonly index: number;
  readonly gateway?: Uint8Array;
}

function hopOf(index: number, found: Map<number, Uint8Array>): Hop {
  // RTA_VIA: the family in two bytes, then an address that may be of another family.
  const via = addressOf(found.get(RTA_GATEWAY)) ??
    addressOf(found.get(RTA_VIA)?.subarray(2));
  return { index: uint32(found.get(RTA_OIF), index), gateway: via };
}

/** The first of the next hops with the highest weight. */
function bestHop(bytes: Uint8Array | undefined): Hop | undefined {
  if (bytes === undefined) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let best: Hop | undefined;
  let bestWeight = -1;
  let at = 0;
  while (at + NEXT_HOP_SIZE <= bytes.length) {
    const length = view.getUint16(at, true);
    if (length < NEXT_HOP_SIZE || length > bytes.length - at) break;
    const weight = bytes[at + 3];
    if (weight > bestWeight) {
      bestWeight = weight;
      const body = bytes.subarray(at, at + length);
      best = hopOf(view.getInt32(at + 4, true), attributes(body, NEXT_HOP_SIZE));
    }
    at += align(length);
  }
  return best;
}
