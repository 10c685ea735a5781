/**
 * The device's side of a split ring against a driver written from the specification, and
 * against drivers that write whatever they like.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { SplitQueue } from "../../src/virtio/split_queue.ts";
import {
  CHAIN_BAD,
  MAX_SEGMENTS,
  QUEUE_BROKEN,
  QUEUE_EMPTY,
  Segments,
} from "../../src/virtio/virtqueue.ts";
import {
  DESC_F_INDIRECT,
  DESC_F_NEXT,
  DESC_F_WRITE,
  DriverRing,
  GuestRam,
  type Piece,
  type RingOptions,
} from "../support/mock_driver.ts";
import { anyAddress, anyLength, markedBy } from "../support/ring_checks.ts";

const memory = new GuestMemory(2 ** 34);
const RING = 16;

function withRing(
  options: RingOptions & { readonly size?: number },
  body: (ring: DriverRing, queue: SplitQueue, ram: GuestRam) => void,
): void {
  const ram = new GuestRam(memory);
  try {
    const ring = new DriverRing(ram, options.size ?? RING, options);
    const queue = new SplitQueue(memory);
    queue.start(ring.layout);
    body(ring, queue, ram);
  } finally {
    ram.close();
  }
}

/** Everything that the segments stand for, in order. */
function gather(segments: Segments, from: number): number[] {
  const bytes: number[] = [];
  for (let i = from; i < segments.count; i++) {
    const { [i]: offset } = segments.offset;
    bytes.push(...new Uint8Array(memory.buffer, offset, segments.length[i]));
  }
  return bytes;
}

/** Pieces of guest memory with content. */
function fill(ram: GuestRam, parts: readonly Uint8Array[]): Piece[] {
  return parts.map((part) => {
    const address = ram.take(part.length, 1);
    ram.bytes(address, part.length).set(part);
    return { address, length: part.length };
  });
}

const chain = fc.record({
  parts: fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), {
    minLength: 1,
    maxLength: 6,
  }),
  indirect: fc.boolean(),
});

Deno.test("take() gives the bytes of chains of any shape, in order, across the wrap", () => {
  fc.assert(fc.property(
    fc.array(chain, { minLength: 1, maxLength: 40 }),
    fc.constantFrom(0, 65530, 65535),
    fc.boolean(),
    (chains, start, writable) => {
      withRing({ start }, (ring, queue, ram) => {
        const segments = new Segments();
        for (const { parts, indirect } of chains) {
          const head = ring.offer(fill(ram, parts), writable, indirect);
          segments.count = 0;
          assertEquals(queue.take(segments, writable), parts.length);
          assertEquals(queue.head, head);
          assertEquals(gather(segments, 0), parts.flatMap((part) => [...part]));
          assertEquals(queue.chainLength, parts.flatMap((part) => [...part]).length);
          assertEquals(queue.take(segments, writable), QUEUE_EMPTY);
          queue.putUsed(head, parts.length);
          assertEquals(ring.reap(), []);
          queue.publish();
          assertEquals(ring.reap(), [{ id: head, length: parts.length }]);
        }
        assertEquals(queue.stop(), ring.next);
      });
    },
  ));
});

Deno.test("take() fills the segments with several chains, untake() puts them back", () => {
  withRing({ start: 65534 }, (ring, queue, ram) => {
    const parts = [1, 2, 3, 4].map((i) => new Uint8Array(i).fill(i));
    const heads = parts.map((part) => ring.offer(fill(ram, [part]), false));
    const segments = new Segments();
    for (const head of heads) {
      assertEquals(queue.take(segments, false), 1);
      assertEquals(queue.head, head);
    }
    assertEquals(gather(segments, 2), [3, 3, 3, 4, 4, 4, 4]);
    queue.untake(3);
    assertEquals(queue.nextIndex, 65535);
    segments.count = 0;
    assertEquals(queue.take(segments, false), 1);
    assertEquals([queue.head, gather(segments, 0)], [heads[1], [2, 2]]);
  });
});

/** A descriptor that is wrong, or right by chance. */
const descriptor = fc.record({
  address: anyAddress,
  length: anyLength,
  flags: fc.oneof(fc.constantFrom(0, 1, 2, 3, 4, 5), fc.nat(0xffff)),
  next: fc.oneof(fc.nat(RING), fc.nat(0xffff)),
});
type Descriptor = typeof descriptor extends fc.Arbitrary<infer T> ? T : never;

