/**
 * One timer per flow in a hierarchical wheel (Varghese, Lauck: "Hashed and hierarchical
 * timing wheels", scheme 7): setting, changing and expiry take constant time, and nothing
 * is ever scanned but the slots that come due.
 */

/** Milliseconds per tick of the finest level. */
export const TICK_MS = 8;
const SLOT_BITS = 8;
const SLOTS = 1 << SLOT_BITS;
const LEVELS = 3;
const NONE = -1;

/** One timer for each flow. */
export class FlowTimers {
  /** Doubly linked lists: heads are numbered after the flows. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #due: Float64Array;
  readonly #capacity: number;
  /** Ticks up to which everything has expired. */
  #tick: number;
  #armed = 0;

  /** @param now milliseconds of a clock that never goes back */
  constructor(capacity: number, now: number) {
    this.#capacity = capacity;
    const heads = SLOTS * LEVELS;
    this.#next = new Int32Array(capacity + heads).fill(NONE, 0, capacity);
    this.#previous = new Int32Array(capacity + heads).fill(NONE, 0, capacity);
    for (let head = capacity; head < capacity + heads; head++) {
      this.#next[head] = this.#previous[head] = head;
    }
    this.#due = new Float64Array(capacity);
    this.#tick = Math.floor(now / TICK_MS);
  }

  /** When a flow's timer expires (milliseconds, rounded up to ticks); -1 if it is not set. */
  due(flow: number): number {
    return this.#next[flow] === NONE ? -1 : this.#due[flow] * TICK_MS;
  }

  /** Whether a flow's timer runs. */
  isSet(flow: number): boolean {
    return this.#next[flow] !== NONE;
  }

  /** Sets or moves a flow's timer to `at` (milliseconds); past times expire at once. */
  set(flow: number, at: number): void {
    let due = Math.ceil(at / TICK_MS);
    if (due <= this.#tick) due = this.#tick + 1;
    if (this.#next[flow] !== NONE) {
      if (this.#due[flow] === due) return;
      this.#unlink(flow);
    }
    this.#due[flow] = due;
    this.#link(flow);
  }

  /** Sets a flow's timer unless it is set to an earlier time already. */
  setEarlier(flow: number, at: number): void {
    const set = this.#next[flow] !== NONE;
    if (!set || Math.ceil(at / TICK_MS) < this.#due[flow]) this.set(flow, at);
  }

  /** Stops a flow's timer, if it runs. */
  clear(flow: number): void {
    if (this.#next[flow] !== NONE) this.#unlink(flow);
  }

  #link(flow: number): void {
    const due = this.#due[flow];
    let ahead = due - this.#tick;
    let level = 0;
    let slot = due;
    while (ahead >= SLOTS && level < LEVELS - 1) {
      ahead = Math.floor(ahead / SLOTS);
      slot = Math.floor(slot / SLOTS);
      level++;
    }
    // Beyond the last level: as far ahead as it reaches, to be sorted in again there.
    if (ahead >= SLOTS) slot = Math.floor(this.#tick / SLOTS ** (LEVELS - 1)) + SLOTS - 1;
    const head = this.#capacity + level * SLOTS + (slot % SLOTS);
    const last = this.#previous[head];
    this.#next[last] = flow;
    this.#previous[flow] = last;
    this.#next[flow] = head;
    this.#previous[head] = flow;
    this.#armed++;
  }

  #unlink(flow: number): void {
    const next = this.#next[flow];
    const previous = this.#previous[flow];
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#next[flow] = NONE;
    this.#armed--;
  }

  /**
   * The next flow whose timer has expired by `now`, its timer cleared; -1 if none has.
   * Called until it returns -1.
   */
  expired(now: number): number {
    const target = Math.floor(now / TICK_MS);
    if (this.#armed === 0) {
      if (target > this.#tick) this.#tick = target;
      return -1;
    }
    for (;;) {
      const head = this.#capacity + (this.#tick % SLOTS);
      const flow = this.#next[head];
      if (flow !== head) {
        this.#unlink(flow);
        return flow;
      }
      if (this.#tick >= target) return -1;
      this.#tick++;
      if (this.#tick % SLOTS === 0) this.#cascade();
    }
  }

  /** A level below has gone round: sorts in what the levels above hold for it. */
  #cascade(): void {
    let tick = this.#tick;
    for (let level = 1; level < LEVELS; level++) {
      tick = Math.floor(tick / SLOTS);
      const head = this.#capacity + level * SLOTS + (tick % SLOTS);
      let flow = this.#next[head];
      this.#next[head] = this.#previous[head] = head;
      while (flow !== head) {
        const following = this.#next[flow];
        this.#armed--;
        this.#link(flow);
        flow = following;
      }
      if (tick % SLOTS !== 0) return;
    }
  }

  /**
   * Milliseconds from `now` until a timer may expire, 0 if one has, -1 if none is set.
   * It may be early, where a coarser level must be sorted in first; never late.
   */
  untilNext(now: number): number {
    if (this.#armed === 0) return -1;
    // To the end of this round of the finest level; then the next level is looked at.
    const limit = SLOTS - (this.#tick % SLOTS);
    let ahead = 0;
    for (; ahead < limit; ahead++) {
      const head = this.#capacity + ((this.#tick + ahead) % SLOTS);
      if (this.#next[head] !== head) break;
    }
    if (ahead === limit) ahead += this.#coarseTicks();
    const wait = (this.#tick + ahead) * TICK_MS - now;
    return wait > 0 ? Math.ceil(wait) : 0;
  }

  /** Whole rounds of the finest level that can be slept through, in ticks. */
  #coarseTicks(): number {
    const round = Math.floor(this.#tick / SLOTS);
    const limit = SLOTS - (round % SLOTS);
    let ahead = 1;
    for (; ahead < limit; ahead++) {
      const head = this.#capacity + SLOTS + ((round + ahead) % SLOTS);
      if (this.#next[head] !== head) break;
    }
    // Timers of the finest level may lie in its next round, behind the current tick.
    for (let slot = 0; slot < this.#tick % SLOTS; slot++) {
      if (this.#next[this.#capacity + slot] !== this.#capacity + slot) return slot;
    }
    return (ahead - 1) * SLOTS;
  }
}
