/** The loop of a load: descriptors and who handles them, and buffers that all share. */
import { Arena } from "../../../ffi/arena.ts";
import { Epoll } from "../../../ffi/event.ts";
import { IovecArray, MessageArray } from "../../../ffi/iovec.ts";
import {
  closeFd,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  recv,
  sendmsg,
} from "../../../ffi/socket.ts";
import { Counters } from "./counters.ts";

/** What becomes of the events of a descriptor. */
export interface Handler {
  event(fd: number, events: number): void;
}

/** One send; small enough to stay in the processor's cache. */
export const CHUNK = 1 << 17;
const DISCARD = 1 << 20;
const FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
/** Events taken at once. */
const EVENTS = 256;

export class Engine {
  readonly counters = new Counters();
  /** Called once a turn, for whoever sends without waiting to be asked. */
  readonly floods = new Set<() => void>();
  stopped = false;
  readonly arena = new Arena(CHUNK + DISCARD + 65_536);
  /** Bytes to send, none of them worth anything. */
  readonly data = this.arena.take(CHUNK);
  readonly #discard = this.arena.pointer(this.arena.take(DISCARD));
  readonly #shortAt = this.arena.take(64);
  readonly #short = this.arena.pointer(this.#shortAt);
  readonly #iovecs = new IovecArray(this.arena, 1);
  readonly #messages = new MessageArray(this.arena, 1);
  readonly #epoll = new Epoll(EVENTS);
  readonly #handlers: (Handler | undefined)[] = [];
  /** What came with the last {@link receiveShort}. */
  readonly short: Uint8Array = this.arena.bytes(this.#shortAt, 64);

  watch(fd: number, events: number, handler: Handler): void {
    this.#handlers[fd] = handler;
    this.#epoll.add(fd, events, fd);
  }

  /** Has another handler see to a watched descriptor, for other events. */
  change(fd: number, events: number, handler: Handler): void {
    this.#handlers[fd] = handler;
    this.#epoll.modify(fd, events, fd);
  }

  close(fd: number): void {
    this.#handlers[fd] = undefined;
    closeFd(fd);
  }

  /** Runs until {@link stopped}. */
  run(): void {
    while (!this.stopped) {
      const count = this.#epoll.wait(this.floods.size > 0 ? 0 : -1);
      for (let i = 0; i < count; i++) {
        this.#handlers[this.#epoll.data(i)]?.event(
          this.#epoll.data(i),
          this.#epoll.events(i),
        );
      }
      for (const flood of this.floods) flood();
    }
  }

  /** Sends as much as one call takes; false if the connection is broken. */
  send(fd: number, length = CHUNK): boolean {
    this.#iovecs.count = 0;
    this.#iovecs.add(this.arena.base + this.data, length);
    this.#messages.setIovecs(0, this.#iovecs.address, 1);
    const sent = sendmsg(fd, this.#messages.pointer, FLAGS);
    if (sent > 0) this.counters.sent += sent;
    return sent > 0;
  }

  /** Sends one byte, `code`. */
  sendByte(fd: number, code: number): boolean {
    this.arena.view.setUint8(this.data, code);
    return this.send(fd, 1);
  }

  /** Takes what has come, without copying it; false at the end of the stream. */
  discard(fd: number): boolean {
    const count = recv(fd, this.#discard, DISCARD, MSG_DONTWAIT | MSG_TRUNC);
    if (count > 0) this.counters.received += count;
    return count > 0;
  }

  /** Takes up to 64 bytes into {@link short}; how many, 0 at the end, -1 on failure. */
  receiveShort(fd: number): number {
    return recv(fd, this.#short, 64, MSG_DONTWAIT);
  }
}
