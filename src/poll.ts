/**
 * Waits for events: where they have come one by one and shortly after each other, by
 * looking again and again for a bounded time before sleeping, which spares the time that a
 * sleeping thread takes to wake. Where nothing happens, and where frames come in bulk (they
 * are cheaper the more of them have gathered), the thread just sleeps.
 */
import type { Epoll } from "../ffi/event.ts";

/** So many sleeps in a row must have been short. */
const SHORT_SLEEPS = 4;
/** More frames in one turn are bulk. */
const FEW_FRAMES = 8;

/** Waits for the events of one thread. */
export class Poller {
  readonly #epoll: Pick<Epoll, "wait" | "interrupted">;
  readonly #bound: number;
  readonly #clock: () => number;
  #short = 0;
  #frames = 0;

  /**
   * @param bound milliseconds of looking at most; 0 never looks
   * @param clock milliseconds
   */
  constructor(
    epoll: Pick<Epoll, "wait" | "interrupted">,
    bound: number,
    clock: () => number = () => performance.now(),
  ) {
    this.#epoll = epoll;
    this.#bound = bound;
    this.#clock = clock;
  }

  /**
   * As {@link Epoll.wait}.
   *
   * @param frames how many have been moved in all, so far
   */
  wait(timeout: number, frames: number): number {
    if (this.#bound === 0 || timeout === 0) return this.#epoll.wait(timeout);
    const moved = frames - this.#frames;
    this.#frames = frames;
    if (moved > FEW_FRAMES) {
      this.#short = 0;
      return this.#epoll.wait(timeout);
    }
    const bound = timeout > 0 && timeout < this.#bound ? timeout : this.#bound;
    const start = this.#clock();
    if (this.#short < SHORT_SLEEPS) {
      const count = this.#epoll.wait(timeout);
      this.#short = count > 0 && this.#clock() - start < bound ? this.#short + 1 : 0;
      return count;
    }
    do {
      const count = this.#epoll.wait(0);
      if (count > 0 || this.#epoll.interrupted) return count;
    } while (this.#clock() - start < bound);
    this.#short = 0;
    return this.#epoll.wait(timeout > 0 ? timeout - bound : timeout);
  }
}
