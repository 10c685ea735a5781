/** struct virtio_net_hdr with num_buffers, 12 bytes (virtio 1.3, section 5.1.6). */
import { complement, sum } from "../wire/checksum.ts";
import { UDP_CHECKSUM_AT } from "../wire/udp.ts";

export const NET_HEADER_SIZE = 12;
export const NET_FLAGS_AT = 0;
export const NET_GSO_TYPE_AT = 1;
export const NET_HDR_LEN_AT = 2;
export const NET_GSO_SIZE_AT = 4;
export const NET_CSUM_START_AT = 6;
export const NET_CSUM_OFFSET_AT = 8;
export const NET_NUM_BUFFERS_AT = 10;

export const NET_F_NEEDS_CSUM = 1;

export const GsoType = {
  none: 0,
  tcp4: 1,
  udp: 3,
  tcp6: 4,
  udpL4: 5,
  ecn: 0x80,
} as const;

/** Feature bits of the network device and of the ring (sections 5.1.3 and 6), below 32. */
export const NetFeature = {
  csum: 0,
  guestCsum: 1,
  mtu: 3,
  mac: 5,
  guestTso4: 7,
  guestTso6: 8,
  guestEcn: 9,
  hostTso4: 11,
  hostTso6: 12,
  hostEcn: 13,
  mrgRxbuf: 15,
  status: 16,
  ctrlVq: 17,
  guestAnnounce: 21,
  multiqueue: 22,
  logAll: 26,
  indirectDesc: 28,
  eventIdx: 29,
  protocolFeatures: 30,
} as const;
/** Bits from 32 on, counted from 32. */
export const NetFeatureHigh = {
  version1: 0,
  ringPacked: 2,
  inOrder: 3,
  guestUso4: 22,
  guestUso6: 23,
  hostUso: 24,
} as const;

/**
 * Completes the checksum that a net header says is partial (5.1.6.2, NEEDS_CSUM), for
 * frames that vuelo reads itself.
 *
 * @param frame Ethernet header on, `length` bytes
 * @param header the net header, at `at`
 */
export function completeChecksum(
  frame: DataView,
  length: number,
  header: DataView,
  at: number,
): void {
  if ((header.getUint8(at + NET_FLAGS_AT) & NET_F_NEEDS_CSUM) === 0) return;
  const start = header.getUint16(at + NET_CSUM_START_AT, true);
  const offset = header.getUint16(at + NET_CSUM_OFFSET_AT, true);
  const field = start + offset;
  if (field + 2 > length) return;
  const checksum = complement(sum(frame, start, length - start));
  // In UDP alone, where 0 means none, 0xffff stands for 0 (RFC 768).
  frame.setUint16(
    field,
    checksum === 0 && offset === UDP_CHECKSUM_AT ? 0xffff : checksum,
  );
}
