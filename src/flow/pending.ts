/** Flows that have something to do without an event: a ring of indexes, each in it once. */
export class PendingRing {
  readonly #ring: Int32Array;
  readonly #inside: Uint8Array;
  #first = 0;
  /** Indexes in the ring. */
  count = 0;

  /** @param capacity indexes are below it */
  constructor(capacity: number) {
    this.#ring = new Int32Array(capacity);
    this.#inside = new Uint8Array(capacity);
  }

  /** Appends an index unless it is in the ring already. */
  push(index: number): void {
    if (this.#inside[index] !== 0) return;
    this.#inside[index] = 1;
    let at = this.#first + this.count++;
    if (at >= this.#ring.length) at -= this.#ring.length;
    this.#ring[at] = index;
  }

  /** Takes the first index; only while {@link count} is above 0. */
  take(): number {
    const index = this.#ring[this.#first];
    this.#first = this.#first + 1 === this.#ring.length ? 0 : this.#first + 1;
    this.count--;
    this.#inside[index] = 0;
    return index;
  }
}
