/** Whatever a stream holds that can be read: it is taken over, or refused, and no more. */
import { concat } from "@std/bytes";
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { Forwarder } from "../../src/flow/forward.ts";
import { collect } from "../../src/migrate/collect.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import { OwnRepair } from "../../src/repair/switch.ts";
import { decode, encodeVuelo, StateError } from "../../src/wire/state/decode.ts";
import type { MovedState } from "../../src/wire/state/model.ts";
import { quietly } from "../support/quiet.ts";
import { FlowWorld } from "../support/flow_world.ts";
import { openDescriptors } from "../support/frontend.ts";
import { anyState } from "../support/state_samples.ts";

/** As a reader gives it; undefined if it is refused. */
function read(state: MovedState): MovedState | undefined {
  try {
    return decode(concat(encodeVuelo(state))).state;
  } catch (error) {
    if (error instanceof StateError) return undefined;
    throw error;
  }
}

/** Few ports, so that the host has them and little time is spent. */
function withSmallRules(state: MovedState): MovedState {
  const rules = state.rules.slice(0, 2).map((rule) => ({ ...rule, last: rule.first }));
  return { ...state, rules };
}

Deno.test(
  "whatever can be read can be taken over",
  quietly(() => {
    new FlowWorld().close(); // whatever is loaded once
    let taken = 0;
    const choices = fc.record({
      state: anyState,
      runs: fc.boolean(),
      again: fc.boolean(),
    });
    fc.assert(
      fc.property(choices, ({ state, runs, again }) => {
        const readable = read(withSmallRules(state));
        if (readable === undefined) return;
        const before = openDescriptors();
        const world = new FlowWorld();
        world.driver.post(32, 2048);
        const forwarder = new Forwarder(world.path);
        const move = new GuestMove(world.path, forwarder, () => ({
          featuresLo: 0,
          featuresHi: 0,
        }));
        move.repair = new OwnRepair();
        assertEquals(move.restore(readable), 0);
        taken += world.path.table.count;
        if (again) {
          // It moves on before it has run.
          assertEquals(move.freeze(), 0);
          const saved = { device: readable.device, rules: [], ...collect(world.path) };
          assertEquals(
            decode(concat(encodeVuelo(saved))).state?.tcp.length,
            saved.tcp.length,
          );
        }
        if (runs) {
          assertEquals(move.thaw(), 0);
          world.settle();
          world.path.now += 400_000;
          world.path.turn();
        } else {
          move.discard();
          assertEquals(world.path.table.count, 0);
        }
        world.path.dropAll();
        move.forget();
        assertEquals(world.path.table.count, 0);
        forwarder.close();
        world.close();
        assertEquals(openDescriptors() - before, 0, "descriptors lost");
      }),
      { numRuns: 150 },
    );
    if (taken === 0) throw new Error("nothing was ever taken over");
  }),
);
