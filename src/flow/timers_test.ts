import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { FlowTimers, TICK_MS } from "./timers.ts";

function drain(timers: FlowTimers, now: number): number[] {
  const out: number[] = [];
  for (let flow = timers.expired(now); flow !== -1; flow = timers.expired(now)) {
    out.push(flow);
  }
  return out;
}

Deno.test("FlowTimers expires each timer within a tick after its time, never before", () => {
  const delays = fc.array(fc.integer({ min: 0, max: 3 * 60 * 60 * 1000 }), {
    minLength: 1,
    maxLength: 40,
  });
  fc.assert(fc.property(fc.integer({ min: 0, max: 1e6 }), delays, (start, all) => {
    const timers = new FlowTimers(all.length, start);
    all.forEach((delay, flow) => timers.set(flow, start + delay));
    const left = new Set(all.keys());
    let now = start;
    while (left.size > 0) {
      const wait = timers.untilNext(now);
      if (wait < 0) throw new Error("asleep with timers set");
      const earliest = Math.min(...[...left].map((flow) => start + all[flow]));
      // Asleep no longer than until the next one is due, give or take a tick.
      if (now + wait > earliest + 2 * TICK_MS) throw new Error(`late: ${now} + ${wait}`);
      now += Math.max(wait, 1);
      for (const flow of drain(timers, now)) {
        if (start + all[flow] > now) throw new Error("early");
        left.delete(flow);
      }
    }
    assertEquals(timers.untilNext(now), -1);
  }));
});

Deno.test("FlowTimers moves and clears timers", () => {
  const timers = new FlowTimers(3, 1000);
  timers.set(0, 2000);
  timers.set(1, 2000);
  timers.set(2, 2000);
  timers.set(0, 900_000);
  timers.clear(1);
  assertEquals(drain(timers, 10_000), [2]);
  timers.set(0, 20_000);
  assertEquals(drain(timers, 30_000), [0]);
  assertEquals(timers.isSet(0), false);
});
