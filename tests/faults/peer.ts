/** A hypervisor that is prepared for anything: refusals, silence, a connection that ends. */
import { close } from "../../ffi/event.ts";
import { connectUnix, receive, send } from "../../ffi/unix_socket.ts";
import { asU64, payload, type Reply } from "../support/frontend.ts";

const HEADER = 12;
const NEED_REPLY = 0x9;
/** Turns within which an answer comes. */
const PATIENCE = 200;

/** What became of a request: its 64-bit answer, or the connection's end. */
export class Gone extends Error {
  override readonly name = "Gone";
}

export class Peer {
  readonly #fd: number;
  #bytes = new Uint8Array(0);
  #fds: number[] = [];
  #ended = false;
  #closed = false;

  constructor(path: string, readonly turn: () => void) {
    this.#fd = connectUnix(path);
  }

  /** Takes what has come. */
  #pull(): void {
    const piece = new Uint8Array(4096);
    for (;;) {
      const count = receive(this.#fd, piece, this.#fds);
      if (count > 0) {
        const all = new Uint8Array(this.#bytes.length + count);
        all.set(this.#bytes);
        all.set(piece.subarray(0, count), this.#bytes.length);
        this.#bytes = all;
        continue;
      }
      if (count === 0) this.#ended = true;
      return;
    }
  }

  get ended(): boolean {
    this.#pull();
    return this.#ended;
  }

  #reply(): Reply | undefined {
    this.#pull();
    if (this.#bytes.length < HEADER) return undefined;
    const view = new DataView(this.#bytes.buffer);
    const size = view.getUint32(8, true);
    if (this.#bytes.length < HEADER + size) return undefined;
    const body = this.#bytes.slice(HEADER, HEADER + size);
    this.#bytes = this.#bytes.slice(HEADER + size);
    const fds = this.#fds;
    this.#fds = [];
    const request = view.getUint32(0, true);
    return { request, flags: view.getUint32(4, true), payload: body, fds };
  }

  /** Sends a request, and waits for its answer. @throws {Gone} if none comes any more */
  ask(request: number, bytes = new Uint8Array(0), fds: readonly number[] = []): Reply {
    this.tell(request, bytes, fds);
    return this.answer(request);
  }

  /**
   * Sends a request.
   *
   * @param length what its header says that follows it
   */
  tell(
    request: number,
    bytes = new Uint8Array(0),
    fds: readonly number[] = [],
    length = bytes.length,
  ): void {
    const head = payload(["u32", request], ["u32", NEED_REPLY], ["u32", length]);
    const whole = new Uint8Array(head.length + bytes.length);
    whole.set(head);
    whole.set(bytes, head.length);
    if (send(this.#fd, whole, fds) !== whole.length) throw new Gone("closed");
  }

  /** Waits for the answer to a request. @throws {Gone} if none comes any more */
  answer(request: number): Reply {
    for (let i = 0; i < PATIENCE; i++) {
      this.turn();
      const reply = this.#reply();
      if (reply !== undefined) return reply;
      if (this.#ended) throw new Gone("closed");
    }
    throw new Error(`hang: request ${request} is not answered`);
  }

  /** As {@link ask}; the 64 bits of the answer, 0 for success. */
  do(request: number, bytes?: Uint8Array<ArrayBuffer>, fds?: readonly number[]): number {
    return asU64(this.ask(request, bytes, fds).payload);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.#fds) close(fd);
    close(this.#fd);
  }
}
