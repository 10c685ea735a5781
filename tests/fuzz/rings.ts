/** A driver that writes anything into its rings before and between the device's steps. */
import { Arena } from "../../ffi/arena.ts";
import { IovecArray } from "../../ffi/iovec.ts";
import { FrameSink } from "../../src/virtio/frame_sink.ts";
import { FRAME, FrameSource } from "../../src/virtio/frame_source.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { makeQueue } from "../../src/virtio/make_queue.ts";
import type { Virtqueue } from "../../src/virtio/virtqueue.ts";
import { GuestRam, MockDriver } from "../support/mock_driver.ts";
import { Script, type Target } from "./engine/target.ts";

const RING = 16;
const SIZE = 0x2_0000;
const BASE = 0x10_0000;
/** Words in which the rings, the first buffers and an indirect table lie. */
const RING_WORDS = 640;
const MAX_STEPS = 100;
/** Frames that a step may find: more would mean that it does not end. */
const MAX_FRAMES = 4 * RING;
const TELLING = [0, 1, 16, 60, 1500, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000];

/** Two rings and what a guest may do to them; the memory is as fresh for each input. */
class Rings {
  readonly #memory = new GuestMemory(2 ** 32);
  readonly #ram = new GuestRam(this.#memory, [{ address: BASE, size: SIZE }]);
  readonly #iovecs = new IovecArray(new Arena(1 << 16), 2048);
  readonly #driver: MockDriver;
  readonly #queues: readonly [Virtqueue, Virtqueue];
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #first: number;
  readonly #fresh: Uint8Array;
  readonly #copy = new DataView(new ArrayBuffer(2048));

  constructor(packed: boolean) {
    this.#driver = new MockDriver(this.#ram, true, RING, { packed, eventIdx: true });
    this.#driver.post(3, 300, 40);
    this.#driver.send(new Uint8Array(90).fill(7), [12, 30]);
    this.#driver.send(new Uint8Array(60).fill(8), [12, 20], new Uint8Array(12), true);
    this.#first = this.#memory.translate(BASE, SIZE);
    this.#bytes = new Uint8Array(this.#memory.buffer, this.#first, SIZE);
    this.#words = new Uint32Array(this.#memory.buffer, this.#first, SIZE / 4);
    this.#fresh = this.#bytes.slice();
    this.#queues = [makeQueue(this.#memory, packed), makeQueue(this.#memory, packed)];
  }

  run(input: Uint8Array<ArrayBuffer>): void {
    const script = new Script(input);
    const setting = script.u8();
    const eventIdx = (setting & 1) !== 0;
    const [tx, rx] = this.#queues;
    this.#bytes.set(this.#fresh);
    tx.start({ ...this.#driver.tx.layout, eventIdx });
    rx.start({ ...this.#driver.rx.layout, eventIdx });
    const source = new FrameSource(this.#memory, tx);
    const sink = new FrameSink(this.#memory, rx);
    sink.mergeable = (setting & 2) !== 0;
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) {
      this.#step(script, source, sink);
    }
    tx.stop();
    rx.stop();
  }

  #step(script: Script, source: FrameSource, sink: FrameSink): void {
    switch (script.below(6)) {
      case 0:
        return this.#write(script);
      case 1:
        return this.#transmit(script, source);
      case 2:
        return this.#receive(script, sink);
      case 3:
        source.queue.wantNotification();
        return void sink.queue.wantNotification();
      case 4:
        source.queue.declineNotification();
        return sink.queue.declineNotification();
      default:
        for (let i = script.below(8); i >= 0; i--) this.#write(script);
    }
  }

  #write(script: Script): void {
    const kind = script.u8();
    const at = kind & 1 ? script.u16() % (SIZE / 4) : script.u16() % RING_WORDS;
    switch (kind >> 1 & 3) {
      case 0:
        this.#words[at] = BASE + script.u16();
        break;
      case 1:
        this.#words[at] = TELLING[script.below(TELLING.length)];
        break;
      case 2: // an index or identifier below flags or another index
        this.#words[at] = script.u16() << 16 | script.below(RING + 2);
        break;
      default:
        this.#words[at] = script.u32();
    }
  }

  #between(script: Script): void {
    if (script.u8() & 1) this.#write(script);
  }

  #transmit(script: Script, source: FrameSource): void {
    const iovecs = this.#iovecs;
    let frames = 0;
    for (; source.next() === FRAME; frames++) {
      if (frames > MAX_FRAMES) break;
      this.#between(script);
      source.need(script.below(250) * 2);
      iovecs.count = 0;
      this.#between(script);
      if (source.pieces <= iovecs.capacity) {
        source.appendPayload(0, source.length, iovecs);
      }
      this.#inside(source.length);
      source.copyFrame(this.#copy);
      if (script.left === 0 && frames > RING) break;
    }
    source.flush();
  }

  #receive(script: Script, sink: FrameSink): void {
    const iovecs = this.#iovecs;
    const sizes: number[] = [];
    sink.begin();
    iovecs.count = 0;
    for (let wanted = 1 + script.below(6); wanted > 0; wanted--) {
      const fits = sink.reserve(54, script.u16(), iovecs);
      if (fits < 0) break;
      sizes.push(fits);
      this.#between(script);
    }
    this.#inside(Infinity);
    const frames = script.below(sizes.length + 1);
    for (let i = 0; i < frames; i++) {
      const payload = i + 1 === frames ? script.u16() % (sizes[i] + 1) : sizes[i];
      sink.commit(i, 54, payload, script.u8() & 1 ? 34 : 0, 16, 0, 0);
      this.#between(script);
    }
    sink.end();
    sink.flush();
    sink.broken = false;
  }

  /** Every address that a system call would get lies in guest memory. */
  #inside(most: number): void {
    const first = this.#memory.base + this.#first;
    let total = 0;
    for (let i = 0; i < this.#iovecs.count; i++) {
      const [at, length] = [this.#iovecs.baseOf(i), this.#iovecs.lengthOf(i)];
      total += length;
      if (at < first || at + length > first + SIZE) throw new Error("outside memory");
    }
    if (total > most) throw new Error("more than the frame has");
  }

  close(): void {
    this.#ram.close();
  }
}

/** The target for one form of rings. */
export function ringTarget(packed: boolean): Target {
  const rings = new Rings(packed);
  return {
    maxLength: 400,
    seeds: [
      Uint8Array.of(3, 1, 0, 40, 0, 0, 20, 0, 0, 2, 2, 0, 100, 0, 0, 200, 0, 2, 0, 9, 0),
      Uint8Array.of(0, 3, 5, 2, 0, 0, 1, 5, 2, 0, 3, 3, 0, 1, 0, 4, 2, 1, 1, 0, 0, 1),
    ],
    run: (input) => rings.run(input),
    close: () => rings.close(),
  };
}