function write(table: DataView, descriptors: readonly Descriptor[]): void {
  descriptors.forEach(({ address, length, flags, next }, i) => {
    const at = i * 16;
    table.setBigUint64(at, BigInt(address), true);
    table.setUint32(at + 8, length, true);
    table.setUint16(at + 12, flags, true);
    table.setUint16(at + 14, next, true);
  });
}

/** Whether bytes of the view lie within one region of guest memory. */
function inside(ram: GuestRam, offset: number, length: number): boolean {
  return ram.regions.some(({ address, size }) => {
    const first = memory.translate(address, size);
    return offset >= first && offset + length <= first + size;
  });
}

Deno.test("take() of hostile tables never throws, nor leaves guest memory", () => {
  fc.assert(
    fc.property(
      fc.array(descriptor, { minLength: RING, maxLength: RING }),
      // The same bytes serve as indirect tables, at the addresses that occur above.
      fc.array(descriptor, { minLength: 16, maxLength: 16 }),
      fc.array(fc.oneof(fc.nat(RING - 1), fc.nat(0xffff)), {
        minLength: RING,
        maxLength: RING,
      }),
      fc.oneof(fc.nat(RING), fc.nat(0xffff)),
      fc.boolean(),
      (table, indirect, entries, index, writable) => {
        const ram = new GuestRam(memory);
        try {
          write(ram.view(ram.take(0x200), 0x200), indirect);
          const ring = new DriverRing(ram, RING);
          write(ring.descriptors, table);
          entries.forEach((head, i) => ring.available.setUint16(4 + 2 * i, head, true));
          ring.available.setUint16(2, index, true);
          const queue = new SplitQueue(memory);
          queue.start(ring.layout);
          drain(ram, queue, writable, index > RING);
        } finally {
          ram.close();
        }
      },
    ),
    { numRuns: 2000 },
  );
});

/** Takes all there is, at most one ring full. */
function drain(ram: GuestRam, queue: SplitQueue, writable: boolean, broken: boolean) {
  const segments = new Segments();
  let taken = 0;
  for (let result = 1; result !== QUEUE_EMPTY; taken++) {
    const before = segments.count = taken % 3 === 0 ? 0 : Math.min(segments.count, 1000);
    result = queue.take(segments, writable);
    assert(result >= QUEUE_BROKEN && taken <= RING, `${result} after ${taken}`);
    assertEquals(segments.count, before + Math.max(0, result));
    let sum = 0;
    for (let i = before; i < segments.count; i++) {
      const { [i]: offset } = segments.offset;
      assert(inside(ram, offset, segments.length[i]), `${offset}+${segments.length[i]}`);
      sum += segments.length[i];
    }
    if (result > 0) assertEquals(queue.chainLength, sum);
    if (result === QUEUE_BROKEN) {
      assertEquals(queue.running, false);
      assertEquals(queue.take(segments, writable), QUEUE_EMPTY);
      return;
    }
  }
  assert(!broken, "an index beyond the ring was believed");
}

