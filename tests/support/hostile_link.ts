/**
 * A frontend that means harm, in front of a vuelo process: its connection, and memory of
 * which it shares the middle. What lies around the shared part, on the same pages and
 * beyond, is another's: it has a pattern, and nobody may write there.
 */
import { Errno, SyscallError } from "../../ffi/errno.ts";
import { close, eventfdCreate, eventfdWrite } from "../../ffi/event.ts";
import { mapShared, memfdCreate, type Reservation, reserve } from "../../ffi/memory.ts";
import { awaitInput, connectUnix, receive, send } from "../../ffi/unix_socket.ts";
import { payload, region, state, u64, vringAddress } from "./frontend.ts";

const WAIT_MS = 20_000;
const HEADER = 12;
export const GET_FEATURES = 1;
/** Asked at the end of what was sent: once it is answered, all before was dealt with. */
export const MARKER = 15;

/** Where the guest sees the shared part, and the frontend says that it sees it. */
export const GUEST = 0x1_0000_0800;
export const USER = 0x7f00_0000_0800;
/** Bytes of it. It begins and ends amid a page. */
export const SHARED = 0x3_f000;
const BEFORE = 0x8800;
/** Bytes of the whole file. */
export const FILE = 0x5_0000;

/** A word that tells where it is. */
const pattern = (index: number) => Math.imul(index + 1, 0x9e37_79b1) >>> 0;

/** A dirty log that covers the first half of guest memory, amid a file as well. */
const LOG = { before: 0x810, shared: 0x2_0004, file: 0x2_2000 };

/** A file of which a part is shared. */
export class HostileRam {
  readonly fd: number;
  /** Of the shared part. */
  readonly words: Uint32Array;
  readonly shorts: Uint16Array;
  readonly bytes: Uint8Array;
  readonly #all: Uint32Array;

