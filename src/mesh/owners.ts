/**
 * Whose a flow is: a hash table that all threads share, without a lock. It is asked only
 * about packets whose flow a thread does not have itself, so that what it says may be a
 * moment old, and it may be wrong: threads check what they are given, and a flow's own
 * thread has the last word.
 *
 * A bucket is 16 words, one cache line. A word is 0, or some bits of the hash of a flow's
 * key beside the number of its thread.
 *
 * A connection that both ends have closed leaves a word, too: what the guest had sent
 * before on another ring may come later, and is not a stranger's. Such words give way to
 * flows when a bucket is full.
 */

const BUCKET = 16;
const BUCKETS = 1 << 15;
const BUCKET_BITS = 15;
/** Owners are told apart by 4 bits, of which 0 means none. */
const OWNER_BITS = 4;
const OWNER_MASK = (1 << OWNER_BITS) - 1;
/** In place of a thread: the connection has ended in good order. */
export const ENDED = 14;

/** Bytes that the table takes. */
export const OWNERS_SIZE = BUCKET * BUCKETS * 4;

function wordOf(hash: number, owner: number): number {
  return ((hash >>> BUCKET_BITS) << OWNER_BITS) | (owner + 1);
}

/** Which thread has a flow, by its hash; all threads write to it and read it. */
export class OwnerTable {
  readonly #words: Int32Array;
  /** Flows that found their bucket full: other threads do not know of them. */
  unregistered = 0;

  /** @param memory {@link OWNERS_SIZE} bytes, zeroed, of all threads */
  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory, 0, BUCKET * BUCKETS);
  }

  /** Notes that thread `owner` has the flow whose key has this hash. */
  enter(hash: number, owner: number): void {
    const word = wordOf(hash, owner);
    if (this.#replace(hash, wordOf(hash, ENDED), word)) return;
    if (this.#replace(hash, 0, word) || this.#replaceEnded(hash, word)) return;
    this.unregistered++;
  }

  /** Undoes {@link enter}. */
  leave(hash: number, owner: number): void {
    this.#replace(hash, wordOf(hash, owner), 0);
  }

  /** Undoes {@link enter} of a connection that both ends have closed. */
  end(hash: number, owner: number): void {
    const word = wordOf(hash, ENDED);
    if (this.#replace(hash, wordOf(hash, owner), word)) return;
    if (!this.#replace(hash, 0, word)) this.#replaceEnded(hash, word);
  }

  /** The flow is thread `to`'s from now on, if it was `from`'s or nobody's. */
  move(hash: number, from: number, to: number): void {
    const word = wordOf(hash, to);
    if (!this.#replace(hash, wordOf(hash, from), word)) this.enter(hash, to);
  }

  #replace(hash: number, old: number, by: number): boolean {
    const start = (hash & (BUCKETS - 1)) * BUCKET;
    for (let i = start; i < start + BUCKET; i++) {
      if (Atomics.load(this.#words, i) !== old) continue;
      if (Atomics.compareExchange(this.#words, i, old, by) === old) return true;
    }
    return false;
  }

  /** Puts a word in place of one of any connection that has ended. */
  #replaceEnded(hash: number, by: number): boolean {
    const start = (hash & (BUCKETS - 1)) * BUCKET;
    for (let i = start; i < start + BUCKET; i++) {
      const old = Atomics.load(this.#words, i);
      if ((old & OWNER_MASK) !== ENDED + 1) continue;
      if (Atomics.compareExchange(this.#words, i, old, by) === old) return true;
    }
    return false;
  }

  /**
   * The thread that has a flow with this hash; {@link ENDED} if none has it any more, -1
   * if none is known to have had it.
   */
  find(hash: number): number {
    const start = (hash & (BUCKETS - 1)) * BUCKET;
    const wanted = (hash >>> BUCKET_BITS) << OWNER_BITS;
    let found = -1;
    for (let i = start; i < start + BUCKET; i++) {
      const word = Atomics.load(this.#words, i);
      if ((word & ~OWNER_MASK) !== wanted || (word & OWNER_MASK) === 0) continue;
      found = (word & OWNER_MASK) - 1;
      if (found !== ENDED) return found;
    }
    return found;
  }
}
