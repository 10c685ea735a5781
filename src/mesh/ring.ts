/**
 * Messages from one thread to one other, through memory that both share: a ring of bytes
 * with a single producer and a single consumer, so that each side writes one index only.
 *
 * A message lies in one piece: a word of length, a word of kind, and its bytes, padded to
 * 8. Where the rest of the ring is too short for it, a word of -1 sends the reader back to
 * the start; a message of more than half the ring may therefore never find room.
 */

/** Bytes before the messages: two indexes, on cache lines of their own. */
const INDEXES = 128;
const WRITTEN = 0;
const READ = 16;
const HEADER = 8;
const TO_START = -1;

/** Memory that a ring with room for `capacity` bytes, a power of two, takes. */
export function ringMemory(capacity: number): number {
  return INDEXES + capacity;
}

/** One thread's way to one other; each end makes an instance of its own. */
export class MessageRing {
  /** The message taken last by {@link take}: where in the memory its bytes lie. */
  kind = 0;
  at = 0;
  length = 0;

  readonly #words: Int32Array;
  readonly #start: number;
  readonly #capacity: number;
  /** Bytes since the start of all, modulo 2^32, as this side sees them. */
  #written = 0;
  #read = 0;
  #reserved = 0;

  /**
   * @param memory zeroed, of both threads
   * @param offset where the ring starts in it, a multiple of 8
   * @param capacity as for {@link ringMemory}
   */
  constructor(memory: SharedArrayBuffer, offset: number, capacity: number) {
    this.#words = new Int32Array(memory, offset, (INDEXES + capacity) / 4);
    this.#start = offset + INDEXES;
    this.#capacity = capacity;
  }

  /**
   * Producer: finds room for a message of `length` bytes, to be filled before
   * {@link commit}.
   *
   * @returns where in the memory it starts, a multiple of 8; -1 if there is no room
   */
  reserve(kind: number, length: number): number {
    const capacity = this.#capacity;
    const size = HEADER + ((length + 7) & -8);
    let position = this.#written & (capacity - 1);
    const skip = capacity - position < size ? capacity - position : 0;
    const used = this.#written - Atomics.load(this.#words, READ) | 0;
    if (size + skip > capacity - used) return -1;
    if (skip > 0) {
      this.#words[(INDEXES + position) >> 2] = TO_START;
      position = 0;
    }
    const word = (INDEXES + position) >> 2;
    this.#words[word] = length;
    this.#words[word + 1] = kind;
    this.#reserved = skip + size;
    return this.#start + position + HEADER;
  }

  /** Producer: shows the consumer the message reserved last. */
  commit(): void {
    this.#written = this.#written + this.#reserved | 0;
    this.#reserved = 0;
    Atomics.store(this.#words, WRITTEN, this.#written);
  }

  /** Consumer: whether a message waits that was not taken. */
  get waiting(): boolean {
    return this.written !== this.#read;
  }

  /** Consumer: what {@link taken} will be after the last message sent so far. */
  get written(): number {
    return Atomics.load(this.#words, WRITTEN);
  }

  /** Consumer: bytes of the messages taken so far, modulo 2^32. */
  get taken(): number {
    return this.#read;
  }

  /** Consumer: takes the next message; false if there is none. */
  take(): boolean {
    if (!this.waiting) return false;
    let position = this.#read & (this.#capacity - 1);
    if (this.#words[(INDEXES + position) >> 2] === TO_START) {
      this.#read = this.#read + this.#capacity - position | 0;
      position = 0;
    }
    const word = (INDEXES + position) >> 2;
    this.length = this.#words[word];
    this.kind = this.#words[word + 1];
    this.at = this.#start + position + HEADER;
    this.#read = this.#read + HEADER + ((this.length + 7) & -8) | 0;
    return true;
  }

  /** Consumer: the bytes of all messages taken so far are no longer needed. */
  release(): void {
    if (this.#words[READ] !== this.#read) Atomics.store(this.#words, READ, this.#read);
  }
}
