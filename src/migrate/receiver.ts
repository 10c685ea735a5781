/** The target's end of a transfer: reads a stream to its end, in bounded memory. */
import { concat } from "@std/bytes";
import { Errno, errno } from "../../ffi/errno.ts";
import { growPipe, readSome } from "../../ffi/pipe.ts";
import { AGAIN, DONE, PIPE_SIZE } from "./sender.ts";

/** Pieces after the first one, which is enough for a guest without much traffic. */
const PIECE = 1 << 20;
const FIRST_PIECE = 1 << 17;
/** Bytes in one turn of the loop, before others have theirs. */
const TURN_BYTES = 64 << 20;

/** State as it comes from the frontend's descriptor. */
export class StateReceiver {
  /** Bytes so far. */
  received = 0;
  readonly #fd: number;
  readonly #pieces: Uint8Array<ArrayBuffer>[] = [];
  #piece: Uint8Array<ArrayBuffer> = new Uint8Array(FIRST_PIECE);
  #filled = 0;

  readonly #most: number;

  /**
   * @param fd non-blocking; it stays the caller's
   * @param most bytes of a stream that is read
   */
  constructor(fd: number, most: number) {
    this.#fd = fd;
    this.#most = most;
    growPipe(fd, PIPE_SIZE); // so that the frontend need not wait for this process
  }

  /**
   * Reads what is there.
   *
   * @returns {@link DONE} at the end of the stream, {@link AGAIN} when there may be more
   *   later, or an error number (EFBIG: it is longer than that)
   */
  pull(): number {
    for (let turn = 0; turn < TURN_BYTES;) {
      if (this.#filled === this.#piece.length) {
        if (this.received >= this.#most) return Errno.EFBIG;
        this.#pieces.push(this.#piece);
        this.#piece = new Uint8Array(PIECE);
        this.#filled = 0;
      }
      const count = readSome(this.#fd, this.#piece.subarray(this.#filled));
      if (count === 0) return DONE;
      if (count < 0) {
        const number = errno();
        if (number === Errno.EINTR) continue;
        return number === Errno.EAGAIN ? AGAIN : number;
      }
      this.#filled += count;
      this.received += count;
      turn += count;
    }
    return AGAIN;
  }

  /** The first bytes received, `length` at most: to judge a header early. */
  start(length: number): Uint8Array<ArrayBuffer> {
    const first = this.#pieces[0] ?? this.#piece.subarray(0, this.#filled);
    return first.subarray(0, length);
  }

  /** Everything received, in one piece. */
  bytes(): Uint8Array<ArrayBuffer> {
    if (this.#pieces.length === 0) return this.#piece.subarray(0, this.#filled);
    return concat([...this.#pieces, this.#piece.subarray(0, this.#filled)]);
  }
}
