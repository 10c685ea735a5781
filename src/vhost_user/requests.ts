/**
 * What each request is: the protocol feature it belongs to, the size of its payload, how
 * many descriptors come along, and what it does. Handlers refuse by throwing a
 * ProtocolError, or let through a MemoryError or SyscallError.
 */
import { close } from "../../ffi/event.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import { MAX_MEMORY_SLOTS } from "../virtio/guest_memory.ts";
import { type Backend, NO_FD, type SessionLog } from "./backend.ts";
import type { Message } from "./channel.ts";
import {
  CONFIG_FLAG_MIGRATION,
  CONFIG_FLAG_WRITABLE,
  CONFIG_HEADER_SIZE,
  MAX_CONFIG_SIZE,
  MAX_TABLE_REGIONS,
  ProtocolError,
  ProtocolFeature,
  readFeatures,
  readRegion,
  readU64,
  readVringAddresses,
  REGION_HEADER_SIZE,
  REGION_SIZE,
  Request,
  RING_PACKED_HIGH,
  u64Payload,
  VERSION_1_HIGH,
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VRING_INDEX_MASK,
  VRING_NO_FD,
  vringStatePayload,
} from "./message.ts";
import { Rings } from "./rings.ts";

/** MTUs that IPv4 (RFC 791) and virtio_net_config allow. */
const MIN_MTU = 68;
const MAX_MTU = 65535;

/** What a frontend has set so far. */
export class SessionState {
  readonly rings: Rings;
  /** Low word of the accepted features. */
  features = 0;
  /** SET_FEATURES came. */
  featuresSet = false;
  /** SET_PROTOCOL_FEATURES came. */
  protocolFeaturesSet = false;
  protocolFeatures = 0;
  status = 0;
  /** Channel for requests of ours (SET_BACKEND_REQ_FD). */
  requestFd = NO_FD;

  constructor(readonly backend: Backend, private readonly log: SessionLog) {
    this.rings = new Rings(backend, log);
  }

  /**
   * Whether the frontend knows of VHOST_USER_F_PROTOCOL_FEATURES. QEMU enables rings
   * before it sends SET_FEATURES, but says which protocol features it wants at first.
   */
  get knowsProtocolFeatures(): boolean {
    return this.featuresSet
      ? (this.features & VHOST_USER_F_PROTOCOL_FEATURES) !== 0
      : this.protocolFeaturesSet;
  }

  negotiated(feature: number): boolean {
    return (this.protocolFeatures & feature) !== 0;
  }

  /** Says once that the frontend could end this process by shrinking its memory. */
  noteShrinkable(): void {
    const { memory } = this.backend;
    if (memory.shrinkableTold || !memory.shrinkable) return;
    memory.shrinkableTold = true;
    this.log.info(
      "guest memory is in a file that could be made shorter, which would end vuelo " +
        "(SIGBUS); --sealed-memory refuses such files",
    );
  }

  setRequestFd(fd: number): void {
    if (this.requestFd !== NO_FD) close(this.requestFd);
    this.requestFd = fd;
  }

  close(): void {
    this.rings.close();
    this.backend.memory.clear();
    this.setRequestFd(NO_FD);
  }
}

/**
 * The protocol feature a request belongs to: the spec makes some legal as soon as the
 * feature was offered, others once it was accepted.
 */
type Gate = { readonly offered: number } | { readonly negotiated: number };

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

/** A reply's payload, or that with a descriptor, which is closed once it is sent. */
export type Reply = Uint8Array | { readonly payload: Uint8Array; readonly fd: number };

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

function getFeatures(state: SessionState): Uint8Array {
  const { lo, hi } = state.backend.deviceFeatures;
  return u64Payload(lo | VHOST_USER_F_PROTOCOL_FEATURES, hi);
}

