/**
 * The frontend's side of vhost-user over a real socket, with a memfd as guest memory.
 * Written from the specification, independent of the code under test: it sends whatever
 * a test asks for, right or wrong.
 */
import { Errno, errno } from "../../ffi/errno.ts";
import { close, eventfdCreate } from "../../ffi/event.ts";
import { mapShared, memfdCreate, type Reservation, reserve } from "../../ffi/memory.ts";
import { connectUnix, receive, send } from "../../ffi/unix_socket.ts";

/** Requests of a frontend (vhost-user, "Front-end message types"). */
export const Ask = {
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
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
} as const;

/** Words and bytes of a payload, put together in order, little-endian. */
export function payload(...fields: (Uint8Array | ["u32" | "u64", number])[]): Uint8Array {
  const bytes: number[] = [];
  for (const field of fields) {
    if (field instanceof Uint8Array) {
      bytes.push(...field);
      continue;
    }
    const [type, value] = field;
    const part = new DataView(new ArrayBuffer(8));
    part.setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
    for (let i = 0; i < (type === "u32" ? 4 : 8); i++) bytes.push(part.getUint8(i));
  }
  return Uint8Array.from(bytes);
}

export const u64 = (value: number) => payload(["u64", value]);
/** A vring state: index and number. */
export const state = (index: number, value: number) =>
  payload(["u32", index], ["u32", value]);
/** A memory region: guest address, size, user address, offset in the file. */
export const region = (guest: number, size: number, user: number, offset: number) =>
  payload(["u64", guest], ["u64", size], ["u64", user], ["u64", offset]);
/** A memory table of such regions. */
export const memoryTable = (...regions: readonly Uint8Array[]) =>
  payload(["u32", regions.length], ["u32", 0], ...regions);
/** A vring address: index, flags, descriptors, used, available, log. */
export const vringAddress = (
  index: number,
  desc: number,
  used: number,
  avail: number,
  flags = 0,
  log = 0,
) =>
  payload(
    ["u32", index],
    ["u32", flags],
    ["u64", desc],
    ["u64", used],
    ["u64", avail],
    ["u64", log],
  );

const EMPTY = new Uint8Array(0);

export interface Reply {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** Descriptors that came along, the caller's. */
  readonly fds: readonly number[];
}

export interface SendOptions {
  readonly fds?: readonly number[];
  readonly needReply?: boolean;
  /** Instead of version 1, and need_reply if asked for. */
  readonly flags?: number;
  /** Instead of the payload's own size. */
  readonly size?: number;
}

/** A 64-bit payload as a double. */
export function asU64(bytes: Uint8Array): number {
  if (bytes.length !== 8) throw new Error(`reply of ${bytes.length} bytes, expected 8`);
  return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
}

export class Frontend {
  readonly #fd: number;
  #ended = false;
  #closed = false;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  static connect(path: string): Frontend {
    return new Frontend(connectUnix(path));
  }

  /** Sends a message in one piece. */
  send(request: number, bytes: Uint8Array = EMPTY, options: SendOptions = {}): void {
    const { fds = [], needReply = false } = options;
    const flags = options.flags ?? (needReply ? 0x9 : 0x1);
    this.sendRaw(
      payload(
        ["u32", request],
        ["u32", flags],
        ["u32", options.size ?? bytes.length],
        bytes,
      ),
      fds,
    );
  }

  /** Sends bytes as they are; false if the other side is gone or takes no more. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    return send(this.#fd, bytes, fds) === bytes.length;
  }

  /** The next reply, all of which has come already; null if there is none. */
  receive(): Reply | null {
    const fds: number[] = [];
    const header = this.#read(12, fds);
    if (header === null) return null;
    const view = new DataView(header.buffer);
    const size = view.getUint32(8, true);
    const body = size === 0 ? new Uint8Array(0) : this.#read(size, fds);
    if (body === null) throw new Error("a reply without its payload");
    return {
      request: view.getUint32(0, true),
      flags: view.getUint32(4, true),
      payload: body,
      fds,
    };
  }

  #read(size: number, fds: number[]): Uint8Array<ArrayBuffer> | null {
    const bytes = new Uint8Array(size);
    const count = receive(this.#fd, bytes, fds);
    if (count === 0 || (count < 0 && errno() === Errno.ECONNRESET)) {
      this.#ended = true;
      return null;
    }
    if (count < 0) return null;
    if (count !== size) throw new Error(`${count} bytes of ${size}`);
    return bytes;
  }

  /** {@link receive} has found that the backend has closed the connection. */
  get gone(): boolean {
    return this.#ended;
  }

  /** The backend has closed the connection, and nothing is left to receive. */
  get ended(): boolean {
    if (!this.#ended && this.receive() !== null) {
      throw new Error("a reply that was not expected");
    }
    return this.#ended;
  }

  close(): void {
    if (!this.#closed) close(this.#fd);
    this.#closed = true;
  }
}

/** Guest memory as a frontend has it: a memfd, mapped here as well. */
export class GuestRam {
  readonly fd: number;
  readonly view: DataView;
  readonly #mapping: Reservation;

  /** @param size bytes, a multiple of the page size */
  constructor(readonly size: number) {
    this.fd = memfdCreate("guest-ram", size);
    const mapping = reserve(size);
    if (mapping === null) throw new Error("no addresses for guest memory");
    this.#mapping = mapping;
    mapShared(mapping.base, size, this.fd, 0);
    this.view = new DataView(mapping.buffer);
  }

  /** Where the frontend sees byte 0: the user address of the region. */
  get userAddress(): number {
    return this.#mapping.base;
  }

  /** Closes the file; the mapping stays, as views of it may. */
  close(): void {
    close(this.fd);
  }
}

/** Descriptors for a test, all closed at its end. */
export class Descriptors {
  readonly #open: number[] = [];

  event(): number {
    return this.keep(eventfdCreate());
  }
  events(count: number): number[] {
    return Array.from({ length: count }, () => this.event());
  }
  keep(fd: number): number {
    this.#open.push(fd);
    return fd;
  }
  [Symbol.dispose](): void {
    for (const fd of this.#open) close(fd);
  }
}

/** Open descriptors of this process. */
export function openDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}
