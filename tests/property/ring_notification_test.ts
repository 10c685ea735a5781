/** When either side of a split ring is notified (virtio 1.3, sections 2.7.6 to 2.7.10). */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { SplitQueue } from "../../src/virtio/split_queue.ts";
import { Segments } from "../../src/virtio/virtqueue.ts";
import { DriverRing, GuestRam, type RingOptions } from "../support/mock_driver.ts";

const memory = new GuestMemory(2 ** 34);
const RING = 16;

function withRing(
  options: RingOptions,
  body: (ring: DriverRing, queue: SplitQueue, ram: GuestRam) => void,
): void {
  const ram = new GuestRam(memory);
  try {
    const ring = new DriverRing(ram, RING, options);
    const queue = new SplitQueue(memory);
    queue.start(ring.layout);
    body(ring, queue, ram);
  } finally {
    ram.close();
  }
}

/** Makes a chain of 4 bytes available. */
function offer(ring: DriverRing, ram: GuestRam, writable: boolean): number {
  return ring.offer([{ address: ram.take(4), length: 4 }], writable);
}

/** Section 2.7.7.2: whether a used index that went past `event` is to be told. */
function specifies(event: number, now: number, before: number): boolean {
  const passed: number[] = [];
  for (let i = before; i !== now; i = (i + 1) & 0xffff) passed.push(i);
  // The driver wants to hear of the entry with this index.
  return passed.includes(event);
}

Deno.test("publish() notifies as used_event says (2.7.7.2)", () => {
  const step = fc.record({
    count: fc.nat(RING),
    ahead: fc.oneof(fc.integer({ min: -3, max: RING }), fc.nat(0xffff)),
  });
  fc.assert(fc.property(
    fc.array(step, { maxLength: 60 }),
    fc.constantFrom(0, 100, 65520),
    (steps, start) => {
      withRing({ eventIdx: true, start }, (ring, queue, ram) => {
        const piece = { address: ram.take(4), length: 4 };
        const segments = new Segments();
        let before: number = start;
        let first = true;
        for (const { count, ahead } of steps) {
          const event = (before + ahead) & 0xffff;
          ring.setUsedEvent(event);
          for (let i = 0; i < count; i++) {
            const head = ring.offer([piece], true);
            segments.count = 0;
            queue.take(segments, true);
            queue.putUsed(head, 4);
          }
          const now = (before + count) & 0xffff;
          const notify = queue.publish();
          // Nothing is known of the driver before the first entry: it is always told.
          const expected = count > 0 && (first || specifies(event, now, before));
          assertEquals(notify, expected, `${event} in ${before}..${now}`);
          if (count > 0) first = false;
          before = now;
          assertEquals(ring.reap().length, count);
        }
      });
    },
  ));
});

Deno.test("publish() without EVENT_IDX follows the driver's flag (2.7.7.1)", () => {
  withRing({}, (ring, queue, ram) => {
    const segments = new Segments();
    for (const silent of [false, true, false]) {
      ring.setNoInterrupt(silent);
      const head = offer(ring, ram, true);
      queue.take(segments, true);
      queue.putUsed(head, 4);
      assertEquals(queue.publish(), !silent);
      assertEquals(queue.publish(), false);
    }
  });
});

for (const eventIdx of [false, true]) {
  const name = eventIdx ? "avail_event (2.7.10)" : "the flag (2.7.10)";
  Deno.test(`wantNotification() sets ${name}, and sees what came meanwhile`, () => {
    withRing({ eventIdx, start: 65534 }, (ring, queue, ram) => {
      const segments = new Segments();
      /** Whether the driver notifies when it makes the next chain available. */
      const notifies = () =>
        eventIdx ? ring.availEvent === ring.next : ring.noNotify === false;
      offer(ring, ram, false);
      queue.declineNotification();
      assertEquals(queue.take(segments, false), 1);
      assertEquals(notifies(), false);
      assertEquals(queue.wantNotification(), false);
      assertEquals(notifies(), true);
      queue.declineNotification();
      offer(ring, ram, false);
      assertEquals(notifies(), false);
      assertEquals(queue.wantNotification(), true);
      assertEquals(queue.take(segments, false), 1);
      assertEquals(queue.wantNotification(), false);
      assertEquals(notifies(), true);
    });
  });
}
