/**
 * A guest that writes anything into its rings while frames are taken from them and put into
 * them: nothing throws, nothing outside guest memory is handed on, everything ends, and a
 * ring that is set up anew works. VUELO_RING_STATES says how many states (100,000 if not).
 */
import { assert, assertEquals } from "@std/assert";
import { Arena } from "../../ffi/arena.ts";
import { IovecArray } from "../../ffi/iovec.ts";
import { FrameSink } from "../../src/virtio/frame_sink.ts";
import { BROKEN, FRAME, FrameSource } from "../../src/virtio/frame_source.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { makeQueue } from "../../src/virtio/make_queue.ts";
import { Random } from "../support/dirty_world.ts";
import { GuestRam, MockDriver } from "../support/mock_driver.ts";

const STATES = Number(Deno.env.get("VUELO_RING_STATES") ?? 100_000);
/** States of one ring before it is set up anew, unless it is broken by then. */
const LIFE = 200;
const RING = 16;
const SIZE = 0x2_0000;
const REGIONS = [{ address: 0x10_0000, size: SIZE }];
const memory = new GuestMemory(2 ** 32);
const iovecs = new IovecArray(new Arena(1 << 16), 2048);

/** Words that mean something in a ring, and words that do not. */
function word(random: Random): number {
  switch (random.below(6)) {
    case 0:
      return 0x10_0000 + random.below(SIZE + 64) - 32;
    case 1:
      return random.below(RING + 2);
    case 2: // flags of either form above an index or a buffer id
      return (random.below(8) | random.below(4) << 7 | random.below(2) << 15) << 16 |
        random.below(RING + 1);
    case 3:
      return [16, 32, 48, 64, 1500, 0x7fff_ffff, -1][random.below(7)];
    case 4:
      return 0;
    default:
      return random.below(2 ** 32);
  }
}

class HostileGuest {
  readonly ram = new GuestRam(memory, REGIONS);
  readonly driver: MockDriver;
  readonly source: FrameSource;
  readonly sink: FrameSink;
  readonly #words: Uint32Array;
  readonly #first: number;
  frames = 0;
  broken = 0;

  constructor(readonly random: Random, packed: boolean) {
    const eventIdx = random.chance(50);
    this.driver = new MockDriver(this.ram, true, RING, { packed, eventIdx });
    const [tx, rx] = [makeQueue(memory, packed), makeQueue(memory, packed)];
    tx.start(this.driver.tx.layout);
    rx.start(this.driver.rx.layout);
    this.source = new FrameSource(memory, tx);
    this.sink = new FrameSink(memory, rx);
    this.sink.mergeable = random.chance(70);
    this.#first = memory.translate(0x10_0000, SIZE);
    this.#words = new Uint32Array(memory.buffer, this.#first, SIZE / 4);
  }

  /** The rings lie at the beginning; what else is written may serve as a table. */
  scribble(): void {
    if (this.random.chance(3)) {
      // All descriptors available, each with a next one.
      const flags = this.random.below(2) === 0 ? 0x81 : 0x8001;
      for (let i = 3; i < 8 * RING; i += 4) this.#words[i] = flags << 16;
    }
    for (let i = this.random.below(6); i >= 0; i--) {
      const ring = this.random.chance(80);
      this.#words[this.random.below(ring ? 400 : SIZE / 4)] = word(this.random);
    }
  }

  step(): void {
    this.scribble();
    switch (this.random.below(4)) {
      case 0:
        return this.transmit();
      case 1:
        return this.receive();
      case 2:
        return void this.source.queue.wantNotification();
      default:
        return void this.sink.queue.wantNotification();
    }
  }

  transmit(): void {
    const copy = new DataView(new ArrayBuffer(2048));
    for (let i = 0; i <= 4 * RING; i++) {
      const result = this.source.next();
      if (result === BROKEN) this.broken++;
      if (result !== FRAME) break;
      this.frames++;
      this.scribble();
      this.source.need(this.random.below(500));
      iovecs.count = 0;
      if (this.source.pieces <= iovecs.capacity) {
        this.source.appendPayload(0, this.source.length, iovecs);
      }
      this.#inside();
      this.source.copyFrame(copy);
    }
    this.source.flush();
  }

  receive(): void {
    const { sink, random } = this;
    sink.begin();
    iovecs.count = 0;
    const sizes: number[] = [];
    while (sizes.length < 6) {
      const wanted = random.below(random.chance(20) ? 60_000 : 1500);
      const fits = sink.reserve(54, wanted, iovecs);
      if (fits < 0) break;
      sizes.push(fits);
      this.scribble();
    }
    this.#inside();
    const frames = random.below(sizes.length + 1);
    for (let i = 0; i < frames; i++) {
      const last = i + 1 === frames;
      const payload = last ? random.below(sizes[i] + 1) : sizes[i];
      sink.commit(i, 54, payload, random.chance(50) ? 34 : 0, 16, 0, 0);
      this.frames++;
    }
    sink.end();
    sink.flush();
    if (sink.broken) this.broken++;
    sink.broken = false;
  }

  /** Every address that a system call would get lies in guest memory. */
  #inside(): void {
    const first = memory.base + this.#first;
    for (let i = 0; i < iovecs.count; i++) {
      const at = iovecs.baseOf(i);
      assert(at >= first && at + iovecs.lengthOf(i) <= first + SIZE, "outside");
    }
  }
}

for (const packed of [false, true]) {
  const form = packed ? "packed" : "split";
  Deno.test(`a ${form} ring that changes while it is read harms nobody`, () => {
    const totals = { frames: 0, broken: 0, bad: 0 };
    for (let seed = 0, states = 0; states < STATES; seed++) {
      const guest = new HostileGuest(new Random(seed), packed);
      try {
        guest.driver.post(6, 100 + guest.random.below(2000));
        guest.driver.send(new Uint8Array(60), [12, 20]);
        for (let i = 0; i < LIFE && guest.broken === 0; i++, states++) guest.step();
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      } finally {
        guest.ram.close();
      }
      totals.frames += guest.frames;
      totals.broken += guest.broken;
      totals.bad += guest.source.badChains + guest.sink.badChains;
    }
    // The states must be such that all of it happens.
    for (const [name, count] of Object.entries(totals)) {
      assert(count > STATES / 1000, `${name}: ${count}`);
    }
    const good = new HostileGuest(new Random(0), packed);
    good.driver.send(new Uint8Array(60).fill(7), [12, 20]);
    assertEquals([good.source.next(), good.source.length], [FRAME, 60]);
    good.ram.close();
  });
}
