/** The device's side of a packed ring against drivers that write whatever they like. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { PackedQueue } from "../../src/virtio/packed_queue.ts";
import {
  CHAIN_BAD,
  MAX_SEGMENTS,
  QUEUE_BROKEN,
  QUEUE_EMPTY,
  Segments,
} from "../../src/virtio/virtqueue.ts";
import { GuestRam, type Piece } from "../support/mock_driver.ts";
import { PackedDriverRing } from "../support/packed_driver.ts";
import { memory, piece, RING, withRing } from "../support/packed_world.ts";
import { anyAddress, anyLength } from "../support/ring_checks.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
/** Available, and used, in the first round (2.8.1). */
const AVAIL = 0x80;
const USED = 0x8000;

const { describe } = PackedDriverRing;

/** A descriptor that is wrong, or right by chance. */
const descriptor = fc.record({
  address: anyAddress,
  length: anyLength,
  id: fc.oneof(fc.nat(RING), fc.nat(0xffff)),
  flags: fc.oneof(
    fc.constantFrom(0, 1, 2, 3, 4, 5, 6).map((flags) => flags | AVAIL),
    fc.constantFrom(0, 1, 2, 3, 4, 5, 6).map((flags) => flags | USED),
    fc.nat(0xffff),
  ),
});
type Descriptor = typeof descriptor extends fc.Arbitrary<infer T> ? T : never;

function write(table: DataView, descriptors: readonly Descriptor[]): void {
  descriptors.forEach(({ address, length, id, flags }, i) => {
    table.setBigUint64(i * 16, BigInt(address), true);
    table.setUint32(i * 16 + 8, length, true);
    table.setUint16(i * 16 + 12, id, true);
    table.setUint16(i * 16 + 14, flags, true);
  });
}

function inside(ram: GuestRam, offset: number, length: number): boolean {
  return ram.regions.some(({ address, size }) => {
    const first = memory.translate(address, size);
    return offset >= first && offset + length <= first + size;
  });
}

const action = fc.constantFrom(
  "take",
  "take",
  "take",
  "untake",
  "use",
  "publish",
  "want",
);
const place = fc.record({ index: fc.nat(RING - 1), wrap: fc.boolean() });

Deno.test("take() of hostile rings never throws, nor leaves guest memory", () => {
  fc.assert(
    fc.property(
      fc.array(descriptor, { minLength: RING, maxLength: RING }),
      fc.array(descriptor, { minLength: 16, maxLength: 16 }),
      // What the guest writes while the device is at it.
      fc.array(fc.record({ action, at: fc.nat(RING - 1), descriptor }), {
        maxLength: 60,
        size: "max",
      }),
      place,
      fc.boolean(),
      (table, indirect, steps, start, writable) => {
        const ram = new GuestRam(memory);
        try {
          write(ram.view(ram.take(0x200), 0x200), indirect);
          const ring = new PackedDriverRing(ram, RING);
          write(ring.descriptors, table);
          const queue = new PackedQueue(memory);
          const base = start.index + (start.wrap ? 0x8000 : 0);
          queue.start({ ...ring.layout, baseIndex: base });
          hostile(ram, ring, queue, steps, writable);
        } finally {
          ram.close();
        }
      },
    ),
    { numRuns: 2000 },
  );
});

interface HostileStep {
  readonly action: string;
  readonly at: number;
  readonly descriptor: Descriptor;
}

function hostile(
  ram: GuestRam,
  ring: PackedDriverRing,
  queue: PackedQueue,
  steps: readonly HostileStep[],
  writable: boolean,
): void {
  const segments = new Segments();
  const heads: number[] = [];
  for (const { action, at, descriptor } of steps) {
    switch (action) {
      case "take": {
        segments.count = 0;
        const result = queue.take(segments, writable);
        assertEquals(segments.count, Math.max(0, result));
        if (result === QUEUE_BROKEN) assertEquals(queue.running, false);
        if (result > 0 || result === CHAIN_BAD) heads.push(queue.head);
        for (let i = 0; i < segments.count; i++) {
          const { [i]: offset } = segments.offset;
          assert(inside(ram, offset, segments.length[i]));
        }
        assert(heads.length <= RING, "more chains in flight than descriptors");
        break;
      }
      case "untake": {
        const count = Math.min(2, heads.length);
        heads.splice(heads.length - count);
        queue.untake(count);
        break;
      }
      case "use":
        if (heads.length > 0) queue.putUsed(heads.shift()!, 5);
        break;
      case "publish":
        queue.publish();
        break;
      case "want":
        queue.wantNotification();
    }
    const { layout, descriptors } = ring;
    assertEquals(layout.size, RING);
    write(new DataView(descriptors.buffer, descriptors.byteOffset + 16 * at, 16), [
      descriptor,
    ]);
  }
}

/** A table of `count` right descriptors. */
function table(ram: GuestRam, count: number): Piece {
  const whole = { address: ram.take(count * 16), length: count * 16 };
  const view = ram.view(whole.address, whole.length);
  const data = piece(ram);
  for (let i = 0; i < count; i++) describe(view, i, data, 0, 0);
  return whole;
}

