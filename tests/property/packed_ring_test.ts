/**
 * What is particular to packed rings: places and wrap counters, what is written and when,
 * and when the driver is told (virtio 1.3, section 2.8).
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { QUEUE_EMPTY, Segments } from "../../src/virtio/virtqueue.ts";
import type { Piece } from "../support/mock_driver.ts";
import { further, type Place } from "../support/packed_driver.ts";
import { memory, piece, RING, withRing } from "../support/packed_world.ts";
import { markedBy } from "../support/ring_checks.ts";

const NEXT = 1;
const WRITE = 2;
/** Available, and used, in the first round (2.8.1). */
const AVAIL = 0x80;
const USED = 0x8000;

Deno.test("used descriptors are as in the standard: one per buffer, the first shown last", () => {
  withRing({ size: 8, start: 6 }, (ring, queue, ram) => {
    const segments = new Segments();
    const words = (at: number) => [
      ring.descriptors.getUint32(16 * at + 8, true),
      ring.descriptors.getUint16(16 * at + 12, true),
      ring.descriptors.getUint16(16 * at + 14, true),
    ];
    const one = ring.offer([piece(ram), piece(ram), piece(ram)], true);
    const two = ring.offer([piece(ram)], true);
    const three = ring.offer([piece(ram)], true);
    const heads = [0, 0, 0].map(() => {
      assert(queue.take(segments, true) > 0);
      return queue.head;
    });
    assertEquals(heads, [6, 1, 2]);
    queue.putUsed(heads[0], 7);
    queue.putUsed(heads[1], 0);
    queue.putUsed(heads[2], 9);
    // In the second round a used descriptor has both flags off, an available one USED.
    assertEquals(words(6)[2], AVAIL | WRITE | NEXT, "not shown yet");
    assertEquals(words(1), [0, two, 0], "nothing was written into it");
    assertEquals(words(2), [9, three, WRITE]);
    assertEquals(ring.reap(), []);
    queue.publish();
    assertEquals(words(6), [7, one, AVAIL | USED | WRITE]);
    assertEquals(words(7)[2] & (AVAIL | USED), AVAIL, "skipped");
    assertEquals(ring.reap().map(({ id }) => id), [one, two, three]);
  });
});

/** Whether the places from `before` up to `now` include `event` (2.8.10). */
function passes(before: Place, now: Place, event: Place): boolean {
  for (let at = before; at.index !== now.index || at.wrap !== now.wrap;) {
    if (at.index === event.index && at.wrap === event.wrap) return true;
    at = further(at, 1, RING);
  }
  return false;
}

Deno.test("publish() notifies once the place that the driver named was used (2.8.10)", () => {
  const step = fc.record({
    lengths: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 4 }),
    ahead: fc.nat(2 * RING - 1),
  });
  fc.assert(fc.property(
    fc.array(step, { maxLength: 60, size: "max" }),
    fc.nat(2 * RING),
    (steps, start) => {
      withRing({ eventIdx: true, start }, (ring, queue, ram) => {
        const segments = new Segments();
        const four = piece(ram, 4);
        let told: Place | undefined;
        for (const { lengths, ahead } of steps) {
          const event = further(ring.usedPlace, ahead, RING);
          ring.setUsedEventAt(event);
          let count = 0;
          for (const length of lengths) {
            if (ring.free < length) break;
            ring.offer(new Array<Piece>(length).fill(four), true);
            segments.count = 0;
            queue.take(segments, true);
            queue.putUsed(queue.head, 4);
            count++;
          }
          const before = ring.usedPlace;
          const notify = queue.publish();
          assertEquals(ring.reap().length, count);
          const expected = count > 0 &&
            (told === undefined || passes(before, ring.usedPlace, event));
          assertEquals(notify, expected);
          if (count > 0) told = before;
        }
      });
    },
  ));
});

Deno.test("publish() heeds the flags with and without EVENT_IDX (2.8.10)", () => {
  for (const eventIdx of [false, true]) {
    withRing({ eventIdx }, (ring, queue, ram) => {
      const segments = new Segments();
      for (const silent of [false, true, false, true]) {
        ring.setNoInterrupt(silent);
        ring.offer([piece(ram)], true);
        queue.take(segments, true);
        queue.putUsed(queue.head, 4);
        assertEquals(queue.publish(), !silent);
        assertEquals(queue.publish(), false);
      }
    });
  }
});

