/** Whatever a guest and its peers do: what is saved of it, a target reads. */
import { concat } from "@std/bytes";
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { collect } from "../../src/migrate/collect.ts";
import { decode, encodeVuelo } from "../../src/wire/state/decode.ts";
import { emptyState } from "../support/fake_movable.ts";
import { udpPacket } from "../support/guest_packets.ts";
import { repair } from "../support/tcp_move.ts";
import { pattern, TcpWorld } from "../support/tcp_world.ts";

const segment = fc.record({
  what: fc.constant("segment" as const),
  which: fc.nat(2),
  flags: fc.constantFrom("A", "PA", "FA", "F", "S", "SA", "RA", "UA", ""),
  seq: fc.oneof(fc.constant(undefined), fc.integer({ min: -70_000, max: 70_000 })),
  ack: fc.oneof(fc.constant(undefined), fc.integer({ min: -70_000, max: 70_000 })),
  window: fc.constantFrom(0, 1, 1000, 65535),
  length: fc.constantFrom(0, 0, 1, 1000, 1460),
});
const peer = fc.record({
  what: fc.constantFrom("sends" as const, "shuts" as const, "reads" as const),
  which: fc.nat(2),
  length: fc.constantFrom(1, 3000, 100_000),
});
const datagram = fc.record({
  what: fc.constant("datagram" as const),
  port: fc.nat(3),
  length: fc.constantFrom(0, 1, 1472, 60_000),
});
const later = fc.record({ what: fc.constant("later" as const), ms: fc.nat(5000) });
const steps = fc.array(fc.oneof(segment, segment, peer, datagram, later), {
  maxLength: 25,
});

type Step = typeof steps extends fc.Arbitrary<(infer S)[]> ? S : never;

function play(world: TcpWorld, list: readonly Step[]): void {
  const { guest, host } = world.connect();
  const other = world.connect({ scale: 7 });
  const third = world.accept();
  const pairs = [{ guest, host }, other, third];
  for (const step of list) {
    switch (step.what) {
      case "segment": {
        const { flags, seq, ack, window, length } = step;
        const { guest } = pairs[step.which];
        const from = guest.next;
        const data = pattern(length);
        guest.in(flags, {
          seq: seq === undefined ? undefined : (from + seq) >>> 0,
          ack: ack === undefined ? undefined : (guest.expected + ack) >>> 0,
          window,
          data,
        });
        break;
      }
      case "sends":
        pairs[step.which].host.send(pattern(step.length));
        break;
      case "shuts":
        pairs[step.which].host.shutdown();
        break;
      case "reads":
        pairs[step.which].host.receive();
        break;
      case "datagram": {
        const to = { from: guest.from, to: guest.to };
        world.driver.send(udpPacket(to, 5000 + step.port, 9, pattern(step.length)));
        break;
      }
      case "later":
        world.advance(step.ms);
    }
    world.settle();
  }
}

Deno.test("what is saved can be read", () => {
  fc.assert(
    fc.property(steps, (list) => {
      const world = new TcpWorld();
      try {
        play(world, list);
        assertEquals(world.path.tcp.freeze(repair), 0);
        const state = { ...emptyState(1), ...collect(world.path) };
        const read = decode(concat(encodeVuelo(state))).state!;
        assertEquals(read.entries, state.entries);
        for (const [i, { lost }] of state.tcp.entries()) {
          assertEquals(read.tcp[i].lost, lost);
        }
        assertEquals(world.path.tcp.thaw(repair), 0);
      } finally {
        world.close();
      }
    }),
    { numRuns: 60 },
  );
});
