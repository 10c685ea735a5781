/**
 * Flows that one side has begun and the other has not answered, in the order of their
 * beginning: where there is no room for another, the oldest makes it.
 */
import { Bound, type FlowBounds } from "./bounds.ts";

const NONE = 0;
/** The lists, each by the bound that it counts for. */
const LISTS = 3;
const FIRST_LIST = Bound.halfOpen;

/** Flows in the order in which they began to wait. */
export class WaitingFlows {
  /** Of each flow, one more than its neighbours in the list; 0: none. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** One more than the number of the list that a flow is in; 0: in none. */
  readonly #list: Uint8Array;
  readonly #first = new Int32Array(LISTS);
  readonly #last = new Int32Array(LISTS);
  readonly #bounds: FlowBounds;

  constructor(capacity: number, bounds: FlowBounds) {
    this.#bounds = bounds;
    this.#next = new Int32Array(capacity);
    this.#previous = new Int32Array(capacity);
    this.#list = new Uint8Array(capacity);
  }

  /** A flow waits for an answer, as the youngest of those that count for `bound`. */
  enter(flow: number, bound: number): void {
    this.leave(flow);
    const list = bound - FIRST_LIST;
    const last = this.#last[list];
    this.#list[flow] = list + 1;
    this.#previous[flow] = last;
    this.#next[flow] = NONE;
    if (last === NONE) this.#first[list] = flow + 1;
    else this.#next[last - 1] = flow + 1;
    this.#last[list] = flow + 1;
    this.#bounds.add(bound);
  }

  /** A flow was answered, or has ended; nothing happens if it did not wait. */
  leave(flow: number): void {
    const number = this.#list[flow];
    if (number === NONE) return;
    const list = number - 1;
    this.#list[flow] = NONE;
    const next = this.#next[flow];
    const previous = this.#previous[flow];
    if (previous === NONE) this.#first[list] = next;
    else this.#next[previous - 1] = next;
    if (next === NONE) this.#last[list] = previous;
    else this.#previous[next - 1] = previous;
    this.#bounds.give(FIRST_LIST + list);
  }

  /** The flow that has waited longest of those that count for `bound`; -1 if none does. */
  oldest(bound: number): number {
    return this.#first[bound - FIRST_LIST] - 1;
  }
}
