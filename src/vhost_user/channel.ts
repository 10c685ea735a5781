/** Whole vhost-user messages, with their descriptors, over a UNIX stream socket. */
import { Errno, errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import {
  isHungUp,
  MAX_RECEIVED_FDS,
  receive,
  RECEIVE_TOO_MANY_FDS,
  send,
} from "../../ffi/unix_socket.ts";
import {
  FLAG_NEED_REPLY,
  FLAG_REPLY,
  FLAGS_UNKNOWN,
  HEADER_SIZE,
  MAX_PAYLOAD,
  ProtocolError,
  requestName,
  VERSION,
  VERSION_MASK,
} from "./message.ts";

/** A received message. Its descriptors are closed unless taken. */
export class Message {
  #fds: (number | undefined)[];

  constructor(
    readonly request: number,
    readonly needReply: boolean,
    readonly payload: DataView,
    fds: readonly number[],
  ) {
    this.#fds = [...fds];
  }

  /** Descriptors that came with it. */
  get fdCount(): number {
    return this.#fds.length;
  }
  /** All descriptors, which stay the message's. */
  get fds(): readonly number[] {
    return this.#fds.filter((fd) => fd !== undefined);
  }
  /** A descriptor that is the caller's from now on. */
  takeFd(index: number): number {
    const fd = this.#fds[index];
    if (fd === undefined) throw new RangeError(`message has no descriptor ${index}`);
    this.#fds[index] = undefined;
    return fd;
  }
  /** Closes the descriptors that nobody took. */
  closeFds(): void {
    for (const fd of this.#fds) if (fd !== undefined) close(fd);
    this.#fds = [];
  }
}

/** Results of {@link Channel.receive} that are not a message. */
export const INCOMPLETE = "incomplete";
/** The connection has ended. */
export const ENDED = "ended";

/** Messages with their descriptors, taken apart from a stream socket. */
export class Channel {
  readonly #buffer = new Uint8Array(HEADER_SIZE + MAX_PAYLOAD);
  readonly #view = new DataView(this.#buffer.buffer);
  #filled = 0;
  #needed = HEADER_SIZE;
  #fds: number[] = [];
  #closed = false;

  /** @param fd a connected, non-blocking socket, which is the channel's from now on */
  constructor(readonly fd: number) {}

  /**
   * The next message; {@link INCOMPLETE} if it is not all there yet, {@link ENDED} if the
   * frontend closed the connection or it broke.
   *
   * @throws {ProtocolError} if what came is no message; nothing can be received then.
   */
  receive(): Message | typeof INCOMPLETE | typeof ENDED {
    while (this.#filled < this.#needed) {
      const part = this.#buffer.subarray(this.#filled, this.#needed);
      const count = receive(this.fd, part, this.#fds);
      if (count === RECEIVE_TOO_MANY_FDS || this.#fds.length > MAX_RECEIVED_FDS) {
        throw new ProtocolError(`more than ${MAX_RECEIVED_FDS} descriptors in a message`);
      }
      if (count === 0) return ENDED;
      if (count < 0) return errno() === Errno.EAGAIN ? INCOMPLETE : ENDED;
      this.#filled += count;
      if (this.#filled === HEADER_SIZE) this.#judgeHeader();
    }
    const view = this.#view;
    const payload = this.#buffer.slice(HEADER_SIZE, this.#needed);
    const message = new Message(
      view.getUint32(0, true),
      (view.getUint32(4, true) & FLAG_NEED_REPLY) !== 0,
      new DataView(payload.buffer),
      this.#fds,
    );
    this.#fds = [];
    this.#filled = 0;
    this.#needed = HEADER_SIZE;
    return message;
  }

  #judgeHeader(): void {
    const name = requestName(this.#view.getUint32(0, true));
    const flags = this.#view.getUint32(4, true);
    const size = this.#view.getUint32(8, true);
    if ((flags & VERSION_MASK) !== VERSION) {
      throw new ProtocolError(
        `${name}: version ${flags & VERSION_MASK}, expected ${VERSION}`,
      );
    }
    if ((flags & FLAG_REPLY) !== 0) throw new ProtocolError(`${name}: is a reply`);
    if ((flags & FLAGS_UNKNOWN) !== 0) {
      throw new ProtocolError(`${name}: flags 0x${flags.toString(16)} are not known`);
    }
    if (size > MAX_PAYLOAD) {
      throw new ProtocolError(`${name}: payload of ${size} bytes, limit ${MAX_PAYLOAD}`);
    }
    this.#needed = HEADER_SIZE + size;
  }

  /** Sends a reply, with copies of `fds`; false if the frontend does not take it. */
  reply(request: number, payload: Uint8Array, fds: readonly number[] = []): boolean {
    const bytes = new Uint8Array(HEADER_SIZE + payload.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, request, true);
    view.setUint32(4, VERSION | FLAG_REPLY, true);
    view.setUint32(8, payload.length, true);
    bytes.set(payload, HEADER_SIZE);
    return send(this.fd, bytes, fds) === bytes.length;
  }

  /** The frontend has closed its side, whether or not all it sent was received. */
  get hungUp(): boolean {
    return isHungUp(this.fd);
  }

  /** Closes the socket, and descriptors of a message that did not come whole. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.#fds) close(fd);
    this.#fds = [];
    close(this.fd);
  }
}