/** Chains that the specification forbids, alone in a ring; how many descriptors each has. */
const FORBIDDEN: Record<string, (ring: PackedDriverRing, ram: GuestRam) => number> = {
  "a writable descriptor among readable ones": ({ descriptors }, ram) => {
    describe(descriptors, 0, piece(ram), 0, AVAIL | NEXT);
    describe(descriptors, 1, piece(ram), 7, AVAIL | WRITE);
    return 2;
  },
  "an empty descriptor": ({ descriptors }, ram) => {
    describe(descriptors, 0, { address: ram.take(16), length: 0 }, 0, AVAIL | NEXT);
    describe(descriptors, 1, piece(ram), 7, AVAIL);
    return 2;
  },
  "memory that ends too soon": ({ descriptors }) => {
    describe(descriptors, 0, { address: 0x90_0000 - 8, length: 16 }, 7, AVAIL);
    return 1;
  },
  "memory at the end of all addresses": ({ descriptors }) => {
    describe(descriptors, 0, { address: 0, length: 16 }, 7, AVAIL);
    descriptors.setBigUint64(0, 2n ** 64n - 8n, true);
    return 1;
  },
  "a table in a list": ({ descriptors }, ram) => {
    describe(descriptors, 0, piece(ram), 0, AVAIL | NEXT);
    describe(descriptors, 1, table(ram, 1), 7, AVAIL | INDIRECT);
    return 2;
  },
  "a table that goes on in a list": ({ descriptors }, ram) => {
    describe(descriptors, 0, table(ram, 1), 0, AVAIL | INDIRECT | NEXT);
    describe(descriptors, 1, piece(ram), 7, AVAIL);
    return 2;
  },
  "a table of no whole number of descriptors": ({ descriptors }, ram) => {
    const odd = { ...table(ram, 2), length: 31 };
    describe(descriptors, 0, odd, 7, AVAIL | INDIRECT);
    return 1;
  },
  "a table without descriptors": ({ descriptors }, ram) => {
    const empty = { ...table(ram, 1), length: 0 };
    describe(descriptors, 0, empty, 7, AVAIL | INDIRECT);
    return 1;
  },
  "a table outside guest memory": ({ descriptors }) => {
    const outside = { address: 0x90_0000, length: 16 };
    describe(descriptors, 0, outside, 7, AVAIL | INDIRECT);
    return 1;
  },
  "a writable descriptor in a readable table": ({ descriptors }, ram) => {
    const mixed = table(ram, 2);
    describe(ram.view(mixed.address, 32), 1, piece(ram), 0, WRITE);
    describe(descriptors, 0, mixed, 7, AVAIL | INDIRECT);
    return 1;
  },
  "more descriptors than one system call takes": ({ descriptors }, ram) => {
    describe(descriptors, 0, table(ram, MAX_SEGMENTS + 1), 7, AVAIL | INDIRECT);
    return 1;
  },
};

for (const [name, make] of Object.entries(FORBIDDEN)) {
  Deno.test(`take() refuses ${name} and goes on with the next chain`, () => {
    withRing({}, (ring, queue, ram) => {
      const count = make(ring, ram);
      describe(ring.descriptors, count, piece(ram), 9, AVAIL);
      const segments = new Segments();
      assertEquals([queue.take(segments, false), queue.head], [CHAIN_BAD, 0]);
      assertEquals(segments.count, 0);
      const bad = queue.head;
      assertEquals([queue.take(segments, false), queue.head], [1, count]);
      const good = queue.head;
      queue.putUsed(bad, 0);
      queue.putUsed(good, 0);
      queue.publish();
      const ids = [0, count].map((at) => [
        ring.descriptors.getUint16(16 * at + 12, true),
        ring.descriptors.getUint16(16 * at + 14, true),
      ]);
      assertEquals(ids, [[7, AVAIL | USED], [9, AVAIL | USED]]);
    });
  });
}

Deno.test("a table's flags other than WRITE and its ids do not count (2.8.7)", () => {
  withRing({}, (ring, queue, ram) => {
    const whole = table(ram, 3);
    const view = ram.view(whole.address, whole.length);
    for (let i = 0; i < 3; i++) describe(view, i, piece(ram), 0xffff, 0xffff & ~WRITE);
    describe(ring.descriptors, 0, whole, 3, AVAIL | INDIRECT);
    assertEquals(queue.take(new Segments(), false), 3);
  });
});

const BREAKING: Record<string, (ring: PackedDriverRing, queue: PackedQueue) => void> = {
  "a chain without an end": (ring) => {
    const { regions: [{ address }] } = ring.ram;
    for (let i = 0; i < RING; i++) {
      describe(ring.descriptors, i, { address, length: 4 }, i, AVAIL | NEXT);
    }
  },
  "more descriptors than the ring has": (ring, queue) => {
    const { regions: [{ address }] } = ring.ram;
    const segments = new Segments();
    for (let i = 0; i < RING; i++) {
      describe(ring.descriptors, i, { address, length: 4 }, i, AVAIL);
      assertEquals(queue.take(segments, false), 1);
    }
    // Available in the next round, though nothing was used in this one.
    describe(ring.descriptors, 0, { address, length: 4 }, 0, USED);
  },
  "a chain that reaches those in flight": (ring, queue) => {
    const { regions: [{ address }] } = ring.ram;
    const segments = new Segments();
    describe(ring.descriptors, 0, { address, length: 4 }, 0, AVAIL);
    assertEquals(queue.take(segments, false), 1);
    for (let i = 1; i < RING; i++) {
      describe(ring.descriptors, i, { address, length: 4 }, i, AVAIL | NEXT);
    }
    describe(ring.descriptors, 0, { address, length: 4 }, 0, USED);
  },
};

for (const [name, spoil] of Object.entries(BREAKING)) {
  Deno.test(`${name}: the ring is broken until it is started again`, () => {
    withRing({}, (ring, queue) => {
      spoil(ring, queue);
      const segments = new Segments();
      assertEquals(queue.take(segments, false), QUEUE_BROKEN);
      assertEquals([segments.count, queue.running], [0, false]);
      assertEquals(queue.take(segments, false), QUEUE_EMPTY);
      assertEquals(queue.wantNotification(), false);
      queue.stop();
      queue.start(ring.layout);
      assertEquals(queue.running, true);
    });
  });
}
