/** The driver's side of a split ring, for a thread that waits for the device. */
import { eventfdRead, eventfdWrite } from "../../../ffi/event.ts";
import { vringLayout } from "./layout.ts";
import { RING_SIZE } from "./memory.ts";

const MASK = RING_SIZE - 1;
const NO_INTERRUPT = 1;
const NO_NOTIFY = 1;
const USED_FLAGS = 0;
const USED_INDEX = 1;
/** Of avail_event, behind the elements of the used ring, and of used_event. */
const AVAIL_EVENT = 2 + 4 * RING_SIZE;
const USED_EVENT = 2 + RING_SIZE;

export class Ring {
  readonly #desc: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used16: Uint16Array;
  readonly #used32: Uint32Array;
  #next = 0;
  #told = 0;
  #seen = 0;
  /** Bytes that the device wrote to the chain taken last. */
  length = 0;

  /** @param at offset of the ring in `memory` */
  constructor(
    memory: ArrayBuffer,
    at: number,
    private readonly kickFd: number,
    private readonly callFd: number,
    private readonly eventIdx: boolean,
  ) {
    const layout = vringLayout(RING_SIZE);
    this.#desc = new Uint32Array(memory, at + layout.desc, RING_SIZE * 4);
    this.#avail = new Uint16Array(memory, at + layout.avail, RING_SIZE + 3);
    this.#used16 = new Uint16Array(memory, at + layout.used, RING_SIZE * 4 + 3);
    this.#used32 = new Uint32Array(memory, at + layout.used, RING_SIZE * 2 + 1);
    this.#declineCalls();
  }

  /** Writes a descriptor; guest addresses lie below 4 GiB. */
  describe(i: number, address: number, length: number, flags: number): void {
    const at = 4 * i;
    this.#desc[at] = address;
    this.#desc[at + 1] = 0;
    this.#desc[at + 2] = length;
    this.#desc[at + 3] = flags;
  }

  /** Makes the chain at descriptor `i` available; seen once {@link publish} is called. */
  offer(i: number): void {
    this.#avail[2 + (this.#next & MASK)] = i;
    this.#next = (this.#next + 1) & 0xffff;
  }

  publish(): void {
    Atomics.store(this.#avail, 1, this.#next);
  }

  /** Notifies the device of what was published, if it wants that (2.7.13, 2.7.10). */
  kick(): void {
    const told = this.#told;
    if (told === this.#next) return;
    this.#told = this.#next;
    const event = Atomics.load(this.#used16, AVAIL_EVENT);
    const wanted = this.eventIdx
      ? ((this.#next - event - 1) & 0xffff) < ((this.#next - told) & 0xffff)
      : (Atomics.load(this.#used16, USED_FLAGS) & NO_NOTIFY) === 0;
    if (wanted) eventfdWrite(this.kickFd);
  }

  /** How many chains the device has used that were not taken. */
  get fresh(): number {
    return (Atomics.load(this.#used16, USED_INDEX) - this.#seen) & 0xffff;
  }

  /** Takes a used chain: its first descriptor, and {@link length}. */
  take(): number {
    const at = 1 + 2 * (this.#seen & MASK);
    this.#seen = (this.#seen + 1) & 0xffff;
    this.length = this.#used32[at + 1];
    return this.#used32[at];
  }

  /** Sleeps until there is a used chain. */
  wait(): void {
    if (this.fresh > 0) return;
    if (this.eventIdx) Atomics.store(this.#avail, USED_EVENT, this.#seen);
    else Atomics.store(this.#avail, 0, 0);
    while (this.fresh === 0) eventfdRead(this.callFd);
    this.#declineCalls();
  }

  #declineCalls(): void {
    // With EVENT_IDX the index stays behind: no call comes until it is set anew.
    if (!this.eventIdx) Atomics.store(this.#avail, 0, NO_INTERRUPT);
  }
}
