/**
 * What the requests do whose handling takes more than a line; RULES of requests.ts has
 * checked size, descriptors and protocol feature of a message before its handler sees it.
 * Handlers refuse by throwing a ProtocolError, or let through a MemoryError or
 * SyscallError.
 */
import { setNonBlocking } from "../../ffi/memory.ts";
import { IPV4_MIN_MTU } from "../wire/ipv4.ts";
import { NO_FD } from "./backend.ts";
import type { Message } from "./channel.ts";
import {
  CONFIG_FLAG_MIGRATION,
  CONFIG_FLAG_WRITABLE,
  CONFIG_HEADER_SIZE,
  MAX_TABLE_REGIONS,
  ProtocolError,
  readFeatures,
  readRegion,
  readU64,
  REGION_HEADER_SIZE,
  REGION_SIZE,
  RING_PACKED_HIGH,
  u64Payload,
  VERSION_1_HIGH,
  VHOST_F_LOG_ALL,
  VHOST_USER_F_PROTOCOL_FEATURES,
  VRING_INDEX_MASK,
  VRING_NO_FD,
} from "./message.ts";
import type { SessionState } from "./session_state.ts";

/** Largest MTU that virtio_net_config allows. */
const MAX_MTU = 65535;

/** A reply's payload, or that with a descriptor, which is closed once it is sent. */
export type Reply = Uint8Array | { readonly payload: Uint8Array; readonly fd: number };

/** GET_FEATURES: what the device offers, and that of the protocol itself. */
export function getFeatures(state: SessionState): Uint8Array {
  const { lo, hi } = state.backend.deviceFeatures;
  return u64Payload(lo | VHOST_USER_F_PROTOCOL_FEATURES, hi);
}

/** SET_FEATURES: none but offered ones; they say of which form rings are. */
export function setFeatures(state: SessionState, payload: DataView): void {
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

/** SET_PROTOCOL_FEATURES: none but offered ones. */
export function setProtocolFeatures(state: SessionState, payload: DataView): void {
  const { lo, hi } = readFeatures(payload);
  const unknown = lo & ~state.backend.protocolFeatures;
  if (unknown !== 0 || hi !== 0) {
    throw new ProtocolError(`protocol features ${words(unknown, hi)} were not offered`);
  }
  state.protocolFeatures = lo;
  state.protocolFeaturesSet = true;
}

/** SET_MEM_TABLE: other memory instead of all there was; rings stop meanwhile. */
export function setMemoryTable(state: SessionState, message: Message): void {
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

/** ADD_MEM_REG: one more region. */
export function addRegion(state: SessionState, message: Message): void {
  const region = readRegion(message.payload, REGION_HEADER_SIZE);
  const [fd] = message.fds;
  // Mapping one more moves nothing; rings that waited for it start.
  state.backend.memory.addRegion(region, fd);
  state.rings.startWaiting();
  state.noteShrinkable();
}

/** REM_MEM_REG: one region less; rings that lay in it stop. */
export function removeRegion(state: SessionState, payload: DataView): void {
  const region = readRegion(payload, REGION_HEADER_SIZE);
  state.rings.moveMemory(() => state.backend.memory.removeRegion(region));
}

/** SET_LOG_BASE: where dirty pages are marked; the reply says that it was taken. */
export function setLogBase(state: SessionState, message: Message): Uint8Array {
  const size = readU64(message.payload, 0);
  const offset = readU64(message.payload, 8);
  state.backend.memory.setLog(message.fds[0], size, offset);
  return u64Payload(0);
}

/** Index and descriptor of SET_VRING_KICK, CALL and ERR, which is taken. */
export function takeVringFd(message: Message): [number, number] {
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

/** SET_VRING_ENABLE: only for frontends that know of protocol features. */
export function setEnabled(state: SessionState, { payload }: Message): void {
  if (!state.knowsProtocolFeatures) {
    throw new ProtocolError("VHOST_USER_F_PROTOCOL_FEATURES was not accepted");
  }
  const value = payload.getUint32(4, true);
  if (value > 1) throw new ProtocolError(`enable is ${value}, expected 0 or 1`);
  state.rings.enable(payload.getUint32(0, true), value === 1);
}

/** NET_SET_MTU: refused where the device or IPv4 cannot have it. */
export function setMtu(state: SessionState, payload: DataView): void {
  const mtu = readU64(payload, 0);
  if (mtu < IPV4_MIN_MTU || mtu > MAX_MTU || !state.backend.setMtu(mtu)) {
    throw new ProtocolError(`MTU ${mtu} cannot be used`);
  }
}

/** GET_CONFIG: the spec's way to tell an error is a reply without payload. */
export function getConfig(state: SessionState, payload: DataView): Uint8Array {
  const [offset, size] = configRange(payload);
  const bytes = state.backend.getConfig(offset, size);
  if (bytes === null || bytes.length !== size) return new Uint8Array(0);
  const reply = new Uint8Array(CONFIG_HEADER_SIZE + size);
  reply.set(new Uint8Array(payload.buffer, 0, CONFIG_HEADER_SIZE));
  reply.set(bytes, CONFIG_HEADER_SIZE);
  return reply;
}

/** SET_CONFIG: what the guest writes, or the target of a migration. */
export function setConfig(state: SessionState, payload: DataView): void {
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

/** SET_STATUS: as the driver wrote it; 0 is a reset (virtio 1.3, section 2.1). */
export function setStatus(state: SessionState, payload: DataView): void {
  const status = readU64(payload, 0);
  if (status > 0xff) throw new ProtocolError(`status ${status}, expected 8 bits`);
  state.status = status;
  if (status === 0) state.rings.stopAll();
}

/** SET_BACKEND_REQ_FD: a socket for requests of ours. */
export function setRequestFd(state: SessionState, message: Message): void {
  setNonBlocking(message.fds[0]);
  state.setRequestFd(message.takeFd(0));
}

/** RESET_OWNER: no longer sent; the spec lets it disable all rings or do nothing. */
export function resetOwner(state: SessionState): void {
  if ((state.features & VHOST_USER_F_PROTOCOL_FEATURES) !== 0) {
    state.rings.enableAll(false);
  }
}

/** RESET_DEVICE: memory stays, as frontends send only what changes of it (CONFIGURE_MEM_SLOTS). */
export function resetDevice(state: SessionState): void {
  state.rings.reset();
  state.features = 0;
  state.featuresSet = false;
  state.status = 0;
  state.backend.memory.setLogging(false);
  state.backend.resetDevice();
}

/**
 * SET_DEVICE_STATE_FD: bits 0 to 7 of the reply tell an error, bit 8 that no descriptor
 * comes with it.
 */
export function setDeviceState(state: SessionState, message: Message): Reply {
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
export function vringState({ payload }: Message): [number, number] {
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
