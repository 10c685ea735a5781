/** What the guest sends: from the tap into the ring. */
import { Errno, errno } from "../../../ffi/errno.ts";
import { readFrame, waitReadable } from "../../../ffi/tap.ts";
import { GUEST_BASE, RING_SIZE, SLOT, TABLE, type ThreadJob } from "./memory.ts";
import { Ring } from "./ring.ts";

const DESC_F_NEXT = 1;
const DESC_F_INDIRECT = 4;
/** As Linux sends: the headers, then pieces as a page fragment holds. */
const HEAD_PIECE = 12 + 14 + 20 + 32;
const PIECE = 32_768;
/** Frames for each look at whether the device wants to be told. */
const BURST = 16;

class Sender {
  readonly #ring: Ring;
  readonly #view: DataView;
  readonly #pointers: Deno.PointerValue[] = [];
  readonly #free: number[] = [];

  constructor(private readonly job: ThreadJob, memory: ArrayBuffer) {
    const { places, kick, call, eventIdx, base } = job;
    this.#ring = new Ring(memory, places.tx, kick, call, eventIdx);
    this.#view = new DataView(memory);
    for (let i = 0; i < RING_SIZE; i++) {
      const address = BigInt(base + places.txSlots + i * SLOT);
      this.#pointers.push(Deno.UnsafePointer.create(address));
      this.#free.push(i);
    }
  }

  run(): never {
    const ring = this.#ring;
    const free = this.#free;
    const { tap } = this.job;
    let burst = 0;
    for (;;) {
      for (let fresh = ring.fresh; fresh > 0; fresh--) free.push(ring.take());
      if (free.length === 0) {
        ring.kick();
        ring.wait();
        continue;
      }
      const slot = free[free.length - 1];
      const length = readFrame(tap, this.#pointers[slot], SLOT);
      if (length < 0) {
        ring.kick();
        burst = 0;
        if (errno() === Errno.EAGAIN) waitReadable(tap);
        continue;
      }
      free.pop();
      this.#describe(slot, length);
      ring.offer(slot);
      ring.publish();
      if (++burst === BURST) {
        ring.kick();
        burst = 0;
      }
    }
  }

  #describe(slot: number, length: number): void {
    const { places, indirect } = this.job;
    const address = GUEST_BASE + places.txSlots + slot * SLOT;
    if (!indirect || length <= HEAD_PIECE) {
      return this.#ring.describe(slot, address, length, 0);
    }
    const table = places.tables + slot * TABLE;
    let pieces = 0;
    let done = 0;
    while (done < length) {
      const piece = pieces === 0 ? HEAD_PIECE : Math.min(PIECE, length - done);
      const at = table + 16 * pieces;
      this.#view.setUint32(at, address + done, true);
      this.#view.setUint32(at + 4, 0, true);
      this.#view.setUint32(at + 8, piece, true);
      done += piece;
      pieces++;
      const more = done < length ? DESC_F_NEXT : 0;
      this.#view.setUint16(at + 12, more, true);
      this.#view.setUint16(at + 14, more === 0 ? 0 : pieces, true);
    }
    this.#ring.describe(slot, GUEST_BASE + table, 16 * pieces, DESC_F_INDIRECT);
  }
}

/** Never ends. */
export function send(job: ThreadJob, memory: ArrayBuffer): never {
  return new Sender(job, memory).run();
}
