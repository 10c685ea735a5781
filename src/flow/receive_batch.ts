/**
 * Datagrams from a socket straight into the guest's receive buffers, several with one
 * system call: recvmmsg() fills frames that were reserved, and the caller commits them.
 */
import { Arena } from "../../ffi/arena.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import { MSG_DONTWAIT, MSG_TRUNC, recvmmsg } from "../../ffi/socket.ts";
import type { FlowContext } from "./context.ts";

/** Datagrams that one call takes at most. */
export const BATCH = 64;
/** A reservation holds 2048 pieces of guest memory at most; prefixes come on top. */
const IOVECS = 2048 + BATCH + 1;
const NAME_SIZE = 32;
const CONTROL_SIZE = 128;
const PREFIX_SIZE = 8;

export class ReceiveBatch {
  /** Names, control data and prefixes of the messages are in here. */
  readonly view: DataView;
  /** Whether the kernel writes the sender's address and ancillary data. */
  names = false;
  control = false;
  /** Bytes of each datagram that go to {@link prefixAt} and not to the guest: 0 or 8. */
  prefix = 0;

  readonly #context: FlowContext;
  readonly #base: number;
  readonly #iovecs: IovecArray;
  readonly #messages: MessageArray;
  readonly #namesAt: number;
  readonly #controlsAt: number;
  readonly #prefixesAt: number;
  /** First iovec of each message's payload, and one past its last. */
  readonly #first = new Int32Array(BATCH);
  readonly #end = new Int32Array(BATCH);
  /** Payload bytes that fit. */
  readonly #room = new Int32Array(BATCH);
  /** Bytes left free before the payload. */
  readonly #shift = new Int32Array(BATCH);
  readonly #bounce = new Uint8Array(65536);
  #reserved = 0;
  /** The next frame to commit. */
  #frame = 0;

  constructor(context: FlowContext) {
    this.#context = context;
    const each = 64 + NAME_SIZE + CONTROL_SIZE + PREFIX_SIZE;
    const arena = new Arena(IOVECS * 16 + BATCH * each + 4096);
    this.view = arena.view;
    this.#base = arena.base;
    this.#iovecs = new IovecArray(arena, IOVECS);
    this.#messages = new MessageArray(arena, BATCH);
    this.#namesAt = arena.take(BATCH * NAME_SIZE);
    this.#controlsAt = arena.take(BATCH * CONTROL_SIZE);
    this.#prefixesAt = arena.take(BATCH * PREFIX_SIZE);
  }

  /**
   * Reserves up to `want` frames for `headLength` bytes of headers and `payload` bytes.
   * Only the last frame may leave buffers unused (FrameSink.commit), so a frame that
   * takes several ends the reservation.
   *
   * @param shift bytes to leave free after the headers, where that can be: see
   *   {@link frameFor}
   * @returns frames reserved; 0 if the guest has no buffer
   */
  reserve(want: number, headLength: number, payload: number, shift = 0): number {
    const { sink } = this.#context;
    const iovecs = this.#iovecs;
    sink.begin();
    iovecs.count = 0;
    this.#frame = 0;
    let count = 0;
    while (count < want && count < BATCH) {
      const start = iovecs.count;
      if (this.prefix > 0) {
        const at = this.#prefixesAt + count * PREFIX_SIZE;
        iovecs.add(this.#base + at, this.prefix);
      }
      this.#first[count] = iovecs.count;
      const fits = sink.reserve(headLength, payload, iovecs);
      if (fits < 0) break;
      this.#room[count] = fits;
      this.#end[count] = iovecs.count;
      this.#setShift(count, shift);
      this.#setMessage(count, start);
      count++;
      if (sink.chainsOfLast > 1) break;
    }
    this.#reserved = count;
    return count;
  }

  #setShift(i: number, shift: number): void {
    const first = this.#first[i];
    const can = shift > 0 && this.#end[i] > first && this.#iovecs.lengthOf(first) > shift;
    this.#shift[i] = can ? shift : 0;
    if (can) this.#iovecs.advance(first, shift);
  }

  #setMessage(i: number, start: number): void {
    const messages = this.#messages;
    const iovecs = this.#iovecs;
    messages.setIovecs(i, iovecs.addressOf(start), this.#end[i] - start);
    const name = this.#base + this.#namesAt + i * NAME_SIZE;
    const control = this.#base + this.#controlsAt + i * CONTROL_SIZE;
    messages.setName(i, this.names ? name : 0, this.names ? NAME_SIZE : 0);
    messages.setControl(
      i,
      this.control ? control : 0,
      this.control ? CONTROL_SIZE : 0,
    );
  }

  /** Receives into what is reserved: datagrams received, or -1 with errno(). */
  receive(fd: number): number {
    return recvmmsg(fd, this.#messages.pointer, this.#reserved, MSG_DONTWAIT, null);
  }

  /** Bytes of datagram `i`, without the prefix; negative if it is shorter than that. */
  length(i: number): number {
    return this.#messages.length(i) - this.prefix;
  }
  nameAt(i: number): number {
    return this.#namesAt + i * NAME_SIZE;
  }
  controlAt(i: number): number {
    return this.#controlsAt + i * CONTROL_SIZE;
  }
  controlLength(i: number): number {
    return Math.min(this.#messages.controlLength(i), CONTROL_SIZE);
  }
  prefixAt(i: number): number {
    return this.#prefixesAt + i * PREFIX_SIZE;
  }
  /** The datagram was longer than the room for it. */
  truncated(i: number): boolean {
    return (this.#messages.flags(i) & MSG_TRUNC) !== 0;
  }

  /**
   * The frame that datagram `i` is to be committed as, with headers of `shift` bytes more
   * than were reserved. Its payload is moved where it does not lie there yet: headers
   * differ, or an earlier datagram was passed over and the ring takes frames in order.
   *
   * @returns -1 if it does not fit that frame
   */
  frameFor(i: number, shift = 0): number {
    const frame = this.#frame;
    if (i !== frame || shift !== this.#shift[i]) {
      const length = this.length(i);
      if (length > this.#room[frame] - shift) return -1;
      this.#copy(i, this.#shift[i], length, true);
      this.#copy(frame, shift, length, false);
    }
    this.#frame = frame + 1;
    return frame;
  }

  /** Copies payload from or to the buffers of a frame, `shift` bytes into them; rare. */
  #copy(frame: number, shift: number, length: number, out: boolean): void {
    const { memory } = this.#context;
    const iovecs = this.#iovecs;
    const bounce = this.#bounce;
    let skip = shift;
    let done = 0;
    for (let piece = this.#first[frame]; done < length; piece++) {
      const taken = piece === this.#first[frame] ? this.#shift[frame] : 0;
      const size = iovecs.lengthOf(piece) + taken;
      let at = iovecs.baseOf(piece) - taken - memory.base + skip;
      const end = at + size - skip;
      skip = skip > size ? skip - size : 0;
      for (; at < end && done < length; at++, done++) {
        if (out) bounce[done] = memory.view.getUint8(at);
        else memory.view.setUint8(at, bounce[done]);
      }
    }
  }
}