/** Chains that the specification forbids, alone in a ring. */
const FORBIDDEN: Record<string, (ring: DriverRing, ram: GuestRam) => void> = {
  "a loop": (ring, ram) => {
    const piece = { address: ram.take(16), length: 16 };
    DriverRing.describe(ring.descriptors, 0, piece, DESC_F_NEXT, 1);
    DriverRing.describe(ring.descriptors, 1, piece, DESC_F_NEXT, 0);
  },
  "a next beyond the table": (ring, ram) => {
    const piece = { address: ram.take(16), length: 16 };
    DriverRing.describe(ring.descriptors, 0, piece, DESC_F_NEXT, RING);
  },
  "a writable descriptor among readable ones": (ring, ram) => {
    const piece = { address: ram.take(16), length: 16 };
    DriverRing.describe(ring.descriptors, 0, piece, DESC_F_NEXT, 1);
    DriverRing.describe(ring.descriptors, 1, piece, DESC_F_WRITE, 0);
  },
  "an empty descriptor": (ring, ram) => {
    const piece = { address: ram.take(16), length: 0 };
    DriverRing.describe(ring.descriptors, 0, piece, 0, 0);
  },
  "memory that ends too soon": (ring) => {
    const piece = { address: 0x90_0000 - 8, length: 16 };
    DriverRing.describe(ring.descriptors, 0, piece, 0, 0);
  },
  "a chain of 2 GiB": (ring) => {
    const piece = { address: 0x10_0000, length: 0x80_0000 };
    const all = Array.from({ length: 300 }, () => piece);
    const address = 0x80_0000;
    const table = ring.ram.view(address, all.length * 16);
    all.forEach((piece, i) => DriverRing.describe(table, i, piece, DESC_F_NEXT, i + 1));
    DriverRing.describe(table, all.length - 1, piece, 0, 0);
    const whole = { address, length: all.length * 16 };
    DriverRing.describe(ring.descriptors, 0, whole, DESC_F_INDIRECT, 0);
  },
  "an indirect table that goes on": (ring, ram) => {
    const table = indirect(ram, 1);
    DriverRing.describe(ring.descriptors, 0, table, DESC_F_INDIRECT | DESC_F_NEXT, 1);
    DriverRing.describe(ring.descriptors, 1, table, 0, 0);
  },
  "an indirect table in an indirect table": (ring, ram) => {
    const table = indirect(ram, 1);
    const outer = { address: ram.take(16), length: 16 };
    DriverRing.describe(ram.view(outer.address, 16), 0, table, DESC_F_INDIRECT, 0);
    DriverRing.describe(ring.descriptors, 0, outer, DESC_F_INDIRECT, 0);
  },
  "an indirect table of no whole number of descriptors": (ring, ram) => {
    const table = indirect(ram, 1);
    const odd = { ...table, length: table.length + 1 };
    DriverRing.describe(ring.descriptors, 0, odd, DESC_F_INDIRECT, 0);
  },
  "a next beyond the indirect table": (ring, ram) => {
    // What lies beyond would do, were it looked at.
    const table = indirect(ram, 3);
    const cut = { ...table, length: 32 };
    DriverRing.describe(ram.view(table.address, 16), 0, table, DESC_F_NEXT, 2);
    DriverRing.describe(ring.descriptors, 0, cut, DESC_F_INDIRECT, 0);
  },
  "an indirect table without descriptors": (ring, ram) => {
    const empty = { ...indirect(ram, 1), length: 0 };
    DriverRing.describe(ring.descriptors, 0, empty, DESC_F_INDIRECT, 0);
  },
  "an indirect table outside guest memory": (ring) => {
    const table = { address: 0x90_0000, length: 16 };
    DriverRing.describe(ring.descriptors, 0, table, DESC_F_INDIRECT, 0);
  },
  "more descriptors than one system call takes": (ring, ram) => {
    const table = indirect(ram, MAX_SEGMENTS + 1);
    DriverRing.describe(ring.descriptors, 0, table, DESC_F_INDIRECT, 0);
  },
};

/** A table of `count` right descriptors. */
function indirect(ram: GuestRam, count: number): Piece {
  const table = { address: ram.take(count * 16), length: count * 16 };
  const view = ram.view(table.address, table.length);
  const piece = { address: ram.take(16), length: 16 };
  for (let i = 0; i < count; i++) {
    const last = i + 1 === count;
    DriverRing.describe(view, i, piece, last ? 0 : DESC_F_NEXT, last ? 0 : i + 1);
  }
  return table;
}

for (const [name, make] of Object.entries(FORBIDDEN)) {
  Deno.test(`take() refuses ${name} and goes on with the next chain`, () => {
    withRing({}, (ring, queue, ram) => {
      make(ring, ram);
      ring.available.setUint16(4, 0, true);
      const piece = { address: ram.take(4), length: 4 };
      DriverRing.describe(ring.descriptors, 9, piece, 0, 0);
      ring.available.setUint16(6, 9, true);
      ring.available.setUint16(2, 2, true);
      const segments = new Segments();
      assertEquals([queue.take(segments, false), queue.head], [CHAIN_BAD, 0]);
      assertEquals(segments.count, 0);
      assertEquals([queue.take(segments, false), queue.head], [1, 9]);
    });
  });
}

Deno.test("take() follows a descriptor from one region into the next, not into a gap", () => {
  const regions = [
    { address: 0x10_0000, size: 0x1_0000 },
    { address: 0x11_0000, size: 0x1_0000 },
    { address: 0x13_0000, size: 0x1_0000 },
  ];
  const ram = new GuestRam(memory, regions);
  try {
    const ring = new DriverRing(ram, RING);
    ram.bytes(0x11_0000 - 4, 4).set([1, 2, 3, 4]);
    ram.bytes(0x11_0000, 4).set([5, 6, 7, 8]);
    ring.offer([{ address: 0x11_0000 - 4, length: 8 }], false);
    ring.offer([{ address: 0x12_0000 - 4, length: 8 }], false);
    ring.offer([{ address: 0x13_0000 - 4, length: 8 }], false);
    const queue = new SplitQueue(memory);
    queue.start(ring.layout);
    const segments = new Segments();
    assertEquals(queue.take(segments, false), 2);
    assertEquals(gather(segments, 0), [1, 2, 3, 4, 5, 6, 7, 8]);
    assertEquals(queue.take(segments, false), CHAIN_BAD);
    assertEquals(queue.take(segments, false), CHAIN_BAD);
    assertEquals(segments.count, 2);
  } finally {
    ram.close();
  }
});

