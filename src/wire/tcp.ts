/** TCP header (RFC 9293, section 3.1): 20 bytes, then options up to 60 bytes in all. */

export const TCP_HEADER_SIZE = 20;
export const TCP_MAX_HEADER_SIZE = 60;
export const TCP_SOURCE_PORT_AT = 0;
export const TCP_DESTINATION_PORT_AT = 2;
export const TCP_SEQUENCE_AT = 4;
export const TCP_ACKNOWLEDGEMENT_AT = 8;
export const TCP_DATA_OFFSET_AT = 12;
export const TCP_FLAGS_AT = 13;
export const TCP_WINDOW_AT = 14;
export const TCP_CHECKSUM_AT = 16;

/** Control bits (RFC 9293, section 3.1; RFC 3168, section 6.1). */
export const TcpFlag = {
  fin: 0x01,
  syn: 0x02,
  rst: 0x04,
  psh: 0x08,
  ack: 0x10,
  urg: 0x20,
  ece: 0x40,
  cwr: 0x80,
} as const;

/** Kinds of options (RFC 9293, section 3.2; RFC 7323; RFC 2018). */
export const TcpOption = {
  end: 0,
  noOperation: 1,
  mss: 2,
  windowScale: 3,
  sackPermitted: 4,
  sack: 5,
  timestamps: 8,
} as const;

/** Largest shift that means anything (RFC 7323, section 2.3). */
export const TCP_MAX_WINDOW_SCALE = 14;
/** Bytes that {@link writeTcpSynOptions} writes. */
export const TCP_SYN_OPTIONS_SIZE = 8;

/**
 * Length in bytes of the header at `at`, options included, or -1 unless it lies whole in
 * the `available` bytes of the segment.
 */
export function tcpHeaderLength(view: DataView, at: number, available: number): number {
  if (available < TCP_HEADER_SIZE) return -1;
  const length = view.getUint8(at + TCP_DATA_OFFSET_AT) >> 4 << 2;
  return length >= TCP_HEADER_SIZE && length <= available ? length : -1;
}

/** The flags: bits of {@link TcpFlag}. */
export function tcpFlags(view: DataView, at: number): number {
  return view.getUint8(at + TCP_FLAGS_AT);
}

/** Sequence number, 0 to 2^32 - 1. */
export function tcpSequence(view: DataView, at: number): number {
  return view.getUint32(at + TCP_SEQUENCE_AT);
}

/** Acknowledgement number, 0 to 2^32 - 1. */
export function tcpAcknowledgement(view: DataView, at: number): number {
  return view.getUint32(at + TCP_ACKNOWLEDGEMENT_AT);
}

/** Window as it stands in the header, not scaled. */
export function tcpWindow(view: DataView, at: number): number {
  return view.getUint16(at + TCP_WINDOW_AT);
}

/**
 * Offset from `at` of the first option of this kind that has `size` bytes in all, or -1.
 * `headerLength` is that of {@link tcpHeaderLength}.
 */
export function tcpOption(
  view: DataView,
  at: number,
  headerLength: number,
  kind: number,
  size: number,
): number {
  let offset = TCP_HEADER_SIZE;
  while (offset < headerLength) {
    const found = view.getUint8(at + offset);
    if (found === TcpOption.end) return -1;
    if (found === TcpOption.noOperation) {
      offset++;
      continue;
    }
    if (offset + 2 > headerLength) return -1;
    const length = view.getUint8(at + offset + 1);
    if (length < 2 || offset + length > headerLength) return -1;
    if (found === kind && length === size) return offset;
    offset += length;
  }
  return -1;
}

/** The Maximum Segment Size option of a SYN, or -1. */
export function tcpMss(view: DataView, at: number, headerLength: number): number {
  const offset = tcpOption(view, at, headerLength, TcpOption.mss, 4);
  return offset < 0 ? -1 : view.getUint16(at + offset + 2);
}

/** The Window Scale option of a SYN, at most 14 (RFC 7323, section 2.3), or -1. */
export function tcpWindowScale(view: DataView, at: number, headerLength: number): number {
  const offset = tcpOption(view, at, headerLength, TcpOption.windowScale, 3);
  if (offset < 0) return -1;
  return Math.min(view.getUint8(at + offset + 2), TCP_MAX_WINDOW_SCALE);
}

/** Writes a header without options; checksum and urgent pointer are 0. */
export function writeTcp(
  view: DataView,
  at: number,
  sourcePort: number,
  destinationPort: number,
  sequence: number,
  acknowledgement: number,
  headerLength: number,
  flags: number,
  window: number,
): void {
  view.setUint16(at + TCP_SOURCE_PORT_AT, sourcePort);
  view.setUint16(at + TCP_DESTINATION_PORT_AT, destinationPort);
  view.setUint32(at + TCP_SEQUENCE_AT, sequence);
  view.setUint32(at + TCP_ACKNOWLEDGEMENT_AT, acknowledgement);
  view.setUint8(at + TCP_DATA_OFFSET_AT, headerLength >> 2 << 4);
  view.setUint8(at + TCP_FLAGS_AT, flags);
  view.setUint16(at + TCP_WINDOW_AT, window);
  view.setInt32(at + TCP_CHECKSUM_AT, 0);
}

/**
 * Writes the options of a SYN after a header of 20 bytes at `at`: MSS and, unless
 * `windowScale` is negative, Window Scale; {@link TCP_SYN_OPTIONS_SIZE} bytes.
 */
export function writeTcpSynOptions(
  view: DataView,
  at: number,
  mss: number,
  windowScale: number,
): void {
  const options = at + TCP_HEADER_SIZE;
  view.setUint16(options, TcpOption.mss << 8 | 4);
  view.setUint16(options + 2, mss);
  if (windowScale < 0) {
    view.setInt32(options + 4, 0x01010101);
  } else {
    view.setUint16(options + 4, TcpOption.noOperation << 8 | TcpOption.windowScale);
    view.setUint16(options + 6, 3 << 8 | windowScale);
  }
}
