/**
 * Takes a guest's frame apart down to the transport header and leaves the flow's guest
 * side in the table's key. Nothing here looks at guest memory: headers are the checked
 * copy in {@link FrameSource.head}.
 */
import type { FrameSource } from "../virtio/frame_source.ts";
import { ETHERNET_HEADER_SIZE, EtherType, etherType } from "../wire/ethernet.ts";
import { Protocol } from "../wire/ip.ts";
import {
  IPV4_DESTINATION_AT,
  IPV4_HEADER_SIZE,
  IPV4_SOURCE_AT,
  IPV4_TTL_AT,
  ipv4ChecksumOk,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4TotalLength,
  readIPv4Address,
} from "../wire/ipv4.ts";
import {
  copyAddress,
  IPV6_DESTINATION_AT,
  IPV6_HEADER_SIZE,
  IPV6_HOP_LIMIT_AT,
  IPV6_SOURCE_AT,
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
} from "../wire/ipv6.ts";
import { type FlowTable, KEY_ENDPOINT_AT, KEY_OUR_AT } from "./table.ts";

/** What {@link Packet.parse} found. */
export const Parsed = { ip: 0, arp: 1, malformed: 2, fragment: 3, other: 4 } as const;

/** Headers beyond this many bytes of a frame are not looked for. */
const MAX_HEADERS = 320;

/** Whether an address stands for one of IPv4, as only programs and vuelo use them. */
function isMapped(head: DataView, at: number): boolean {
  return head.getInt32(at + 8) === 0xffff && head.getInt32(at) === 0 &&
    head.getInt32(at + 4) === 0;
}

/** The headers of the frame that the guest sent last. */
export class Packet {
  /** 4 or 6. */
  version = 0;
  /** Offset of the IP header in the frame: always 14. */
  readonly ipAt = ETHERNET_HEADER_SIZE;
  /** Upper layer: Protocol.tcp and so on, its offset and length (header and payload). */
  protocol = 0;
  transportAt = 0;
  transportLength = 0;
  /** TTL or hop limit. */
  ttl = 0;
  readonly #source: FrameSource;
  readonly #table: FlowTable;

  constructor(source: FrameSource, table: FlowTable) {
    this.#source = source;
    this.#table = table;
  }

  /**
   * Parses the current frame of the source. For an IP packet the addresses are in the
   * table's key: the destination as "our", the source as the endpoint.
   */
  parse(): number {
    const head = this.#source.head;
    const type = etherType(head, 0);
    if (type === EtherType.ipv4) return this.#parse4(head);
    if (type === EtherType.ipv6) return this.#parse6(head);
    return type === EtherType.arp ? Parsed.arp : Parsed.other;
  }

  #parse4(head: DataView): number {
    const at = this.ipAt;
    const available = this.#source.length - at;
    if (!this.#source.need(at + IPV4_HEADER_SIZE)) return Parsed.malformed;
    const headerLength = ipv4HeaderLength(head, at, available);
    if (headerLength < 0) return Parsed.malformed;
    if (!this.#source.need(at + headerLength)) return Parsed.malformed;
    if (!ipv4ChecksumOk(head, at, headerLength)) return Parsed.malformed;
    if (ipv4IsFragment(head, at)) return Parsed.fragment;
    this.version = 4;
    this.protocol = ipv4Protocol(head, at);
    this.ttl = head.getUint8(at + IPV4_TTL_AT);
    this.transportAt = at + headerLength;
    this.transportLength = ipv4TotalLength(head, at) - headerLength;
    const key = this.#table.keyView;
    readIPv4Address(head, at + IPV4_DESTINATION_AT, key, KEY_OUR_AT);
    readIPv4Address(head, at + IPV4_SOURCE_AT, key, KEY_ENDPOINT_AT);
    return this.#needTransport();
  }

  #parse6(head: DataView): number {
    const at = this.ipAt;
    if (!this.#source.need(at + IPV6_HEADER_SIZE)) return Parsed.malformed;
    const length = ipv6Length(head, at, this.#source.length - at);
    if (length < 0) return Parsed.malformed;
    // Extension headers are walked in the copy: as much of it as there may be headers.
    const limit = Math.min(at + length, MAX_HEADERS);
    const next = head.getUint8(at + 6);
    const plain = next === Protocol.tcp || next === Protocol.udp;
    if (!plain && !this.#source.need(limit)) return Parsed.malformed;
    const upper = ipv6Upper(head, at, plain ? length : limit - at);
    if (upper < 0) return Parsed.malformed;
    // Such a flow would have one family here and another one there.
    if (isMapped(head, at + IPV6_DESTINATION_AT) || isMapped(head, at + IPV6_SOURCE_AT)) {
      return Parsed.malformed;
    }
    if (upperProtocol(upper) === Protocol.fragment) return Parsed.fragment;
    this.version = 6;
    this.protocol = upperProtocol(upper);
    this.ttl = head.getUint8(at + IPV6_HOP_LIMIT_AT);
    this.transportAt = at + upperOffset(upper);
    this.transportLength = length - upperOffset(upper);
    const key = this.#table.keyView;
    copyAddress(head, at + IPV6_DESTINATION_AT, key, KEY_OUR_AT);
    copyAddress(head, at + IPV6_SOURCE_AT, key, KEY_ENDPOINT_AT);
    return this.#needTransport();
  }

  /** The transport header's fixed part must be in the copy: 20 bytes for TCP, 8 else. */
  #needTransport(): number {
    const size = this.protocol === Protocol.tcp ? 20 : 8;
    if (this.transportLength < size) return Parsed.malformed;
    return this.#source.need(this.transportAt + size) ? Parsed.ip : Parsed.malformed;
  }

  /** Puts a transport header's ports into the table's key: destination is "our". */
  keyPorts(): void {
    const ports = this.#source.head.getUint32(this.transportAt);
    this.#table.key[1] = (ports << 16) | (ports >>> 16);
  }
}
