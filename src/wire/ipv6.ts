/** IPv6 header (RFC 8200): 40 bytes, then extension headers. */

import { Protocol } from "./ip.ts";

export const IPV6_HEADER_SIZE = 40;
export const IPV6_PAYLOAD_LENGTH_AT = 4;
export const IPV6_NEXT_HEADER_AT = 6;
export const IPV6_HOP_LIMIT_AT = 7;
export const IPV6_SOURCE_AT = 8;
export const IPV6_DESTINATION_AT = 24;

/** Smallest MTU that IPv6 allows (RFC 8200, section 5). */
export const IPV6_MIN_MTU = 1280;

/** Nobody sends more; a longer chain is dropped (RFC 8200, section 4.1, lists seven). */
const MAX_EXTENSION_HEADERS = 8;
/** Fragment offset and More Fragments of the Fragment header's third and fourth byte. */
const FRAGMENT_MASK = 0xfff9;

/**
 * Length in bytes of the packet at `at`, header included, or -1 unless it lies whole in
 * the `available` bytes. Bytes after the packet are padding.
 */
export function ipv6Length(view: DataView, at: number, available: number): number {
  if (available < IPV6_HEADER_SIZE || view.getUint8(at) >> 4 !== 6) return -1;
  const length = IPV6_HEADER_SIZE + view.getUint16(at + IPV6_PAYLOAD_LENGTH_AT);
  return length <= available ? length : -1;
}

/**
 * Walks the extension headers of a packet of `length` bytes (see {@link ipv6Length}).
 * Returns the upper layer, to be taken apart by {@link upperProtocol} and
 * {@link upperOffset}, or -1 if the chain is malformed, too long or source-routed.
 * A fragment gives Protocol.fragment and the offset of its Fragment header; an atomic
 * fragment (RFC 6946) is a whole packet and is walked through.
 */
export function ipv6Upper(view: DataView, at: number, length: number): number {
  let protocol = view.getUint8(at + IPV6_NEXT_HEADER_AT);
  let offset = IPV6_HEADER_SIZE;
  for (let count = 0; count <= MAX_EXTENSION_HEADERS; count++) {
    if (!isExtension(protocol, count)) return protocol << 20 | offset;
    if (offset + 8 > length) return -1;
    const header = at + offset;
    let size = 8;
    if (protocol === Protocol.fragment) {
      if (view.getUint16(header + 2) & FRAGMENT_MASK) return protocol << 20 | offset;
    } else {
      size += view.getUint8(header + 1) << 3;
      // Segments Left: the packet is on its way to somebody else (RFC 8200, section 4.4).
      if (protocol === Protocol.routing && view.getUint8(header + 3) !== 0) return -1;
    }
    if (offset + size > length) return -1;
    protocol = view.getUint8(header);
    offset += size;
  }
  return -1;
}

/** Hop-by-Hop Options count only as the first header (RFC 8200, section 4.1). */
function isExtension(protocol: number, index: number): boolean {
  return protocol === Protocol.destinationOptions || protocol === Protocol.routing ||
    protocol === Protocol.fragment || protocol === Protocol.hopByHop && index === 0;
}

/** Protocol number out of the result of {@link ipv6Upper}. */
export function upperProtocol(upper: number): number {
  return upper >> 20;
}

/** Bytes from the start of the IPv6 header to the upper layer. */
export function upperOffset(upper: number): number {
  return upper & 0xfffff;
}

/** Copies a 16-byte address. */
export function copyAddress(
  from: DataView,
  fromAt: number,
  to: DataView,
  toAt: number,
): void {
  to.setInt32(toAt, from.getInt32(fromAt));
  to.setInt32(toAt + 4, from.getInt32(fromAt + 4));
  to.setInt32(toAt + 8, from.getInt32(fromAt + 8));
  to.setInt32(toAt + 12, from.getInt32(fromAt + 12));
}

/** Writes a header of {@link IPV6_HEADER_SIZE} bytes, traffic class and flow label 0. */
export function writeIPv6(
  view: DataView,
  at: number,
  payloadLength: number,
  nextHeader: number,
  hopLimit: number,
  source: DataView,
  sourceAt: number,
  destination: DataView,
  destinationAt: number,
): void {
  view.setInt32(at, 0x60000000);
  view.setUint16(at + IPV6_PAYLOAD_LENGTH_AT, payloadLength);
  view.setUint8(at + IPV6_NEXT_HEADER_AT, nextHeader);
  view.setUint8(at + IPV6_HOP_LIMIT_AT, hopLimit);
  copyAddress(source, sourceAt, view, at + IPV6_SOURCE_AT);
  copyAddress(destination, destinationAt, view, at + IPV6_DESTINATION_AT);
}