Deno.test("take() reads addresses above 4 GiB, of data and of indirect tables", () => {
  const high = 0x123_4567_8000;
  const regions = [
    { address: 0x10_0000, size: 0x1_0000 },
    { address: high, size: 0x1_0000 },
  ];
  const ram = new GuestRam(memory, regions);
  try {
    const ring = new DriverRing(ram, RING);
    const piece = { address: high + 0x1000, length: 3 };
    ram.bytes(piece.address, 3).set([7, 8, 9]);
    ring.offer([piece], false);
    DriverRing.describe(ram.view(high, 16), 0, piece, 0, 0);
    ring.offer([{ address: high, length: 16 }], false);
    DriverRing.describe(
      ring.descriptors,
      1,
      { address: high, length: 16 },
      DESC_F_INDIRECT,
      0,
    );
    const queue = new SplitQueue(memory);
    queue.start(ring.layout);
    const segments = new Segments();
    assertEquals([queue.take(segments, false), queue.take(segments, false)], [1, 1]);
    assertEquals(gather(segments, 0), [7, 8, 9, 7, 8, 9]);
  } finally {
    ram.close();
  }
});

Deno.test("take() refuses what does not fit the segments any more", () => {
  withRing({}, (ring, queue, ram) => {
    const table = indirect(ram, MAX_SEGMENTS);
    for (let i = 0; i < 3; i++) {
      DriverRing.describe(ring.descriptors, i, table, DESC_F_INDIRECT, 0);
      ring.available.setUint16(4 + 2 * i, i, true);
    }
    ring.available.setUint16(2, 3, true);
    const segments = new Segments();
    assertEquals(queue.take(segments, false), MAX_SEGMENTS);
    assertEquals(queue.take(segments, false), MAX_SEGMENTS);
    assertEquals(queue.take(segments, false), CHAIN_BAD);
    assertEquals(segments.count, 2 * MAX_SEGMENTS);
  });
});

for (const wrong of ["index", "descriptor"] as const) {
  Deno.test(`a ring with a wrong ${wrong} is broken until it is started again`, () => {
    withRing({}, (ring, queue, ram) => {
      ring.offer(fill(ram, [new Uint8Array(4)]), false);
      if (wrong === "index") ring.available.setUint16(2, RING + 1, true);
      else ring.available.setUint16(4, RING, true);
      const segments = new Segments();
      assertEquals(queue.take(segments, false), QUEUE_BROKEN);
      ring.available.setUint16(2, 1, true);
      ring.available.setUint16(4, 0, true);
      assertEquals(queue.take(segments, false), QUEUE_EMPTY);
      assertEquals(queue.wantNotification(), false);
      queue.stop();
      queue.start(ring.layout);
      assertEquals(queue.running, true);
    });
  });
}

Deno.test("a stopped ring is empty, though it had more, and not broken", () => {
  withRing({}, (ring, queue, ram) => {
    const segments = new Segments();
    for (let i = 0; i < 3; i++) ring.offer(fill(ram, [Uint8Array.of(i)]), false);
    assertEquals(queue.take(segments, false), 1);
    assertEquals(queue.stop(), 1);
    segments.count = 0;
    assertEquals(queue.take(segments, false), QUEUE_EMPTY);
    assertEquals(queue.nextIndex, 1);
  });
});

Deno.test("what is written to a logged ring is marked in the dirty log", () => {
  withRing({ eventIdx: true }, (ring, queue, ram) => {
    const used = ring.layout.usedLogAddress;
    const marks = markedBy(memory, () => {
      const head = ring.offer(fill(ram, [new Uint8Array(4)]), true);
      queue.take(new Segments(), true);
      queue.putUsed(head, 4);
      queue.publish();
      queue.wantNotification();
    });
    // used.ring[0], used.idx, avail_event (2.7.8)
    assertEquals(marks, [[used + 4, 8], [used + 2, 2], [used + 4 + 8 * RING, 2]]);
  });
});
