/** Rings whose contents make no sense. */
import { NO_FD, type SessionLog, type Vring } from "../vhost_user/backend.ts";
import { signal } from "../vhost_user/interrupt.ts";

/** Milliseconds between two lines of one kind, whatever a guest does. */
const QUIET_MS = 1000;

/** Tells the operator and the frontend what is wrong with rings, not too often. */
export class RingReports {
  #brokenAt = -Infinity;
  #badAt = -Infinity;
  /** Of both kinds, since the last line. */
  #broken = 0;
  #bad = 0;

  /** @param now a clock in milliseconds */
  constructor(
    private readonly log: SessionLog,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** A ring's indexes cannot be: no more of it is read. */
  broken(queue: number, ring: Vring | undefined): void {
    tell(ring);
    this.#broken++;
    const now = this.now();
    if (now - this.#brokenAt < QUIET_MS) return;
    const more = this.#broken > 1 ? ` (${this.#broken} times)` : "";
    this.log.warn(
      `queue ${queue}: an index, a descriptor number or a chain goes beyond the ring's ` +
        `${ring?.size ?? 0} entries; the queue stands still until the driver resets it` +
        more,
    );
    this.#brokenAt = now;
    this.#broken = 0;
  }

  /** Chains that cannot be went back unused; the ring goes on with the next. */
  badChains(queue: number, ring: Vring | undefined, count: number): void {
    tell(ring);
    this.#bad += count;
    const now = this.now();
    if (now - this.#badAt < QUIET_MS) return;
    this.log.warn(
      `queue ${queue}: the guest's driver made ${this.#bad} chains of descriptors ` +
        "available that are empty, too short or too long, of both directions, or not " +
        "within its memory; they were given back unused",
    );
    this.#badAt = now;
    this.#bad = 0;
  }
}

/** SET_VRING_ERR: a frontend that lets its counter fill up is told once. */
function tell(ring: Vring | undefined): void {
  signal(ring?.errFd ?? NO_FD);
}
