import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { onThreads } from "../../tests/support/mesh_worker.ts";
import { ENDED, OWNERS_SIZE, OwnerTable } from "./owners.ts";

const THREADS = 8;
const memory = () => new SharedArrayBuffer(OWNERS_SIZE);
const hash = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });

Deno.test("property: flows are found at their owners until they leave", () => {
  const table = new OwnerTable(memory());
  fc.assert(fc.property(
    fc.uniqueArray(fc.tuple(hash, fc.nat(THREADS - 1)), {
      selector: ([value]) => value,
    }),
    (flows) => {
      for (const [value, owner] of flows) table.enter(value, owner);
      for (const [value, owner] of flows) assertEquals(table.find(value), owner);
      for (const [value, owner] of flows) table.move(value, owner, (owner + 1) % THREADS);
      for (const [value, owner] of flows) {
        assertEquals(table.find(value), (owner + 1) % THREADS);
      }
      for (const [value, owner] of flows) table.leave(value, (owner + 1) % THREADS);
      for (const [value] of flows) assertEquals(table.find(value), -1);
    },
  ));
  assertEquals(table.unregistered, 0);
});

Deno.test("a full bucket registers no more, and says so", () => {
  const table = new OwnerTable(memory());
  const flows = Array.from({ length: 17 }, (_, i) => 5 | i << 15);
  for (const flow of flows) table.enter(flow, 0);
  assertEquals(table.unregistered, 1);
  assertEquals(flows.map((flow) => table.find(flow)), [...Array(16).fill(0), -1]);
  table.leave(flows[16], 0); // was never there: nothing else goes
  assertEquals(table.find(flows[15]), 0);
  table.leave(flows[3], 0);
  table.enter(flows[16], 2);
  assertEquals(table.find(flows[16]), 2);
});

Deno.test("a connection that has ended is known until a flow needs its place", () => {
  const table = new OwnerTable(memory());
  const flows = Array.from({ length: 17 }, (_, i) => 5 | i << 15);
  for (const flow of flows.slice(0, 16)) table.enter(flow, 1);
  for (const flow of flows.slice(0, 16)) table.end(flow, 1);
  assertEquals(flows.map((flow) => table.find(flow)), [...Array(16).fill(ENDED), -1]);
  table.enter(flows[3], 2); // opened again
  assertEquals(table.find(flows[3]), 2);
  for (const flow of flows.slice(4)) table.enter(flow, 0);
  const found = flows.map((flow) => table.find(flow));
  assertEquals(found.filter((owner) => owner === ENDED).length, 2);
  assertEquals(found.slice(3), [2, ...Array(13).fill(0)]);
  assertEquals(table.unregistered, 0);
});

Deno.test("who has a flow comes before its end", () => {
  const table = new OwnerTable(memory());
  table.end(7, 1); // was noted as another thread's when it ended
  table.enter(7 | 1 << 15, 3);
  assertEquals([table.find(7), table.find(7 | 1 << 15)], [ENDED, 3]);
  table.move(7, 1, 2);
  assertEquals(table.find(7), 2);
});

Deno.test("moving a flow that is not registered registers it", () => {
  const table = new OwnerTable(memory());
  table.move(77, 1, 2);
  assertEquals(table.find(77), 2);
});

Deno.test("threads that enter and leave at once disturb no flow of each other", async () => {
  const shared = memory();
  // Few buckets, so that words are fought for.
  const tasks = [0, 1, 2].map((owner) => ({
    do: "own" as const,
    memory: shared,
    owner,
    hashes: Array.from({ length: 4000 }, (_, i) => (i * 3 + owner) << 15 | i % 1000),
  }));
  await onThreads(tasks);
  const table = new OwnerTable(shared);
  for (const { owner, hashes } of tasks) {
    hashes.forEach((value, i) => {
      const expected = i % 2 === 0 ? owner : -1;
      if (table.find(value) !== expected) throw new Error(`${value} of ${owner}`);
    });
  }
});
