/**
 * What each request is: the protocol feature it belongs to, the size of its payload, how
 * many descriptors come along, and what it does (vhost-user, "Front-end message types").
 */
import { MAX_MEMORY_SLOTS } from "../virtio/guest_memory.ts";
import type { Message } from "./channel.ts";
import {
  addRegion,
  getConfig,
  getFeatures,
  removeRegion,
  type Reply,
  resetDevice,
  resetOwner,
  setConfig,
  setDeviceState,
  setEnabled,
  setFeatures,
  setLogBase,
  setMemoryTable,
  setMtu,
  setProtocolFeatures,
  setRequestFd,
  setStatus,
  takeVringFd,
  vringState,
} from "./handlers.ts";
import {
  CONFIG_HEADER_SIZE,
  MAX_CONFIG_SIZE,
  MAX_TABLE_REGIONS,
  ProtocolFeature,
  readVringAddresses,
  REGION_HEADER_SIZE,
  REGION_SIZE,
  Request,
  u64Payload,
  vringStatePayload,
} from "./message.ts";
import type { SessionState } from "./session_state.ts";

/**
 * The protocol feature a request belongs to: the spec makes some legal as soon as the
 * feature was offered, others once it was accepted.
 */
type Gate = { readonly offered: number } | { readonly negotiated: number };

/** What a message must be, and what it does. */
export interface Rule {
  readonly gate?: Gate;
  /** Bytes of payload: exactly, or least and most. */
  readonly size: number | readonly [number, number];
  /** Descriptors, least and most: none if absent. */
  readonly fds?: readonly [number, number];
  /** The handler returns the reply; refusal cannot be told but by ending. */
  readonly replies?: true;
  readonly handle: (state: SessionState, message: Message) => Reply | typeof LATER | void;
}

/** The reply is not known yet. */
export const LATER = "later";

const ONE_FD: [number, number] = [1, 1];
const CONFIG_SIZE: [number, number] = [
  CONFIG_HEADER_SIZE,
  CONFIG_HEADER_SIZE + MAX_CONFIG_SIZE,
];
const TABLE_SIZE: [number, number] = [
  REGION_HEADER_SIZE,
  REGION_HEADER_SIZE + MAX_TABLE_REGIONS * REGION_SIZE,
];
const SINGLE_REGION_SIZE = REGION_HEADER_SIZE + REGION_SIZE;
const MEM_SLOTS: Gate = { negotiated: ProtocolFeature.CONFIGURE_MEM_SLOTS };
const CONFIG: Gate = { negotiated: ProtocolFeature.CONFIG };
const STATUS: Gate = { negotiated: ProtocolFeature.STATUS };
const DEVICE_STATE: Gate = { negotiated: ProtocolFeature.DEVICE_STATE };

