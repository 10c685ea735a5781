/**
 * How many flows, sockets and unanswered beginnings there may be, in the whole process:
 * with several threads they count in memory that all share, so that a bound means the
 * same however a guest spreads its flows. What is at a bound is said once a minute.
 */
import { DEFAULT_LIMITS, type Limits } from "../config.ts";
import { log } from "../log.ts";
import { FlowKind } from "../wire/state/flow_entry.ts";

/** What is counted. */
export const Bound = {
  flows: 0,
  tcp: 1,
  udp: 2,
  ping: 3,
  sockets: 4,
  /** Connections of the guest that their peers have not answered. */
  halfOpen: 5,
  /** Connections through forwarded ports, and datagrams, that the guest has not answered. */
  pendingTcp: 6,
  pendingUdp: 7,
} as const;

const BOUNDS = 8;
/** Counts, then limits. */
export const BOUNDS_SIZE = 2 * BOUNDS * 4;
/** How often the log says the same, as long as it lasts. */
const WARN_MS = 60_000;
const MOST = 0x7fff_ffff;

/** By {@link Bound}: what there are too many of, the option, and what comes of it. */
const LINES: readonly (readonly [what: string, option: string, outcome: string])[] = [
  ["flows", "max-flows", "peers are refused, the guest's new flows wait"],
  ["TCP connections", "max-tcp", "peers are refused, the guest's SYNs wait"],
  ["UDP flows", "max-udp", "datagrams of new ones are dropped"],
  ["ping flows", "max-ping", "requests of new ones are dropped"],
  [
    "sockets",
    "max-sockets, ulimit -Hn, LimitNOFILE",
    "new flows and connections to forwarded ports wait",
  ],
  ["half-open connections", "max-half-open", "the oldest make room"],
  [
    "connections to forwarded ports that the guest has not answered",
    "max-pending",
    "others wait, and the oldest make room",
  ],
  [
    "senders to forwarded UDP ports that the guest has not answered",
    "max-pending",
    "the oldest make room",
  ],
];

/** The bound of a kind of flow. */
function boundOf(kind: number): number {
  if (kind === FlowKind.tcp) return Bound.tcp;
  return kind === FlowKind.udp ? Bound.udp : Bound.ping;
}

/** Counts flows and sockets of all threads against their bounds. */
export class FlowBounds {
  readonly #words: Int32Array;
  readonly #warnedAt = new Float64Array(BOUNDS).fill(-Infinity);
  readonly #hits = new Float64Array(BOUNDS);
  #budgetWarnedAt = -Infinity;
  /** The bound that {@link admit} met. */
  met = 0;

  /**
   * @param memory {@link BOUNDS_SIZE} bytes, zeroed, of all threads; each sets the same
   *   limits
   */
  constructor(
    readonly limits: Limits = DEFAULT_LIMITS,
    memory: ArrayBufferLike = new ArrayBuffer(BOUNDS_SIZE),
  ) {
    const words = this.#words = new Int32Array(memory);
    words[BOUNDS + Bound.flows] = limits.flows;
    words[BOUNDS + Bound.tcp] = limits.tcp;
    words[BOUNDS + Bound.udp] = limits.udp;
    words[BOUNDS + Bound.ping] = limits.ping;
    words[BOUNDS + Bound.halfOpen] = limits.halfOpen;
    words[BOUNDS + Bound.pendingTcp] = limits.pendingTcp;
    words[BOUNDS + Bound.pendingUdp] = limits.pendingUdp;
    if (words[BOUNDS + Bound.sockets] === 0) this.setSockets(MOST);
  }

  /** Sets how many sockets there may be; what was configured is not exceeded. */
  setSockets(most: number): void {
    const allowed = Math.min(most, this.limits.sockets ?? MOST);
    Atomics.store(this.#words, BOUNDS + Bound.sockets, Math.max(1, allowed));
  }

  /** How many there may be of one of {@link Bound}. */
  limit(bound: number): number {
    return Atomics.load(this.#words, BOUNDS + bound);
  }
  /** How many there are. */
  count(bound: number): number {
    return Atomics.load(this.#words, bound);
  }
  /** Whether there can be no more. */
  full(bound: number): boolean {
    return this.count(bound) >= this.limit(bound);
  }

  /** More than half of the sockets are in use: none is kept for later. */
  get scarce(): boolean {
    return this.count(Bound.sockets) > this.limit(Bound.sockets) >> 1;
  }

  /** Counts a flow of a kind, with a socket of its own or not; false at a bound. */
  admit(kind: number, socket: boolean): boolean {
    if (!this.#take(Bound.flows)) return false;
    const own = boundOf(kind);
    if (this.#take(own)) {
      if (!socket || this.#take(Bound.sockets)) return true;
      this.give(own);
    }
    this.give(Bound.flows);
    return false;
  }

  #take(bound: number): boolean {
    // Another thread may have taken the last one since it was looked.
    if (Atomics.add(this.#words, bound, 1) < this.limit(bound)) return true;
    Atomics.sub(this.#words, bound, 1);
    this.met = bound;
    return false;
  }

  /** Counts a flow that is there already: it was moved here. */
  enter(kind: number): void {
    this.add(Bound.flows);
    this.add(boundOf(kind));
  }
  /** Uncounts a flow; its socket is uncounted apart. */
  leave(kind: number): void {
    this.give(Bound.flows);
    this.give(boundOf(kind));
  }
  /** Counts one more, whatever the limit. */
  add(bound: number): void {
    Atomics.add(this.#words, bound, 1);
  }
  /** Uncounts one. */
  give(bound: number): void {
    Atomics.sub(this.#words, bound, 1);
  }

  /** Somebody met a bound: the log says so, once a minute. */
  note(bound: number): void {
    const hits = ++this.#hits[bound];
    const now = performance.now();
    if (now - this.#warnedAt[bound] < WARN_MS) return;
    this.#warnedAt[bound] = now;
    this.#hits[bound] = 0;
    const [what, option, outcome] = LINES[bound];
    const times = hits > 1 ? ` (${hits} times since the last such line)` : "";
    log.warn(
      `${this.limit(bound)} ${what} are all there may be (--${option}): ` +
        `${outcome}${times}`,
    );
  }

  /** A turn has left frames of the guest for the next one: nothing bad, but said. */
  noteBudget(): void {
    if (!log.isDebug()) return;
    const now = performance.now();
    if (now - this.#budgetWarnedAt < WARN_MS) return;
    this.#budgetWarnedAt = now;
    log.debug(
      `the guest sends more than ${this.limits.budget} frames a turn (--budget): ` +
        "others have their turn in between",
    );
  }
}