  constructor(readonly before = BEFORE, readonly shared = SHARED, file = FILE) {
    this.fd = memfdCreate("hostile", file);
    const mapping = reserve(file) as Reservation;
    mapShared(mapping.base, file, this.fd, 0);
    const { buffer } = mapping;
    this.#all = new Uint32Array(buffer, 0, file / 4);
    for (let i = 0; i < this.#all.length; i++) this.#all[i] = pattern(i);
    this.words = new Uint32Array(buffer, before, shared / 4);
    this.shorts = new Uint16Array(buffer, before, shared / 2);
    this.bytes = new Uint8Array(buffer, before, shared);
    this.bytes.fill(0);
  }

  static log(): HostileRam {
    return new HostileRam(LOG.before, LOG.shared, LOG.file);
  }

  /** Bytes around the shared part that are not what they were. */
  get damaged(): number {
    let count = 0;
    for (let i = 0; i < this.#all.length; i++) {
      if (i === this.before / 4) i += this.shared / 4;
      if (this.#all[i] !== pattern(i)) count++;
    }
    return 4 * count;
  }

  /** The region as SET_MEM_TABLE describes it. */
  get table(): Uint8Array {
    return payload(["u64", 1], region(GUEST, this.shared, USER, this.before));
  }

  close(): void {
    close(this.fd);
  }
}

export interface Answer {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

/** Where a ring lies in the shared part: its three areas follow each other. */
export interface RingPlace {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

/** Bytes of a message. */
export function message(
  request: number,
  bytes: Uint8Array,
  flags: number,
  size = bytes.length,
): Uint8Array {
  const all = new Uint8Array(HEADER + bytes.length);
  const view = new DataView(all.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, size, true);
  all.set(bytes, HEADER);
  return all;
}

const EMPTY = new Uint8Array(0);

export class HostileLink {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(16384);
  #from = 0;
  #to = 0;
  #ended = false;
  readonly #open: number[] = [];

  constructor(path: string) {
    this.#fd = connect(path);
  }

  /** An event counter that is closed with the link. */
  event(): number {
    const fd = eventfdCreate();
    this.#open.push(fd);
    return fd;
  }

  /** Sends bytes; false once the other side has gone. */
  send(bytes: Uint8Array, fds: readonly number[] = []): boolean {
    const sent = send(this.#fd, bytes, fds);
    if (sent >= 0 && sent !== bytes.length) throw new Error("the socket is full");
    return sent === bytes.length;
  }

  /** The next reply; null once the connection has ended. @throws if neither comes. */
  answer(): Answer | null {
    if (!this.#fill(HEADER)) return null;
    const view = new DataView(this.#buffer.buffer, this.#from, HEADER);
    const size = view.getUint32(8, true);
    const found = { request: view.getUint32(0, true), flags: view.getUint32(4, true) };
    if (!this.#fill(HEADER + size)) return null;
    const payload = this.#buffer.subarray(
      this.#from + HEADER,
      this.#from + HEADER + size,
    );
    this.#from += HEADER + size;
    return { ...found, payload };
  }

  /** Has `count` bytes in the buffer. */
  #fill(count: number): boolean {
    while (this.#to - this.#from < count) {
      if (this.#ended) return false;
      this.#buffer.copyWithin(0, this.#from, this.#to);
      this.#to -= this.#from;
      this.#from = 0;
      if (!awaitInput(this.#fd, WAIT_MS)) throw new Error(`no answer in ${WAIT_MS} ms`);
      const fds: number[] = [];
      const got = receive(this.#fd, this.#buffer.subarray(this.#to), fds);
      for (const fd of fds) close(fd);
      if (got <= 0) this.#ended = true;
      else this.#to += got;
    }
    return true;
  }

  /** Reads answers up to that of the marker; false if the connection has ended. */
  untilMarker(): boolean {
    for (let next = this.answer(); next !== null; next = this.answer()) {
      if (next.request === MARKER) return true;
    }
    return false;
  }

  /** Sends a message that must be answered with 0. */
  do(request: number, bytes: Uint8Array, fds: readonly number[] = []): void {
    this.send(message(request, bytes, 9), fds);
    const answer = this.answer();
    if (answer === null || answer.request !== request) {
      throw new Error(`request ${request}: no reply`);
    }
    if (answer.payload.some((byte) => byte !== 0)) {
      throw new Error(`request ${request}: refused`);
    }
  }

  /** What a GET request is answered with, as two words. */
  get(request: number): [number, number] {
    this.send(message(request, EMPTY, 1));
    const answer = this.answer();
    if (answer === null) throw new Error(`request ${request}: no reply`);
    const view = new DataView(answer.payload.buffer, answer.payload.byteOffset, 8);
    return [view.getUint32(0, true), view.getUint32(4, true)];
  }

  /** Accepts features, all protocol features and shares memory. */
  negotiate(features: number, protocol: number, ram: HostileRam): void {
    this.send(message(16, u64(protocol), 1));
    this.do(2, u64(features));
    this.do(3, EMPTY);
    this.do(5, ram.table, [ram.fd]);
  }

  /** Shares a dirty log. */
  log(log: HostileRam): void {
    this.do(6, payload(["u64", log.shared], ["u64", log.before]), [log.fd]);
  }

  /** Sets up a ring and enables it; returns the counters to kick it, and of errors. */
  ring(index: number, size: number, base: number, place: RingPlace): [number, number] {
    const [kick, call, error] = [this.event(), this.event(), this.event()];
    this.do(8, state(index, size));
    this.do(10, state(index, base));
    this.do(9, ringAddress(index, place));
    this.do(13, u64(index), [call]);
    this.do(14, u64(index), [error]);
    this.do(12, u64(index), [kick]);
    this.do(18, state(index, 1));
    return [kick, error];
  }

  kick(fd: number): void {
    eventfdWrite(fd);
  }

  close(): void {
    close(this.#fd);
    for (const fd of this.#open) close(fd);
  }
}

/** Where a ring lies, for SET_VRING_ADDR. */
export function ringAddress(index: number, place: RingPlace, log?: number): Uint8Array {
  const [desc, used, avail] = [place.desc, place.used, place.avail].map((at) =>
    USER + at
  );
  const flags = log === undefined ? 0 : 1;
  return vringAddress(index, desc, used, avail, flags, log ?? 0);
}

function connect(path: string): number {
  for (const end = performance.now() + WAIT_MS;;) {
    try {
      return connectUnix(path);
    } catch (error) {
      const busy = error instanceof SyscallError && error.number === Errno.EAGAIN;
      if (!busy || performance.now() > end) throw error;
    }
  }
}
