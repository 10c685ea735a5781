/**
 * Numbers and layouts of vhost-user messages (QEMU, docs/interop/vhost-user.rst). All
 * fields are in the byte order of the machine, which is little-endian here.
 */
import type { RegionRequest } from "../virtio/guest_memory.ts";
import type { FeatureBits } from "./backend.ts";

/** Front-end message types. */
export const Request = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  SET_VRING_ENDIAN: 23,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  CREATE_CRYPTO_SESSION: 26,
  CLOSE_CRYPTO_SESSION: 27,
  POSTCOPY_ADVISE: 28,
  POSTCOPY_LISTEN: 29,
  POSTCOPY_END: 30,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  GPU_SET_SOCKET: 33,
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  GET_SHARED_OBJECT: 41,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
} as const;

const names = new Map<number, string>(
  Object.entries(Request).map(([name, number]) => [number, name]),
);

/** "SET_OWNER" for 3; "request 99" for a number without a name. */
export function requestName(request: number): string {
  return names.get(request) ?? `request ${request}`;
}

/** Back-end message types, those that vuelo sends. */
export const BackendRequest = { CONFIG_CHANGE_MSG: 2 } as const;

/** Protocol features as masks; all defined ones fit 32 bits. */
export const ProtocolFeature = {
  MQ: 1 << 0,
  LOG_SHMFD: 1 << 1,
  RARP: 1 << 2,
  REPLY_ACK: 1 << 3,
  NET_MTU: 1 << 4,
  BACKEND_REQ: 1 << 5,
  CONFIG: 1 << 9,
  RESET_DEVICE: 1 << 13,
  CONFIGURE_MEM_SLOTS: 1 << 15,
  STATUS: 1 << 16,
  DEVICE_STATE: 1 << 19,
} as const;

/** Feature bits of vhost, among those of the device: masks of the low word. */
export const VHOST_F_LOG_ALL = 1 << 26;
export const VHOST_USER_F_PROTOCOL_FEATURES = 1 << 30;
/** VIRTIO_F_RING_PACKED, a mask of the high word. */
export const RING_PACKED_HIGH = 1 << (34 - 32);
/** VIRTIO_F_VERSION_1 likewise. */
export const VERSION_1_HIGH = 1 << (32 - 32);

/** Header: request, flags, size of the payload; 32 bits each. */
export const HEADER_SIZE = 12;
export const VERSION = 1;
export const VERSION_MASK = 3;
export const FLAG_REPLY = 1 << 2;
export const FLAG_NEED_REPLY = 1 << 3;
/** Bits that mean nothing yet. */
export const FLAGS_UNKNOWN = ~(VERSION_MASK | FLAG_REPLY | FLAG_NEED_REPLY);
/** No message of the table is longer; the frontend's configuration space sets it. */
export const MAX_PAYLOAD = 1024;

export const MAX_TABLE_REGIONS = 8;
export const REGION_SIZE = 32;
/** Before the regions of a table (count, padding), and before a single one (padding). */
export const REGION_HEADER_SIZE = 8;
/** Offset, size and flags before the bytes of configuration space. */
export const CONFIG_HEADER_SIZE = 12;
export const MAX_CONFIG_SIZE = 256;
export const CONFIG_FLAG_WRITABLE = 0;
export const CONFIG_FLAG_MIGRATION = 1;

export const VRING_INDEX_MASK = 0xff;
export const VRING_NO_FD = 1 << 8;
export const VRING_F_LOG = 1 << 0;

/** A frontend did what the protocol forbids, or asks for what vuelo does not do. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** A 64-bit field as a double: exact below 2^53, and not below 2^53 if it is not. */
export function readU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
}

/** The payload of SET_FEATURES and SET_PROTOCOL_FEATURES. */
export function readFeatures(view: DataView): FeatureBits {
  return { lo: view.getUint32(0, true), hi: view.getUint32(4, true) };
}

/** A payload of one 64-bit integer, given as two words. */
export function u64Payload(lo: number, hi = 0): Uint8Array {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, lo, true);
  view.setUint32(4, hi, true);
  return bytes;
}

/** A vring state description: index and a number. */
export function vringStatePayload(index: number, number: number): Uint8Array {
  return u64Payload(index, number);
}

/** A memory region description: four 64-bit fields. */
export function readRegion(view: DataView, at: number): RegionRequest {
  return {
    guestAddress: readU64(view, at),
    size: readU64(view, at + 8),
    userAddress: readU64(view, at + 16),
    mmapOffset: readU64(view, at + 24),
  };
}

/** Where the frontend sees a ring, and what of it is logged. */
export interface VringAddresses {
  readonly desc: number;
  readonly used: number;
  readonly avail: number;
  /** Guest address of the used ring for the log, -1 if it is not to be logged. */
  readonly log: number;
}

/**
 * A vring address description: index, flags, descriptor, used, available, log.
 *
 * @throws {ProtocolError} if the used ring is to be logged beyond 2^53, or flags are set
 *   that there are not.
 */
export function readVringAddresses(view: DataView): VringAddresses {
  const flags = view.getUint32(4, true);
  if ((flags & ~VRING_F_LOG) !== 0) {
    throw new ProtocolError(`flags 0x${flags.toString(16)}, expected 0 or 1`);
  }
  const logged = (flags & VRING_F_LOG) !== 0;
  const log = logged ? readU64(view, 32) : -1;
  if (log > Number.MAX_SAFE_INTEGER - 0x1_0000_0000) {
    throw new ProtocolError("the used ring is to be logged beyond 2^53");
  }
  return {
    desc: readU64(view, 8),
    used: readU64(view, 16),
    avail: readU64(view, 24),
    log,
  };
}
