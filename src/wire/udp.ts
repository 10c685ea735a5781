/** UDP header (RFC 768): 8 bytes. */

export const UDP_HEADER_SIZE = 8;
export const UDP_SOURCE_PORT_AT = 0;
export const UDP_DESTINATION_PORT_AT = 2;
export const UDP_LENGTH_AT = 4;
export const UDP_CHECKSUM_AT = 6;

/**
 * Length of header and payload of the datagram at `at`, or -1 unless it lies whole in
 * the `available` bytes that the IP header announces.
 */
export function udpLength(view: DataView, at: number, available: number): number {
  if (available < UDP_HEADER_SIZE) return -1;
  const length = view.getUint16(at + UDP_LENGTH_AT);
  return length >= UDP_HEADER_SIZE && length <= available ? length : -1;
}

/** Writes a header for `length` bytes of header and payload; the checksum is 0. */
export function writeUdp(
  view: DataView,
  at: number,
  sourcePort: number,
  destinationPort: number,
  length: number,
): void {
  view.setUint16(at + UDP_SOURCE_PORT_AT, sourcePort);
  view.setUint16(at + UDP_DESTINATION_PORT_AT, destinationPort);
  view.setUint16(at + UDP_LENGTH_AT, length);
  view.setUint16(at + UDP_CHECKSUM_AT, 0);
}

/** The checksum field for a complement of 0, which would mean no checksum at all. */
export function udpChecksum(complemented: number): number {
  return complemented === 0 ? 0xffff : complemented;
}
