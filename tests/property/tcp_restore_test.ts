import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { FLOW_WORDS, FlowWord } from "../../src/flow/table.ts";
import { TcpState } from "../../src/flow/tcp/layout.ts";
import type { MovedTcp } from "../../src/wire/state/model.ts";
import { quietly } from "../support/quiet.ts";
import { type Moved, repair, restore, save } from "../support/tcp_move.ts";
import { pattern, TcpWorld } from "../support/tcp_world.ts";

const word = fc.integer({ min: 0, max: 0xffff_ffff });
const bytes = fc.integer({ min: 0, max: 3000 }).map((n) => new Uint8Array(pattern(n)));

/** Changes to a record and to words of an entry, all of them possible in a stream. */
const changes = fc.record({
  record: fc.record<Partial<MovedTcp>>({
    state: fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 255),
    options: fc.integer({ min: 0, max: 255 }),
    sendScale: fc.integer({ min: 0, max: 255 }),
    receiveScale: fc.integer({ min: 0, max: 255 }),
    sendSequence: word,
    receiveSequence: word,
    notSent: fc.integer({ min: 0, max: 4000 }),
    mss: word,
    timestamp: word,
    sndWl1: word,
    sndWnd: word,
    maxWindow: word,
    rcvWnd: word,
    rcvWup: word,
    keepIdle: word,
    keepInterval: word,
    keepCount: word,
    device: fc.constantFrom("", "lo", "nosuch", "a name that is far too long"),
    idle: word,
    gap: fc.integer({ min: 0, max: 255 }),
    gapEnd: word,
    recover: word,
    sendQueue: bytes,
    receiveQueue: bytes,
  }, { requiredKeys: [] }),
  words: fc.array(
    fc.tuple(
      fc.integer({ min: FlowWord.hostPorts, max: FLOW_WORDS - 1 }).filter((at) =>
        at !== FlowWord.fd
      ),
      word,
    ),
    { maxLength: 3 },
  ),
  state: fc.constantFrom(...Object.values(TcpState), 0, 5, 255),
  flags: fc.integer({ min: 0, max: 0xffff }),
});

Deno.test(
  "whatever a stream says of a connection, restoring it does no harm",
  quietly(() => {
    const world = new TcpWorld();
    try {
      const { host } = world.connect();
      const { entries, records: [record] } = save(world);
      world.path.tcp.discard();
      fc.assert(
        fc.property(changes, ({ record: changed, words, state, flags }) => {
          const moved: Moved = {
            entries: entries.slice(),
            records: [{ ...record, ...changed }],
          };
          moved.entries[0] = 1 | (state << 8) | (flags << 16);
          for (const [at, value] of words) moved.entries[at] = value;
          restore(world, moved);
          world.path.tcp.thaw(repair);
          world.advance(70_000);
          // Closed in repair mode, so that the next one can have the address.
          world.path.tcp.freeze(repair);
          world.path.tcp.discard();
          world.path.dropAll();
          assertEquals(world.flows, 0);
        }),
        { numRuns: 300 },
      );
      host.reset();
    } finally {
      world.close();
    }
  }),
);