function setFeatures(state: SessionState, payload: DataView): void {
  const { lo, hi } = readFeatures(payload);
  const offered = state.backend.deviceFeatures;
  const unknownLo = lo & ~(offered.lo | VHOST_USER_F_PROTOCOL_FEATURES);
  const unknownHi = hi & ~offered.hi;
  if (unknownLo !== 0 || unknownHi !== 0) {
    throw new ProtocolError(
      `features ${words(unknownLo, unknownHi)} were not offered`,
    );
  }
  const packed = (hi & RING_PACKED_HIGH) !== 0;
  if (packed && (hi & VERSION_1_HIGH) === 0) {
    throw new ProtocolError("packed rings without VIRTIO_F_VERSION_1");
  }
  state.rings.setForm(packed);
  state.features = lo;
  state.featuresSet = true;
  state.backend.memory.setLogging((lo & VHOST_F_LOG_ALL) !== 0);
  const accepted = { lo: lo & ~VHOST_USER_F_PROTOCOL_FEATURES, hi };
  state.rings.useless = state.backend.setFeatures(accepted);
  // Old frontends know nothing of SET_VRING_ENABLE.
  if ((lo & VHOST_USER_F_PROTOCOL_FEATURES) === 0) state.rings.enableAll(true);
}

function setProtocolFeatures(state: SessionState, payload: DataView): void {
  const { lo, hi } = readFeatures(payload);
  const unknown = lo & ~state.backend.protocolFeatures;
  if (unknown !== 0 || hi !== 0) {
    throw new ProtocolError(`protocol features ${words(unknown, hi)} were not offered`);
  }
  state.protocolFeatures = lo;
  state.protocolFeaturesSet = true;
}

function setMemoryTable(state: SessionState, message: Message): void {
  const { payload, fds } = message;
  const count = payload.getUint32(0, true);
  const fits = REGION_HEADER_SIZE + count * REGION_SIZE <= payload.byteLength;
  if (count > MAX_TABLE_REGIONS || !fits) {
    throw new ProtocolError(
      `${count} regions in ${payload.byteLength} bytes, limit ${MAX_TABLE_REGIONS}`,
    );
  }
  if (fds.length !== count) {
    throw new ProtocolError(`${fds.length} descriptors for ${count} regions`);
  }
  const regions = Array.from(
    { length: count },
    (_, i) => readRegion(payload, REGION_HEADER_SIZE + i * REGION_SIZE),
  );
  state.rings.moveMemory(() => state.backend.memory.setTable(regions, fds));
  state.noteShrinkable();
}

function addRegion(state: SessionState, message: Message): void {
  const region = readRegion(message.payload, REGION_HEADER_SIZE);
  const [fd] = message.fds;
  // Mapping one more moves nothing; rings that waited for it start.
  state.backend.memory.addRegion(region, fd);
  state.rings.startWaiting();
  state.noteShrinkable();
}

function removeRegion(state: SessionState, payload: DataView): void {
  const region = readRegion(payload, REGION_HEADER_SIZE);
  state.rings.moveMemory(() => state.backend.memory.removeRegion(region));
}

function setLogBase(state: SessionState, message: Message): Uint8Array {
  const size = readU64(message.payload, 0);
  const offset = readU64(message.payload, 8);
  state.backend.memory.setLog(message.fds[0], size, offset);
  return u64Payload(0);
}

/** Index and descriptor of SET_VRING_KICK, CALL and ERR, which is taken. */
function takeVringFd(message: Message): [number, number] {
  const word = message.payload.getUint32(0, true);
  const high = message.payload.getUint32(4, true);
  if ((word & ~(VRING_INDEX_MASK | VRING_NO_FD)) !== 0 || high !== 0) {
    throw new ProtocolError(`ring ${words(word, high)}, expected 9 bits`);
  }
  const expected = (word & VRING_NO_FD) === 0 ? 1 : 0;
  if (message.fdCount !== expected) {
    throw new ProtocolError(`${message.fdCount} descriptors, expected ${expected}`);
  }
  return [word & VRING_INDEX_MASK, expected === 0 ? NO_FD : message.takeFd(0)];
}

