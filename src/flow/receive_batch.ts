/**
 * Datagrams from a socket straight into the guest's receive buffers, several with one
 * system call: recvmmsg() fills frames that were reserved, and the caller commits them.
 *
 * A guest with a large MTU and small buffers would need many of them for each frame that
 * might come. So room is made for what is expected, and what goes beyond it ends up in
 * memory here, from where it is copied to the guest, as is all that came after it.
 */
import { Arena } from "../../ffi/arena.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import { MSG_DONTWAIT, MSG_TRUNC, recvmmsg } from "../../ffi/socket.ts";
import type { FlowContext } from "./context.ts";

/** Datagrams that one call takes at most. */
export const BATCH = 64;
/** A reservation holds 2048 pieces of guest memory at most; prefixes and slots come on top. */
const IOVECS = 2048 + 2 * BATCH + 1;
const NAME_SIZE = 32;
const CONTROL_SIZE = 128;
const PREFIX_SIZE = 8;
/** A datagram that outgrew its frame lies in a slot; the last one is for moving others. */
const SLOT_SIZE = 65536;
const SPARE = BATCH;

/** Results of {@link ReceiveBatch.frameFor} that are not a frame. */
export const TOO_BIG = -1;
export const NO_BUFFER = -2;

/** Datagrams received at once, each into a frame of the guest's. */
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
  /** Payload bytes that fit, and may come. */
  readonly #room = new Int32Array(BATCH);
  #limit = 0;
  #headLength = 0;
  /** Bytes left free before the payload. */
  readonly #shift = new Int32Array(BATCH);
  readonly #slotsAt: number;
  readonly #slots: Uint8Array<ArrayBuffer>;
  #reserved = 0;
  #received = 0;
  /** The next frame to commit. */
  #frame = 0;
  /** All frames were given back: datagrams lie in their slots. */
  #outside = false;

  constructor(context: FlowContext) {
    this.#context = context;
    const each = 64 + NAME_SIZE + CONTROL_SIZE + PREFIX_SIZE;
    const arena = new Arena((BATCH + 1) * SLOT_SIZE + IOVECS * 16 + BATCH * each + 4096);
    this.view = arena.view;
    this.#base = arena.base;
    this.#iovecs = new IovecArray(arena, IOVECS);
    this.#messages = new MessageArray(arena, BATCH);
    this.#namesAt = arena.take(BATCH * NAME_SIZE);
    this.#controlsAt = arena.take(BATCH * CONTROL_SIZE);
    this.#prefixesAt = arena.take(BATCH * PREFIX_SIZE);
    this.#slotsAt = arena.take((BATCH + 1) * SLOT_SIZE);
    this.#slots = arena.bytes(this.#slotsAt, (BATCH + 1) * SLOT_SIZE);
  }

  /**
   * Reserves up to `want` frames for `headLength` bytes of headers and `payload` bytes.
   * Only the last frame may leave buffers unused (FrameSink.commit), so a frame that
   * takes several ends the reservation.
   *
   * @param payload bytes of a datagram at most
   * @param expected bytes of payload to make room for
   * @param shift bytes to leave free after the headers, where that can be: see
   *   {@link frameFor}
   * @returns frames reserved; 0 if the guest has no buffer
   */
  reserve(
    want: number,
    headLength: number,
    payload: number,
    expected: number,
    shift = 0,
  ): number {
    const { sink } = this.#context;
    const iovecs = this.#iovecs;
    sink.begin();
    iovecs.count = 0;
    this.#frame = 0;
    this.#outside = false;
    this.#limit = payload;
    this.#headLength = headLength;
    const room = sink.mergeable && expected < payload ? expected : payload;
    let count = 0;
    while (count < want && count < BATCH) {
      const start = iovecs.count;
      if (this.prefix > 0) {
        const at = this.#prefixesAt + count * PREFIX_SIZE;
        iovecs.add(this.#base + at, this.prefix);
      }
      this.#first[count] = iovecs.count;
      const fits = sink.reserve(headLength, room, iovecs);
      if (fits < 0) {
        iovecs.count = start;
        break;
      }
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
    const inside = this.#room[i] - this.#shift[i];
    // Without merging, no frame can be larger than the buffer.
    if (this.#context.sink.mergeable && inside < this.#limit) {
      const slot = this.#base + this.#slotsAt + i * SLOT_SIZE;
      iovecs.add(slot + inside, this.#limit - inside);
    }
    messages.setIovecs(i, iovecs.addressOf(start), iovecs.count - start);
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
    const { pointer } = this.#messages;
    this.#received = recvmmsg(fd, pointer, this.#reserved, MSG_DONTWAIT, null);
    if (this.#context.memory.logging) this.#markDirty();
    return this.#received;
  }

  /**
   * Marks all that the kernel may have written into the guest's buffers, since not every
   * datagram becomes a frame, or does where it lies. Nor is its length the end of it: a
   * longer one whose checksum turned out wrong on the way may have been there before, and
   * in one buffer more than datagrams were received.
   */
  #markDirty(): void {
    const received = this.#received < 0 ? 0 : this.#received;
    for (let i = 0; i <= received && i < this.#reserved; i++) this.#markPayload(i);
  }

  /** Marks the buffers for payload of frame `i`. */
  #markPayload(i: number): void {
    const { memory } = this.#context;
    const iovecs = this.#iovecs;
    let left = this.#room[i] - this.#shift[i];
    for (let piece = this.#first[i]; left > 0; piece++) {
      const size = Math.min(iovecs.lengthOf(piece), left);
      memory.markDirtyOffset(iovecs.baseOf(piece) - memory.base, size);
      left -= size;
    }
  }

  /** Length of the longest datagram of the last receive. */
  get longest(): number {
    let longest = 0;
    for (let i = 0; i < this.#received; i++) {
      const length = this.length(i);
      if (length > longest) longest = length;
    }
    return longest;
  }

  /** Bytes of datagram `i`, without the prefix; negative if it is shorter than that. */
  length(i: number): number {
    return this.#messages.length(i) - this.prefix;
  }
  /** Where in {@link view} message `i` has its sender's address. */
  nameAt(i: number): number {
    return this.#namesAt + i * NAME_SIZE;
  }
  /** Where in {@link view} message `i` has its ancillary data. */
  controlAt(i: number): number {
    return this.#controlsAt + i * CONTROL_SIZE;
  }
  /** Bytes of ancillary data that message `i` came with. */
  controlLength(i: number): number {
    return Math.min(this.#messages.controlLength(i), CONTROL_SIZE);
  }
  /** Where in {@link view} message `i` has its first {@link prefix} bytes. */
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
   * @returns {@link TOO_BIG} if there cannot be such a frame, {@link NO_BUFFER} if the
   *   guest has no buffers for it
   */
  frameFor(i: number, shift = 0): number {
    const frame = this.#frame;
    const length = this.length(i);
    if (length > this.#limit - shift) return TOO_BIG;
    if (this.#outside) return this.#frameFromSlot(i, shift);
    const inside = this.#room[i] - this.#shift[i];
    if (length > inside || length > this.#room[frame] - shift) {
      if (!this.#context.sink.mergeable) return TOO_BIG;
      this.#takeOut(i);
      return this.#frameFromSlot(i, shift);
    }
    if (i !== frame || shift !== this.#shift[i]) {
      this.#copy(i, this.#shift[i], length, SPARE, true);
      this.#copy(frame, shift, length, SPARE, false);
    }
    this.#frame = frame + 1;
    return frame;
  }

  /** Completes datagrams from `first` on in their slots and gives up their frames. */
  #takeOut(first: number): void {
    for (let i = first; i < this.#received; i++) {
      const inside = Math.min(this.length(i), this.#room[i] - this.#shift[i]);
      this.#copy(i, this.#shift[i], inside, i, true);
    }
    this.#context.sink.end();
    this.#outside = true;
  }

  /** Reserves a frame for the datagram in slot `i` and fills it. */
  #frameFromSlot(i: number, shift: number): number {
    const { sink } = this.#context;
    const iovecs = this.#iovecs;
    const length = this.length(i);
    sink.end();
    sink.begin();
    iovecs.count = 0;
    const fits = sink.reserve(this.#headLength + shift, length, iovecs);
    if (fits < length) return fits < 0 ? NO_BUFFER : TOO_BIG;
    this.#first[0] = this.#shift[0] = 0;
    this.#copy(0, 0, length, i, false);
    return 0;
  }

  /** Copies payload between a frame's buffers, `shift` bytes into them, and a slot; rare. */
  #copy(
    frame: number,
    shift: number,
    length: number,
    slot: number,
    toSlot: boolean,
  ): void {
    const { memory } = this.#context;
    const iovecs = this.#iovecs;
    const start = slot * SLOT_SIZE;
    let skip = shift;
    let done = 0;
    for (let piece = this.#first[frame]; done < length; piece++) {
      const taken = piece === this.#first[frame] ? this.#shift[frame] : 0;
      const size = iovecs.lengthOf(piece) + taken;
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const count = Math.min(size - skip, length - done);
      const at = iovecs.baseOf(piece) - taken - memory.base + skip;
      const buffers = new Uint8Array(memory.buffer, at, count);
      const bytes = this.#slots.subarray(start + done, start + done + count);
      if (toSlot) bytes.set(buffers);
      else buffers.set(bytes);
      done += count;
      skip = 0;
    }
  }
}
