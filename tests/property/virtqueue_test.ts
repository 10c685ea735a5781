/**
 * What holds of a ring in either form: chains of all shapes go through in order, whatever
 * is taken, put back, used and shown in between, and no notification is lost.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { PackedQueue } from "../../src/virtio/packed_queue.ts";
import { SplitQueue } from "../../src/virtio/split_queue.ts";
import { QUEUE_EMPTY, Segments, type Virtqueue } from "../../src/virtio/virtqueue.ts";
import { DriverRing, GuestRam, type GuestRing } from "../support/mock_driver.ts";
import { PackedDriverRing } from "../support/packed_driver.ts";

const memory = new GuestMemory(2 ** 34);

interface Form {
  readonly name: string;
  readonly sizes: readonly number[];
  readonly make: (ram: GuestRam, size: number, options: Options) => GuestRing;
  readonly queue: () => Virtqueue;
}

interface Options {
  readonly start: number;
  readonly eventIdx: boolean;
}

const FORMS: readonly Form[] = [{
  name: "split",
  sizes: [1, 2, 4, 16],
  make: (ram, size, options) => new DriverRing(ram, size, options),
  queue: () => new SplitQueue(memory),
}, {
  name: "packed",
  sizes: [1, 2, 3, 5, 7, 16, 100],
  make: (ram, size, options) => new PackedDriverRing(ram, size, options),
  queue: () => new PackedQueue(memory),
}];

interface Offered {
  readonly id: number;
  readonly bytes: readonly number[];
}

/** A driver, a device, and what either of them knows to be in the ring. */
class World {
  readonly ring: GuestRing;
  queue: Virtqueue;
  readonly segments = new Segments();
  /** Made available and not taken; taken and not used; used and not shown; shown. */
  offered: Offered[] = [];
  taken: (Offered & { head: number })[] = [];
  used: { id: number; length: number }[] = [];
  shown: { id: number; length: number }[] = [];
  #counter = 0;

  constructor(
    readonly ram: GuestRam,
    readonly form: Form,
    size: number,
    options: Options,
    readonly writable: boolean,
  ) {
    this.ring = form.make(ram, size, options);
    this.queue = form.queue();
    this.queue.start(this.ring.layout);
  }

