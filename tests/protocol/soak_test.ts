/** The soak's short form: frontends come and go, and nothing of them stays. */
import { assert, assertEquals } from "@std/assert";
import { descriptorsOf, withVuelo } from "../support/abuse_world.ts";
import { until } from "../support/lab_process.ts";
import { frontends } from "../soak/frontends.ts";
import { judgeMemory, type Sample, sample, slope } from "../soak/sample.ts";

const ROUNDS = 15;
/** Rounds after which caches and spare sockets are there. */
const WARM = 5;
/** What an engine's heap may wander between two looks, in KiB. */
const WANDERING = 24 << 10;

Deno.test("a slope by least squares, and what is flat", () => {
  assertEquals(slope([[0, 5], [1, 7], [2, 9]]), 2);
  assert(Math.abs(slope([[0, 1], [1, 3], [2, 2], [3, 4]]) - 0.8) < 1e-9);
  const at = (own: (minute: number) => number) =>
    Array.from({ length: 60 }, (_, minute): Sample => {
      return { at: minute, own: own(minute), resident: 0, descriptors: 0, threads: 0 };
    });
  assert(judgeMemory(at((m) => m < 10 ? 1000 * m : 50_000 + m % 3), 10).flat);
  assert(!judgeMemory(at((m) => 50_000 + 100 * m), 10).flat);
});

Deno.test({
  name: `${ROUNDS} times two frontends, a good one and a bad one: nothing stays`,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withVuelo({}, async ({ pid }, path) => {
      let own = 0;
      let rest = 0;
      for (let round = 0; round < ROUNDS; round++) {
        await frontends(path, undefined, 1);
        if (round < WARM) continue;
        if (round === WARM) {
          own = sample(pid, 0).own;
          await until("descriptors that stay the same", async () => {
            const before = rest;
            await new Promise((resolve) => setTimeout(resolve, 50));
            return (rest = descriptorsOf(pid).count) === before;
          });
        }
        await until("descriptors are as before", () => descriptorsOf(pid).count <= rest);
      }
      const now = sample(pid, 0).own;
      assert(now < own + WANDERING, `${own} KiB after ${WARM} rounds, ${now} at the end`);
    }),
});