function setEnabled(state: SessionState, { payload }: Message): void {
  if (!state.knowsProtocolFeatures) {
    throw new ProtocolError("VHOST_USER_F_PROTOCOL_FEATURES was not accepted");
  }
  const value = payload.getUint32(4, true);
  if (value > 1) throw new ProtocolError(`enable is ${value}, expected 0 or 1`);
  state.rings.enable(payload.getUint32(0, true), value === 1);
}

function setMtu(state: SessionState, payload: DataView): void {
  const mtu = readU64(payload, 0);
  if (mtu < MIN_MTU || mtu > MAX_MTU || !state.backend.setMtu(mtu)) {
    throw new ProtocolError(`MTU ${mtu} cannot be used`);
  }
}

/** The spec's way to tell an error is a reply without payload. */
function getConfig(state: SessionState, payload: DataView): Uint8Array {
  const [offset, size] = configRange(payload);
  const bytes = state.backend.getConfig(offset, size);
  if (bytes === null || bytes.length !== size) return new Uint8Array(0);
  const reply = new Uint8Array(CONFIG_HEADER_SIZE + size);
  reply.set(new Uint8Array(payload.buffer, 0, CONFIG_HEADER_SIZE));
  reply.set(bytes, CONFIG_HEADER_SIZE);
  return reply;
}

function setConfig(state: SessionState, payload: DataView): void {
  const [offset, size] = configRange(payload);
  const flags = payload.getUint32(8, true);
  if (flags !== CONFIG_FLAG_WRITABLE && flags !== CONFIG_FLAG_MIGRATION) {
    throw new ProtocolError(`flags ${flags}, expected 0 or 1`);
  }
  const bytes = new Uint8Array(payload.buffer, CONFIG_HEADER_SIZE, size).slice();
  if (!state.backend.setConfig(offset, bytes, flags === CONFIG_FLAG_MIGRATION)) {
    throw new ProtocolError(`${size} bytes at ${offset} cannot be set`);
  }
}

function setStatus(state: SessionState, payload: DataView): void {
  const status = readU64(payload, 0);
  if (status > 0xff) throw new ProtocolError(`status ${status}, expected 8 bits`);
  state.status = status;
  if (status === 0) state.rings.stopAll();
}

function setRequestFd(state: SessionState, message: Message): void {
  setNonBlocking(message.fds[0]);
  state.setRequestFd(message.takeFd(0));
}

/** Not sent any more; the spec lets it disable all rings or do nothing. */
function resetOwner(state: SessionState): void {
  if ((state.features & VHOST_USER_F_PROTOCOL_FEATURES) !== 0) {
    state.rings.enableAll(false);
  }
}

/** Memory stays: frontends send only what changes of it (CONFIGURE_MEM_SLOTS). */
function resetDevice(state: SessionState): void {
  state.rings.reset();
  state.features = 0;
  state.featuresSet = false;
  state.status = 0;
  state.backend.memory.setLogging(false);
  state.backend.resetDevice();
}

/** Bits 0 to 7 of the reply tell an error, bit 8 that no descriptor comes with it. */
function setDeviceState(state: SessionState, message: Message): Reply {
  const direction = message.payload.getUint32(0, true);
  const phase = message.payload.getUint32(4, true);
  const [fd] = message.fds;
  const answer = state.backend.transferState(direction, phase, fd);
  if (!answer.accepted) return u64Payload(VRING_NO_FD | 1);
  message.takeFd(0);
  if (answer.instead === undefined) return u64Payload(VRING_NO_FD);
  return { payload: u64Payload(0), fd: answer.instead };
}

/** A vring state description: index and a number. */
function vringState({ payload }: Message): [number, number] {
  return [payload.getUint32(0, true), payload.getUint32(4, true)];
}

/** Offset and size of configuration space that fill the message. */
function configRange(payload: DataView): [number, number] {
  const offset = payload.getUint32(0, true);
  const size = payload.getUint32(4, true);
  if (CONFIG_HEADER_SIZE + size !== payload.byteLength) {
    throw new ProtocolError(`${size} bytes in a payload of ${payload.byteLength}`);
  }
  return [offset, size];
}

function words(lo: number, hi: number): string {
  const value = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
  return `0x${value.toString(16)}`;
}

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
