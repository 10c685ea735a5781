import { assert, assertEquals } from "@std/assert";
import { describeCost, ManyConnections } from "../support/many_connections.ts";

/** Beside entries and records, a stream has its header. */
const HEADER = 65536;

for (const queued of [0, 4000]) {
  const name = queued === 0 ? "idle" : `with ${queued} unread bytes each`;
  Deno.test(`5,000 connections move, ${name}: all are kept`, () => {
    const count = 5000;
    const many = new ManyConnections(count);
    try {
      if (queued > 0) many.queue(queued);
      for (let round = 0; round < 2; round++) {
        const cost = many.move();
        console.log(describeCost(count, cost));
        assertEquals([cost.moved, cost.lost], [count, 0]);
        const each = (cost.bytes - HEADER) / count - queued;
        assert(each <= 512, `${each} bytes for each connection`);
      }
      assertEquals(many.alive(queued), count);
    } finally {
      many.close();
    }
  });
}
