/** The source's end of a transfer: writes a stream into whatever the frontend gave. */
import { concat } from "@std/bytes";
import { Errno, errno } from "../../ffi/errno.ts";
import { growPipe, writeSome } from "../../ffi/pipe.ts";

/** Asked of the kernel for a pipe, so that few turns are needed. */
export const PIPE_SIZE = 1 << 20;
/** Bytes in one turn of the loop, before others have theirs. */
const TURN_BYTES = 64 << 20;

/** Results of {@link StateSender.push} and StateReceiver.pull: else an error number. */
export const DONE = 0;
export const AGAIN = -1;

/** State on its way into the frontend's descriptor, as it takes it. */
export class StateSender {
  /** Bytes in all. */
  readonly total: number;
  /** Bytes that were taken. */
  sent = 0;
  readonly #fd: number;
  readonly #chunks: readonly Uint8Array<ArrayBuffer>[];
  #chunk = 0;
  #offset = 0;

  /** @param fd non-blocking; it stays the caller's */
  constructor(fd: number, chunks: readonly Uint8Array<ArrayBuffer>[]) {
    this.#fd = fd;
    this.total = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    // What fits into the pipe is written, and read, in one call.
    this.#chunks = this.total <= PIPE_SIZE ? [concat(chunks)] : chunks;
    growPipe(fd, PIPE_SIZE);
  }

  /**
   * Writes what is taken now.
   *
   * @returns {@link DONE}, {@link AGAIN} when it can be written to again, or an error number
   */
  push(): number {
    for (let turn = 0; turn < TURN_BYTES;) {
      const chunk = this.#chunks[this.#chunk];
      if (chunk === undefined) return DONE;
      if (this.#offset === chunk.length) {
        this.#chunk++;
        this.#offset = 0;
        continue;
      }
      const count = writeSome(this.#fd, chunk.subarray(this.#offset));
      if (count < 0) {
        const number = errno();
        if (number === Errno.EINTR) continue;
        return number === Errno.EAGAIN ? AGAIN : number;
      }
      this.#offset += count;
      this.sent += count;
      turn += count;
    }
    return AGAIN;
  }
}