Deno.test("without EVENT_IDX a driver's event place does not count", () => {
  withRing({}, (ring, queue, ram) => {
    for (let i = 0; i < 3; i++) {
      ring.setUsedEventAt({ index: 9, wrap: false });
      ring.offer([piece(ram)], true);
      queue.take(new Segments(), true);
      queue.putUsed(queue.head, 4);
      assertEquals(queue.publish(), true);
    }
  });
});

const at = (place: Place) => place.index + (place.wrap ? 0x8000 : 0);

Deno.test("stop() tells both places with their wrap counters, start() takes them", () => {
  for (let start = 0; start < 3 * RING; start++) {
    withRing({ start }, (ring, queue, ram) => {
      const segments = new Segments();
      for (let i = 0; i < 4; i++) ring.offer([piece(ram), piece(ram)], false);
      for (let i = 0; i < 3; i++) queue.take(segments, false);
      queue.putUsed(queue.head, 0);
      queue.publish();
      const place = further({ index: 0, wrap: true }, start, RING);
      const used = at(further(place, 2, RING));
      const next = at(further(place, 6, RING));
      assertEquals(queue.stop(), next + used * 0x1_0000);
    });
  }
});

Deno.test("start() with one place only takes it for both", () => {
  withRing({ start: RING + 3 }, (ring, queue, ram) => {
    ring.offer([piece(ram)], false);
    queue.start({ ...ring.layout, baseIndex: ring.layout.baseIndex & 0xffff });
    assertEquals(queue.take(new Segments(), false), 1);
    queue.putUsed(queue.head, 0);
    queue.publish();
    assertEquals(ring.reap().length, 1);
  });
});

Deno.test("a ring that has gone round goes on at 0, its first descriptor skipped", () => {
  withRing({ size: 3, start: 5 }, (ring, queue, ram) => {
    for (const pieces of [2, 1, 1]) {
      ring.offer(new Array<Piece>(pieces).fill(piece(ram)), false);
      queue.take(new Segments(), false);
      queue.putUsed(queue.head, 0);
      queue.publish();
      ring.reap();
    }
    const baseIndex = queue.stop();
    assertEquals(baseIndex, 0);
    queue.start({ ...ring.layout, baseIndex });
    assertEquals(queue.take(new Segments(), false), QUEUE_EMPTY);
  });
});

Deno.test("start() takes again what was taken before and not used", () => {
  withRing({ start: RING - 1 }, (ring, queue, ram) => {
    const segments = new Segments();
    const ids = [1, 2, 3].map(() => ring.offer([piece(ram), piece(ram)], false));
    for (let i = 0; i < 3; i++) queue.take(segments, false);
    queue.putUsed(RING - 1, 0);
    queue.publish();
    queue.start({ ...ring.layout, baseIndex: queue.stop() });
    for (let i = 0; i < 2; i++) {
      assertEquals(queue.take(segments, false), 2);
      queue.putUsed(queue.head, 0);
    }
    queue.publish();
    assertEquals(ring.reap().map(({ id }) => id), ids);
  });
});

Deno.test("a base beyond the ring leaves it standing", () => {
  withRing({}, (ring, queue) => {
    queue.start({ ...ring.layout, baseIndex: RING | 0x8000 });
    assertEquals(queue.running, false);
    assertEquals(queue.take(new Segments(), false), QUEUE_EMPTY);
  });
});

Deno.test("what is written to a logged packed ring is marked in the dirty log", () => {
  withRing({ eventIdx: true }, (ring, queue, ram) => {
    const event = ring.layout.usedLogAddress;
    const desc = event - 4 - RING * 16;
    const segments = new Segments();
    for (let i = 0; i < 2; i++) ring.offer([piece(ram, 4)], true);
    const marks = markedBy(memory, () => {
      for (let i = 0; i < 2; i++) {
        queue.take(segments, true);
        queue.putUsed(queue.head, 4);
      }
      queue.publish();
      queue.wantNotification();
    });
    // Length, id and flags of both, the first once it is whole; device area.
    assertEquals(marks, [[desc + 24, 8], [desc + 8, 8], [event, 4]]);
  });
});
