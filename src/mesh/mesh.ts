/**
 * The threads of the data path as one of them sees the others: messages to and from each,
 * sleep that a message ends, and whose a flow is.
 */
import { eventfdWrite } from "../../ffi/event.ts";
import { addressOf } from "../../ffi/memory.ts";
import type { FrameMemory } from "../virtio/frame_source.ts";
import { OwnerTable } from "./owners.ts";
import { MessageRing, ringMemory } from "./ring.ts";
import { FLAG_STRIDE, RING_SIZE, type SharedParts } from "./shared.ts";

const AWAKE = 0;
const ASLEEP = 1;

/** The ways between all threads, as one of them sees them. */
export class Mesh {
  /** How many threads there are. */
  readonly threads: number;
  /** Which flow is whose. */
  readonly owners: OwnerTable;
  /** Messages of others lie in it, and may be read as frames. */
  readonly memory: FrameMemory;
  /** The memory of all ways. */
  readonly bytes: Uint8Array;
  /** The same as a view. */
  readonly view: DataView;
  /** By thread: what it sends here; of this thread itself, too. */
  readonly inbox: readonly MessageRing[];
  readonly #outbox: readonly MessageRing[];
  readonly #flags: Int32Array;
  readonly #wakeFds: readonly number[];
  /** A thread could not be woken: it is to be tried again. */
  #owing = false;
  readonly #sent: Uint8Array;

  /** @param self number of this thread, 0 for the main one */
  constructor(readonly self: number, shared: SharedParts) {
    const { threads, rings } = shared;
    this.threads = threads;
    this.owners = new OwnerTable(shared.owners);
    this.bytes = new Uint8Array(rings);
    this.view = new DataView(rings);
    this.memory = { base: addressOf(rings), buffer: rings, windows: [this.view] };
    const ring = (from: number, to: number) =>
      new MessageRing(rings, (from * threads + to) * ringMemory(RING_SIZE), RING_SIZE);
    const all = Array.from({ length: threads }, (_, thread) => thread);
    this.inbox = all.map((from) => ring(from, self));
    this.#outbox = all.map((to) => ring(self, to));
    this.#flags = new Int32Array(shared.flags);
    this.#wakeFds = shared.wakeFds;
    this.#sent = new Uint8Array(threads);
  }

  /** An event of it ends this thread's sleep. */
  get wakeFd(): number {
    return this.#wakeFds[this.self];
  }

  /**
   * Makes room for a message to `thread`, to be filled before {@link send}.
   *
   * @returns where in {@link bytes} it starts; -1 if the ring is full
   */
  reserve(thread: number, kind: number, length: number): number {
    return this.#outbox[thread].reserve(kind, length);
  }

  /** Sends what was reserved last; {@link wake} tells the receiver. */
  send(thread: number): void {
    this.#outbox[thread].commit();
    this.#sent[thread] = 1;
  }

  /** Wakes those who sleep and were sent something. */
  wake(): void {
    for (let thread = 0; thread < this.threads; thread++) {
      if (this.#sent[thread] === 0) continue;
      this.#sent[thread] = 0;
      const flag = thread * FLAG_STRIDE;
      if (Atomics.load(this.#flags, flag) !== ASLEEP) continue;
      if (Atomics.exchange(this.#flags, flag, AWAKE) !== ASLEEP) continue;
      if (eventfdWrite(this.#wakeFds[thread])) continue;
      Atomics.compareExchange(this.#flags, flag, AWAKE, ASLEEP);
      this.#sent[thread] = 1;
      this.#owing = true;
    }
  }

  /** Wakes a thread whether it sleeps or not. */
  rouse(thread: number): void {
    eventfdWrite(this.#wakeFds[thread]);
  }

  /**
   * Says that this thread is about to wait for events.
   *
   * @returns false if it must not: there is a message already, or one that its receiver
   *   could not be told of
   */
  sleep(): boolean {
    if (this.#owing) {
      this.#owing = false;
      return false;
    }
    Atomics.store(this.#flags, this.self * FLAG_STRIDE, ASLEEP);
    // Who sends looks at the flag after it has sent, this thread the other way round.
    if (!this.waiting) return true;
    this.awake();
    return false;
  }

  /** Says that this thread looks at its messages by itself. */
  awake(): void {
    Atomics.store(this.#flags, this.self * FLAG_STRIDE, AWAKE);
  }

  /** Whether a message waits for this thread. */
  get waiting(): boolean {
    for (let i = 0; i < this.threads; i++) if (this.inbox[i].waiting) return true;
    return false;
  }
}