/** The rule of each request that is known; any other is refused. */
export const RULES: ReadonlyMap<number, Rule> = new Map<number, Rule>([
  [Request.GET_FEATURES, { size: 0, replies: true, handle: getFeatures }],
  [Request.SET_FEATURES, { size: 8, handle: (s, m) => setFeatures(s, m.payload) }],
  // Some frontends send a 64-bit word along, which means nothing.
  [Request.SET_OWNER, { size: [0, 8], handle: () => {} }],
  [Request.RESET_OWNER, { size: 0, handle: resetOwner }],
  [Request.SET_MEM_TABLE, {
    size: TABLE_SIZE,
    fds: [0, MAX_TABLE_REGIONS],
    handle: setMemoryTable,
  }],
  [Request.SET_LOG_BASE, {
    gate: { negotiated: ProtocolFeature.LOG_SHMFD },
    size: 16,
    fds: ONE_FD,
    replies: true,
    handle: setLogBase,
  }],
  // The frontend may look at the log whenever it likes; nobody waits to be told.
  [Request.SET_LOG_FD, { size: [0, 8], fds: ONE_FD, handle: () => {} }],
  [Request.SET_VRING_NUM, {
    size: 8,
    handle: (s, m) => s.rings.setSize(...vringState(m)),
  }],
  [Request.SET_VRING_ADDR, {
    size: 40,
    handle: (s, { payload }) =>
      s.rings.setAddresses(payload.getUint32(0, true), readVringAddresses(payload)),
  }],
  [Request.SET_VRING_BASE, {
    size: 8,
    handle: (s, m) => s.rings.setBase(...vringState(m)),
  }],
  [Request.GET_VRING_BASE, {
    size: 8,
    replies: true,
    handle: (s, m) => {
      const [index] = vringState(m);
      return vringStatePayload(index, s.rings.stop(index));
    },
  }],
  [Request.SET_VRING_KICK, {
    size: 8,
    fds: [0, 1],
    handle: (s, m) => s.rings.setKick(...takeVringFd(m)),
  }],
  [Request.SET_VRING_CALL, {
    size: 8,
    fds: [0, 1],
    handle: (s, m) => s.rings.setCall(...takeVringFd(m)),
  }],
  [Request.SET_VRING_ERR, {
    size: 8,
    fds: [0, 1],
    handle: (s, m) => s.rings.setErr(...takeVringFd(m)),
  }],
  [Request.GET_PROTOCOL_FEATURES, {
    size: 0,
    replies: true,
    handle: (s) => u64Payload(s.backend.protocolFeatures),
  }],
  [Request.SET_PROTOCOL_FEATURES, {
    size: 8,
    handle: (s, m) => setProtocolFeatures(s, m.payload),
  }],
  // For a net device the number is that of queue pairs, as QEMU and DPDK read it.
  [Request.GET_QUEUE_NUM, {
    gate: { offered: ProtocolFeature.MQ },
    size: 0,
    replies: true,
    handle: (s) => u64Payload(s.backend.maxQueues >>> 1),
  }],
  [Request.SET_VRING_ENABLE, { size: 8, handle: setEnabled }],
  [Request.SEND_RARP, {
    gate: { offered: ProtocolFeature.RARP },
    size: 8,
    handle: (s, { payload }) =>
      s.backend.sendRarp(new Uint8Array(payload.buffer, 0, 6).slice()),
  }],
  [Request.NET_SET_MTU, {
    gate: { offered: ProtocolFeature.NET_MTU },
    size: 8,
    handle: (s, m) => setMtu(s, m.payload),
  }],
  [Request.SET_BACKEND_REQ_FD, {
    gate: { offered: ProtocolFeature.BACKEND_REQ },
    size: 0,
    fds: ONE_FD,
    handle: setRequestFd,
  }],
  [Request.GET_CONFIG, {
    gate: CONFIG,
    size: CONFIG_SIZE,
    replies: true,
    handle: (s, m) => getConfig(s, m.payload),
  }],
  [Request.SET_CONFIG, {
    gate: CONFIG,
    size: CONFIG_SIZE,
    handle: (s, m) => setConfig(s, m.payload),
  }],
  [Request.RESET_DEVICE, {
    gate: { offered: ProtocolFeature.RESET_DEVICE },
    size: 0,
    handle: resetDevice,
  }],
  [Request.GET_MAX_MEM_SLOTS, {
    gate: MEM_SLOTS,
    size: 0,
    replies: true,
    handle: () => u64Payload(MAX_MEMORY_SLOTS),
  }],
  [Request.ADD_MEM_REG, {
    gate: MEM_SLOTS,
    size: SINGLE_REGION_SIZE,
    fds: ONE_FD,
    handle: addRegion,
  }],
  // Some frontends pass a descriptor; the spec has it closed.
  [Request.REM_MEM_REG, {
    gate: MEM_SLOTS,
    size: SINGLE_REGION_SIZE,
    fds: [0, 1],
    handle: (s, m) => removeRegion(s, m.payload),
  }],
  [Request.SET_STATUS, {
    gate: STATUS,
    size: 8,
    handle: (s, m) => setStatus(s, m.payload),
  }],
  [Request.GET_STATUS, {
    gate: STATUS,
    size: 0,
    replies: true,
    handle: (s) => u64Payload(s.status),
  }],
  [Request.SET_DEVICE_STATE_FD, {
    gate: DEVICE_STATE,
    size: 8,
    fds: ONE_FD,
    replies: true,
    handle: setDeviceState,
  }],
  [Request.CHECK_DEVICE_STATE, {
    gate: DEVICE_STATE,
    size: 0,
    replies: true,
    handle: (s) => {
      const result = s.backend.checkTransfer();
      return result === undefined ? LATER : u64Payload(result);
    },
  }],
]);
