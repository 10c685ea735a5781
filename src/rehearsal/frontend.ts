/** A hypervisor of a rehearsal: it asks for what QEMU asks for when a guest moves. */
import { close, eventfdCreate } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import { writeSome } from "../../ffi/pipe.ts";
import { receive, send, socketPair } from "../../ffi/unix_socket.ts";
import type { GuestService } from "../guest_service.ts";
import {
  FLAG_NEED_REPLY,
  HEADER_SIZE,
  ProtocolFeature,
  Request,
  VERSION,
  VHOST_F_LOG_ALL,
} from "../vhost_user/message.ts";

/** The guest's memory: both rings, and buffers to receive into. */
const RAM_SIZE = 1 << 20;
const RINGS = 2;
const RING_SIZE = 256;
const RING_SPACE = 0x4000;
const AVAIL_AT = 0x1000;
const USED_AT = 0x2000;
const BUFFERS_AT = 0x10000;
const BUFFER_SIZE = 2048;
const BUFFERS = 16;
/** VIRTQ_DESC_F_WRITE (virtio 1.3, 2.7.5). */
const WRITABLE = 2;
const DRIVER_OK = 15;
const EMPTY: Uint8Array = new Uint8Array(0);
const PROTOCOL_FEATURES = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK |
  ProtocolFeature.RESET_DEVICE | ProtocolFeature.CONFIGURE_MEM_SLOTS |
  ProtocolFeature.STATUS | ProtocolFeature.DEVICE_STATE;

/** Direction of a transfer as SET_DEVICE_STATE_FD has it. */
export const SAVE = 0;
export const LOAD = 1;

/** 64-bit words below 2^53, little-endian. */
function wide(...values: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => {
    view.setUint32(8 * i, value >>> 0, true);
    view.setUint32(8 * i + 4, Math.floor(value / 2 ** 32), true);
  });
  return new Uint8Array(view.buffer);
}

/** 32-bit words. */
function narrow(...values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** A frontend, and the guest behind it, that do what a real one would. */
export class RehearsedFrontend {
  /** The socket, the guest's memory, and what the rings are signalled with. */
  #fd = -1;
  #ram = -1;
  readonly #kicks: number[] = [];
  readonly #calls: number[] = [];
  readonly #reply = new Uint8Array(64);

  /** Connects, and negotiates everything. @throws {SyscallError} without descriptors */
  constructor(private readonly service: GuestService) {
    try {
      this.#connect();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #connect(): void {
    this.#ram = memfdCreate("rehearsal", RAM_SIZE);
    for (const fds of [this.#kicks, this.#calls]) {
      for (let ring = 0; ring < RINGS; ring++) fds.push(eventfdCreate());
    }
    const [ours, theirs] = socketPair();
    this.#fd = ours;
    this.service.serve(theirs);
    this.#ask(Request.GET_FEATURES);
    this.#ask(Request.GET_PROTOCOL_FEATURES);
    this.#tell(Request.SET_PROTOCOL_FEATURES, wide(PROTOCOL_FEATURES));
    this.#ask(Request.GET_QUEUE_NUM);
    this.#ask(Request.GET_MAX_MEM_SLOTS);
    this.#tell(Request.SET_OWNER);
  }

  /** Sends a request that is not answered. */
  #tell(request: number, payload = EMPTY, fds: readonly number[] = []): void {
    this.#send(request, VERSION, payload, fds);
  }

  /** Sends a request and has it answered; the first word of the answer. */
  #ask(
    request: number,
    payload = EMPTY,
    fds: readonly number[] = [],
  ): number {
    this.#send(request, VERSION | FLAG_NEED_REPLY, payload, fds);
    this.service.turn(0);
    const came: number[] = [];
    const count = receive(this.#fd, this.#reply, came);
    for (const fd of came) close(fd);
    if (count < HEADER_SIZE) throw new Error(`request ${request} was not answered`);
    return new DataView(this.#reply.buffer).getUint32(HEADER_SIZE, true);
  }

  #send(
    request: number,
    flags: number,
    payload: Uint8Array,
    fds: readonly number[],
  ): void {
    const message = new Uint8Array(HEADER_SIZE + payload.length);
    message.set(narrow(request, flags, payload.length));
    message.set(payload, HEADER_SIZE);
    send(this.#fd, message, fds);
  }

  /** SET_VRING_ENABLE of both rings. */
  enable(on: boolean): void {
    for (let ring = 0; ring < RINGS; ring++) {
      this.#ask(Request.SET_VRING_ENABLE, narrow(ring, +on));
    }
  }

  /** The guest's driver takes features, shares memory, and sets both rings up. */
  start(): void {
    const { lo, hi } = this.service.device.deviceFeatures;
    this.#tell(Request.SET_FEATURES, narrow(lo & ~VHOST_F_LOG_ALL, hi));
    this.#ask(Request.GET_STATUS);
    this.#offerBuffers();
    this.#ask(Request.ADD_MEM_REG, wide(0, 0, RAM_SIZE, 0, 0), [this.#ram]);
    for (let ring = 0; ring < RINGS; ring++) {
      const at = ring * RING_SPACE;
      this.#tell(Request.SET_VRING_NUM, narrow(ring, RING_SIZE));
      this.#tell(Request.SET_VRING_BASE, narrow(ring, 0));
      this.#tell(Request.SET_VRING_ADDR, wide(ring, at, at + USED_AT, at + AVAIL_AT, 0));
      this.#tell(Request.SET_VRING_KICK, wide(ring), [this.#kicks[ring]]);
      this.#tell(Request.SET_VRING_CALL, wide(ring), [this.#calls[ring]]);
    }
    this.#ask(Request.GET_STATUS);
    this.#tell(Request.SET_STATUS, wide(DRIVER_OK));
  }

  /** Puts buffers into the receive ring, for what a guest is told that arrives. */
  #offerBuffers(): void {
    const view = new DataView(new ArrayBuffer(USED_AT));
    for (let i = 0; i < BUFFERS; i++) {
      view.setUint32(16 * i, BUFFERS_AT + i * BUFFER_SIZE, true);
      view.setUint32(16 * i + 8, BUFFER_SIZE, true);
      view.setUint16(16 * i + 12, WRITABLE, true);
      view.setUint16(AVAIL_AT + 4 + 2 * i, i, true);
    }
    view.setUint16(AVAIL_AT + 2, BUFFERS, true);
    writeSome(this.#ram, new Uint8Array(view.buffer));
  }

  /** The guest stops. */
  stop(): void {
    for (let ring = 0; ring < RINGS; ring++) {
      this.#ask(Request.GET_VRING_BASE, narrow(ring, 0));
    }
    this.#tell(Request.SET_STATUS, wide(DRIVER_OK));
    this.service.turn(0);
  }

  /** SET_DEVICE_STATE_FD; false if it is refused. `fd` stays the caller's. */
  transfer(direction: number, fd: number): boolean {
    return (this.#ask(Request.SET_DEVICE_STATE_FD, narrow(direction, 0), [fd]) & 0xff) ===
      0;
  }

  /** CHECK_DEVICE_STATE: 0 or an error number. */
  check(): number {
    return this.#ask(Request.CHECK_DEVICE_STATE);
  }

  /** Hangs up. */
  close(): void {
    if (this.#fd !== -1) close(this.#fd);
    this.service.session?.close();
    this.service.session = undefined;
    if (this.#ram !== -1) close(this.#ram);
    for (const fd of [...this.#kicks, ...this.#calls]) close(fd);
  }
}
