/** Whatever a frontend sends: no exception, no descriptor lost, rings in shared memory. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Vring } from "../../src/vhost_user/backend.ts";
import {
  Ask,
  type GuestRam,
  memoryTable,
  openDescriptors,
  payload,
  region,
  state,
  u64,
  vringAddress,
} from "../support/frontend.ts";
import { ALL_FEATURES, Joined, PROTOCOL_FEATURES } from "../support/vhost_session.ts";

interface Step {
  readonly request: number;
  readonly bytes: Uint8Array;
  readonly fds: number;
  /** Descriptors are guest memory rather than events. */
  readonly memory: boolean;
  readonly needReply: boolean;
}

const request = fc.oneof(
  { weight: 20, arbitrary: fc.integer({ min: 1, max: 44 }) },
  { weight: 1, arbitrary: fc.nat() },
);

const anything: fc.Arbitrary<Step> = fc.record({
  request,
  bytes: fc.oneof(
    fc.constant(new Uint8Array(0)),
    fc.uint8Array({ minLength: 8, maxLength: 8 }),
    fc.uint8Array({ minLength: 40, maxLength: 40 }),
    fc.uint8Array({ maxLength: 300 }),
  ),
  fds: fc.nat(8),
  memory: fc.boolean(),
  needReply: fc.constant(true),
});

/** Near the truth: small indexes and numbers, one region that may fit. */
const plausible: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    request: fc.constantFrom(
      Ask.SET_VRING_NUM,
      Ask.SET_VRING_BASE,
      Ask.GET_VRING_BASE,
      Ask.SET_VRING_ENABLE,
    ),
    bytes: fc.tuple(fc.nat(4), fc.constantFrom(0, 1, 2, 64, 256, 65535)).map(
      ([index, value]) => state(index, value),
    ),
    fds: fc.constant(0),
    memory: fc.constant(false),
    needReply: fc.constant(true),
  }),
  fc.record({
    request: fc.constantFrom(Ask.SET_VRING_KICK, Ask.SET_VRING_CALL, Ask.SET_VRING_ERR),
    bytes: fc.constantFrom(0, 1, 2, 3, 0x100, 0x101).map(u64),
    fds: fc.nat(1),
    memory: fc.boolean(),
    needReply: fc.constant(true),
  }),
  fc.record({
    request: fc.constant(Ask.SET_VRING_ADDR),
    bytes: fc.tuple(fc.nat(4), fc.nat(40), fc.nat(40), fc.nat(40)).map(
      ([index, desc, used, avail]) =>
        payload(
          ["u64", index],
          ["u64", desc * 1024],
          ["u64", used * 1024],
          ["u64", avail * 1024],
          ["u64", 0],
        ),
    ),
    fds: fc.constant(0),
    memory: fc.constant(false),
    needReply: fc.constant(true),
  }),
  fc.record({
    request: fc.constantFrom(Ask.SET_MEM_TABLE, Ask.ADD_MEM_REG, Ask.REM_MEM_REG),
    bytes: fc.tuple(fc.nat(6), fc.nat(6), fc.nat(3)).map(([from, pages, offset]) =>
      payload(
        ["u64", 1],
        region(from * 4096, pages * 4096, from * 4096, offset * 2048),
      )
    ),
    fds: fc.nat(1),
    memory: fc.constant(true),
    needReply: fc.constant(true),
  }),
);

function inMemory(pair: Joined, ring: Vring): void {
  const { view, regions } = pair.backend.memory;
  assert(regions.length > 0);
  // Would end the process if the areas were not mapped.
  for (
    const [from, size] of [
      [ring.descOffset, 16 * ring.size],
      [ring.availOffset, 6 + 2 * ring.size],
      [ring.usedOffset, 6 + 8 * ring.size],
    ]
  ) {
    view.getUint8(from);
    view.getUint8(from + size - 1);
  }
}

/** Two running rings in eight pages at user address 0. */
function prepare(pair: Joined, ram: GuestRam): void {
  pair.ask(Ask.SET_MEM_TABLE, memoryTable(region(0, 0x8000, 0, 0)), { fds: [ram.fd] });
  for (const index of [0, 1]) {
    pair.ask(Ask.SET_VRING_NUM, state(index, 64));
    pair.ask(
      Ask.SET_VRING_ADDR,
      vringAddress(
        index,
        index * 0x4000,
        index * 0x4000 + 0x2000,
        index * 0x4000 + 0x1000,
      ),
    );
    pair.ask(Ask.SET_VRING_KICK, u64(0x100 + index));
    pair.ask(Ask.SET_VRING_ENABLE, state(index, 1));
  }
}

Deno.test("property: arbitrary messages never throw, leak or start a bad ring", () => {
  const before = openDescriptors();
  let started = 0;
  let changed = false;
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof({ weight: 1, arbitrary: anything }, {
          weight: 3,
          arbitrary: plausible,
        }),
        { maxLength: 60 },
      ),
      fc.boolean(),
      (steps, prepared) => {
        {
          using pair = new Joined();
          pair.ask(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
          pair.ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
          const ram = pair.ram();
          const event = pair.fds.event();
          if (prepared) prepare(pair, ram);
          started = Math.max(started, pair.backend.running.size);
          for (const step of steps) {
            if (pair.session.over) break;
            const fds = Array(step.fds).fill(step.memory ? ram.fd : event);
            pair.ask(step.request, step.bytes, { fds, needReply: step.needReply });
            while (pair.frontend.receive() !== null);
            for (const ring of pair.backend.running.values()) inMemory(pair, ring);
            changed ||= prepared && pair.backend.events.some((e) => e.startsWith("stop"));
          }
          pair.session.close();
          assertEquals(pair.backend.running.size, 0);
          assertEquals(pair.backend.memory.regions.length, 0);
          assertEquals(pair.backend.events.at(-1), "closed");
        }
        assertEquals(openDescriptors(), before);
      },
    ),
    { numRuns: 500 },
  );
  assert(started === 2 && changed, "rings ran and moved: the steps are plausible enough");
});

Deno.test("property: arbitrary bytes with descriptors never throw or leak", () => {
  const before = openDescriptors();
  fc.assert(fc.property(
    fc.array(fc.record({ bytes: fc.uint8Array({ minLength: 1 }), fds: fc.nat(12) })),
    (pieces) => {
      {
        using pair = new Joined();
        const event = pair.fds.event();
        for (const { bytes, fds } of pieces) {
          if (!pair.frontend.sendRaw(bytes, Array(fds).fill(event))) break;
          pair.session.readable();
        }
      }
      assertEquals(openDescriptors(), before);
    },
  ));
});