  offer(lengths: readonly number[], indirect: boolean): void {
    if ((indirect ? 1 : lengths.length) > this.ring.free) return;
    const bytes: number[] = [];
    const pieces = lengths.map((length) => {
      const address = this.ram.take(length, 1);
      const content = Array.from({ length }, () => this.#counter++ & 255);
      this.ram.bytes(address, length).set(content);
      bytes.push(...content);
      return { address, length };
    });
    this.offered.push({ id: this.ring.offer(pieces, this.writable, indirect), bytes });
  }

  take(): void {
    this.segments.count = 0;
    const result = this.queue.take(this.segments, this.writable);
    const expected = this.offered.shift();
    if (expected === undefined) return assertEquals(result, QUEUE_EMPTY);
    assert(result > 0, `${result}, expected a chain`);
    const bytes = Array.from({ length: result }, (_, i) => {
      const { [i]: offset } = this.segments.offset;
      return [...new Uint8Array(memory.buffer, offset, this.segments.length[i])];
    }).flat();
    assertEquals([bytes, this.queue.chainLength], [expected.bytes, bytes.length]);
    this.taken.push({ ...expected, head: this.queue.head });
  }

  untake(count: number): void {
    const back = Math.min(count, this.taken.length);
    this.queue.untake(back);
    this.offered.unshift(...this.taken.splice(this.taken.length - back));
  }

  use(part: number): void {
    const chain = this.taken.shift();
    if (chain === undefined) return;
    const length = this.writable ? Math.floor(chain.bytes.length * part) : 0;
    this.queue.putUsed(chain.head, length);
    this.used.push({ id: chain.id, length });
  }

  publish(): void {
    const before = this.used.length;
    const told = this.queue.publish();
    if (before === 0) assertEquals(told, false);
    this.shown.push(...this.used.splice(0));
  }

  reap(): void {
    assertEquals(this.ring.reap(), this.shown.splice(0));
  }

  /** The queue is stopped, and goes on in another process or another host. */
  restart(): void {
    this.untake(this.taken.length);
    this.publish();
    const baseIndex = this.queue.stop();
    this.queue = this.form.queue();
    this.queue.start({ ...this.ring.layout, baseIndex });
  }
}

const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("offer" as const),
      lengths: fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 5 }),
      indirect: fc.boolean(),
    }),
  },
  { weight: 5, arbitrary: fc.record({ op: fc.constant("take" as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("untake" as const),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("use" as const),
      part: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("publish" as const) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("reap" as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("want" as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("restart" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

function perform(world: World, step: Step): void {
  switch (step.op) {
    case "offer":
      return world.offer(step.lengths, step.indirect);
    case "use":
      return world.use(step.part);
    case "untake":
      return world.untake(step.count);
    case "want":
      return void world.queue.wantNotification();
    default:
      return world[step.op]();
  }
}

for (const form of FORMS) {
  Deno.test(`chains go through a ${form.name} ring in order, whatever is done`, () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 120, size: "max" }),
        fc.constantFrom(...form.sizes),
        fc.oneof(fc.nat(40), fc.integer({ min: 65520, max: 65535 })),
        fc.boolean(),
        fc.boolean(),
        (steps, size, start, writable, eventIdx) => {
          const ram = new GuestRam(memory);
          try {
            const world = new World(ram, form, size, { start, eventIdx }, writable);
            for (const step of steps) perform(world, step);
            world.publish();
            world.reap();
          } finally {
            ram.close();
          }
        },
      ),
      { numRuns: 400 },
    );
  });

  Deno.test(`what comes while the device asks to be told is seen, ${form.name}`, () => {
    const ram = new GuestRam(memory);
    const { store } = Atomics;
    try {
      const world = new World(ram, form, 4, { start: 0, eventIdx: true }, true);
      world.take();
      Atomics.store = ((array: Int32Array<ArrayBuffer>, at: number, value: number) => {
        // The driver has read what the device wished for before.
        world.offer([4], false);
        return store(array, at, value);
      }) as typeof store;
      assertEquals(world.queue.wantNotification(), true);
    } finally {
      Atomics.store = store;
      ram.close();
    }
  });

  for (const eventIdx of [false, true]) {
    const how = eventIdx ? "with" : "without";
    Deno.test(`no kick is lost, ${form.name}, ${how} EVENT_IDX`, () => {
      const round = fc.record({
        offers: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 6 }),
        /** Chains that the device needs at once, or gives back all it took. */
        batch: fc.integer({ min: 1, max: 4 }),
        decline: fc.boolean(),
        /** Comes in after the device has looked and before it asks to be told. */
        late: fc.boolean(),
        /** The device gives up without having looked at all there is. */
        lazy: fc.boolean(),
      });
      fc.assert(fc.property(
        fc.array(round, { maxLength: 80, size: "max" }),
        fc.constantFrom(...form.sizes.filter((size) => size >= 3)),
        fc.nat(40),
        (rounds, size, start) => {
          const ram = new GuestRam(memory);
          try {
            const world = new World(ram, form, size, { start, eventIdx }, true);
            kicks(world, rounds);
          } finally {
            ram.close();
          }
        },
      ));
    });
  }
}

interface Round {
  readonly offers: readonly number[];
  readonly batch: number;
  readonly decline: boolean;
  readonly late: boolean;
  readonly lazy: boolean;
}

/**
 * The device sleeps once it was told that nothing more has come. It must be kicked by the
 * very next chain, however many were left in the ring because they were too few.
 */
function kicks(world: World, rounds: readonly Round[]): void {
  let asleep = false;
  for (const { offers, batch, decline, late, lazy } of rounds) {
    for (const pieces of offers) {
      const kicked = offerOne(world, pieces);
      if (kicked === undefined) continue;
      if (asleep) assert(kicked, "the device sleeps and is not kicked");
      if (kicked) asleep = false;
    }
    if (asleep) continue;
    if (decline) world.queue.declineNotification();
    for (let turn = 0;; turn++) {
      assert(turn <= world.ring.size + 1, "the device is told of the same for ever");
      look(world, batch, lazy);
      const kicked = late && turn === 0 ? offerOne(world, 1) : undefined;
      const more = world.queue.wantNotification();
      if (kicked === false) assert(more, "neither kicked nor seen");
      if (!more) break;
    }
    asleep = true;
    world.publish();
    world.reap();
  }
}

/** Whether one more chain made the driver kick; undefined if there is no room for it. */
function offerOne(world: World, pieces: number): boolean | undefined {
  const before = world.offered.length;
  world.offer(new Array<number>(pieces).fill(4), false);
  return world.offered.length === before ? undefined : world.ring.needsKick();
}

/** As a sink does that needs several buffers for a frame: too few go back. */
function look(world: World, batch: number, lazy: boolean): void {
  if (lazy) {
    if (world.offered.length === 0) return world.take();
    world.take();
    return world.untake(1);
  }
  while (world.offered.length >= batch) {
    for (let i = 0; i < batch; i++) world.take();
    while (world.taken.length > 0) world.use(1);
  }
  const left = world.offered.length;
  for (let i = 0; i < left; i++) world.take();
  world.take();
  world.untake(left);
}
