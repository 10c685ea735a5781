/** What the guest receives: from the ring into the tap. */
import { Arena } from "../../../ffi/arena.ts";
import { IovecArray } from "../../../ffi/iovec.ts";
import { writeFrame } from "../../../ffi/tap.ts";
import { Coalescer, vouch } from "./coalesce.ts";
import { GUEST_BASE, RING_SIZE, type ThreadJob } from "./memory.ts";
import { Ring } from "./ring.ts";

const DESC_F_WRITE = 2;
const BUFFERS_AT = 10;
/** Frames that a driver takes in one go before it gives buffers back (NAPI_POLL_WEIGHT). */
const WEIGHT = 64;

class Receiver {
  readonly #ring: Ring;
  readonly #view: DataView;
  readonly #iovecs: IovecArray;
  readonly #pointer: Deno.PointerValue;
  readonly #coalescer: Coalescer;
  readonly #taken = new Uint16Array(RING_SIZE);
  #count = 0;

  constructor(private readonly job: ThreadJob, memory: ArrayBuffer) {
    const { places, kick, call, eventIdx, base } = job;
    this.#ring = new Ring(memory, places.rx, kick, call, eventIdx);
    this.#view = new DataView(memory);
    const arena = new Arena(16 * RING_SIZE + 4096);
    this.#iovecs = new IovecArray(arena, RING_SIZE);
    this.#pointer = arena.pointer(this.#iovecs.address - arena.base);
    this.#coalescer = new Coalescer(this.#view, base, this.#iovecs);
    for (let i = 0; i < RING_SIZE; i++) {
      const address = GUEST_BASE + places.rxBuffers + i * job.rxBuffer;
      this.#ring.describe(i, address, job.rxBuffer, DESC_F_WRITE);
      this.#ring.offer(i);
    }
    this.#ring.publish();
    this.#ring.kick();
  }

  run(): never {
    const ring = this.#ring;
    for (;;) {
      ring.wait();
      while (ring.fresh > 0) {
        for (let i = 0; i < WEIGHT && this.#count < RING_SIZE / 2; i++) {
          if (ring.fresh === 0) break;
          this.#frame();
        }
        this.#flush();
        this.#giveBack();
      }
    }
  }

  #frame(): void {
    const { places, rxBuffer, mergeable } = this.job;
    const ring = this.#ring;
    const id = ring.take();
    const at = places.rxBuffers + id * rxBuffer;
    this.#taken[this.#count++] = id;
    const { length } = ring;
    const buffers = mergeable ? this.#view.getUint16(at + BUFFERS_AT, true) : 1;
    vouch(this.#view, at, length);
    if (buffers === 1) {
      if (this.#coalescer.add(at, length)) return;
      this.#flush();
      if (this.#coalescer.add(at, length)) return;
    } else this.#flush();
    this.#iovecs.count = 0;
    this.#iovecs.add(this.job.base + at, length);
    while (ring.fresh < buffers - 1);
    for (let i = 1; i < buffers; i++) {
      const next = ring.take();
      this.#taken[this.#count++] = next;
      this.#iovecs.add(this.job.base + places.rxBuffers + next * rxBuffer, ring.length);
    }
    this.#write();
  }

  #flush(): void {
    if (this.#coalescer.count === 0) return;
    this.#coalescer.finish();
    this.#write();
  }

  #write(): void {
    // What a link that is down refuses is lost, as on any other.
    writeFrame(this.job.tap, this.#pointer, this.#iovecs.count);
  }

  #giveBack(): void {
    for (let i = 0; i < this.#count; i++) this.#ring.offer(this.#taken[i]);
    this.#count = 0;
    this.#ring.publish();
    this.#ring.kick();
  }
}

/** Never ends. */
export function receive(job: ThreadJob, memory: ArrayBuffer): never {
  return new Receiver(job, memory).run();
}
