/** IPv4 header (RFC 791): 20 bytes, then options up to 60 bytes in all. */

import { complement, sum } from "./checksum.ts";

export const IPV4_HEADER_SIZE = 20;
export const IPV4_TOTAL_LENGTH_AT = 2;
export const IPV4_IDENTIFICATION_AT = 4;
export const IPV4_FRAGMENT_AT = 6;
export const IPV4_TTL_AT = 8;
export const IPV4_PROTOCOL_AT = 9;
export const IPV4_CHECKSUM_AT = 10;
export const IPV4_SOURCE_AT = 12;
export const IPV4_DESTINATION_AT = 16;

/** Smallest datagram that every host takes whole, in bytes (RFC 791, section 3.1). */
export const IPV4_MIN_REASSEMBLY = 576;
/** Smallest MTU in bytes (RFC 791, section 3.2). */
export const IPV4_MIN_MTU = 68;

const DONT_FRAGMENT = 0x4000;
/** More Fragments and the fragment offset: none is set in a whole datagram. */
const FRAGMENT_MASK = 0x3fff;

/**
 * Length in bytes of the header at `at`, options included, or -1 unless the whole packet
 * that it announces lies in the `available` bytes. Bytes after the packet are padding.
 */
export function ipv4HeaderLength(view: DataView, at: number, available: number): number {
  if (available < IPV4_HEADER_SIZE) return -1;
  const first = view.getUint8(at);
  if (first >> 4 !== 4) return -1;
  const headerLength = (first & 0xf) << 2;
  const totalLength = ipv4TotalLength(view, at);
  if (headerLength < IPV4_HEADER_SIZE || totalLength < headerLength) return -1;
  return totalLength <= available ? headerLength : -1;
}

/** Length of header and payload in bytes. */
export function ipv4TotalLength(view: DataView, at: number): number {
  return view.getUint16(at + IPV4_TOTAL_LENGTH_AT);
}

/** The protocol of the payload, one of Protocol of ip.ts. */
export function ipv4Protocol(view: DataView, at: number): number {
  return view.getUint8(at + IPV4_PROTOCOL_AT);
}

/** Whether the packet is one of several fragments, the first and last ones too. */
export function ipv4IsFragment(view: DataView, at: number): boolean {
  return (view.getUint16(at + IPV4_FRAGMENT_AT) & FRAGMENT_MASK) !== 0;
}

/** Whether the sender asked for Don't Fragment, so that it wants to hear of the MTU. */
export function ipv4DontFragment(view: DataView, at: number): boolean {
  return (view.getUint16(at + IPV4_FRAGMENT_AT) & DONT_FRAGMENT) !== 0;
}

/** Whether the header's checksum is right. */
export function ipv4ChecksumOk(
  view: DataView,
  at: number,
  headerLength: number,
): boolean {
  return sum(view, at, headerLength) === 0xffff;
}

/** Copies the four bytes at `at` to the 16 bytes at `toAt` of `to`, mapped into IPv6. */
export function readIPv4Address(
  view: DataView,
  at: number,
  to: DataView,
  toAt: number,
): void {
  to.setInt32(toAt, 0);
  to.setInt32(toAt + 4, 0);
  to.setInt32(toAt + 8, 0xffff);
  to.setInt32(toAt + 12, view.getInt32(at));
}

/** Copies the IPv4 part of the mapped address at `fromAt` of `from` to `at`. */
export function writeIPv4Address(
  view: DataView,
  at: number,
  from: DataView,
  fromAt: number,
): void {
  view.setInt32(at, from.getInt32(fromAt + 12));
}

/**
 * Writes a header of {@link IPV4_HEADER_SIZE} bytes with its checksum. The addresses are
 * 16 bytes, mapped. Don't Fragment is set, which makes the identification 0 right
 * (RFC 6864, section 4.1).
 */
export function writeIPv4(
  view: DataView,
  at: number,
  totalLength: number,
  protocol: number,
  ttl: number,
  source: DataView,
  sourceAt: number,
  destination: DataView,
  destinationAt: number,
): void {
  view.setUint16(at, 0x4500);
  view.setUint16(at + IPV4_TOTAL_LENGTH_AT, totalLength);
  view.setUint16(at + IPV4_IDENTIFICATION_AT, 0);
  view.setUint16(at + IPV4_FRAGMENT_AT, DONT_FRAGMENT);
  view.setUint8(at + IPV4_TTL_AT, ttl);
  view.setUint8(at + IPV4_PROTOCOL_AT, protocol);
  writeIPv4Address(view, at + IPV4_SOURCE_AT, source, sourceAt);
  writeIPv4Address(view, at + IPV4_DESTINATION_AT, destination, destinationAt);
  updateIPv4Checksum(view, at, IPV4_HEADER_SIZE);
}

/** Computes the header's checksum anew, after a field was changed. */
export function updateIPv4Checksum(
  view: DataView,
  at: number,
  headerLength: number,
): void {
  view.setUint16(at + IPV4_CHECKSUM_AT, 0);
  view.setUint16(at + IPV4_CHECKSUM_AT, complement(sum(view, at, headerLength)));
}
