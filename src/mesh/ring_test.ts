import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { onThreads, sample } from "../../tests/support/mesh_worker.ts";
import { MessageRing, ringMemory } from "./ring.ts";

/** A producer and a consumer of the same ring, and its memory. */
function ends(capacity: number) {
  const memory = new SharedArrayBuffer(ringMemory(capacity));
  const bytes = new Uint8Array(memory);
  const [producer, consumer] = [1, 2].map(() => new MessageRing(memory, 0, capacity));
  return { memory, bytes, producer, consumer };
}

Deno.test("a ring with no room refuses, and has room again after release()", () => {
  const { producer, consumer } = ends(64);
  assertEquals(producer.reserve(1, 57), -1); // longer than the ring with its header
  assert(producer.reserve(1, 24) >= 0);
  producer.commit();
  assert(producer.reserve(2, 24) >= 0);
  producer.commit();
  assertEquals(producer.reserve(3, 0), -1);
  assert(consumer.take());
  assertEquals(producer.reserve(3, 0), -1); // its bytes may still be in use
  consumer.release();
  assert(producer.reserve(3, 0) >= 0);
});

Deno.test("what was reserved and not sent is not seen, and reserved anew", () => {
  const { producer, consumer } = ends(64);
  const at = producer.reserve(1, 8);
  assertEquals(consumer.take(), false);
  assertEquals(producer.reserve(2, 16), at);
  producer.commit();
  assert(consumer.take());
  assertEquals([consumer.kind, consumer.length, consumer.at], [2, 16, at]);
});

Deno.test("property: messages of any lengths come whole and in order", () => {
  const { bytes, producer, consumer } = ends(256);
  let sent = 0;
  let seen = 0;
  const expected: [number, number][] = [];
  const steps = fc.array(
    fc.oneof(
      fc.record({ send: fc.nat(120) }),
      fc.record({ take: fc.nat(4), release: fc.boolean() }),
    ),
    { maxLength: 60 },
  );
  // One ring for all runs, so that its indexes go round many times.
  fc.assert(
    fc.property(steps, (list) => {
      for (const step of list) {
        if ("send" in step) {
          const at = producer.reserve(sent, step.send);
          if (at < 0) continue;
          bytes.fill(sent & 0xff, at, at + step.send);
          producer.commit();
          expected.push([sent++, step.send]);
          continue;
        }
        for (let i = 0; i < step.take && consumer.take(); i++) {
          const [kind, length] = expected.shift()!;
          seen++;
          assertEquals([consumer.kind, consumer.length], [kind, length]);
          const got = bytes.subarray(consumer.at, consumer.at + length);
          assert(got.every((byte) => byte === (kind & 0xff)));
        }
        if (step.release) consumer.release();
      }
    }),
    { numRuns: 1000 },
  );
  assert(seen > 1000, `${seen}`);
});

Deno.test("two threads: messages come whole and in order", async () => {
  const capacity = 4096;
  const { memory, bytes, consumer } = ends(capacity);
  const [seed, count] = [0x1234567, 20_000];
  let got = 0;
  await onThreads([{ do: "send", memory, capacity, seed, count }], () => {
    while (got < count) {
      if (!consumer.take()) continue;
      const [length, first] = sample(seed, got, capacity >> 2);
      assertEquals([consumer.kind, consumer.length], [got, length]);
      for (let b = 0; b < length; b++) {
        if (bytes[consumer.at + b] !== ((first + b) & 0xff)) throw new Error(`${got}`);
      }
      consumer.release();
      got++;
    }
  });
  assertEquals(consumer.waiting, false);
});
