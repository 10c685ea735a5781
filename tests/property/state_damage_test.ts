/**
 * Damaged and hostile streams of state: whatever comes, it is refused with a StateError,
 * or the damage does no harm. Nothing else is ever thrown.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  decode,
  encodePasst,
  neededBytes,
  StateError,
} from "../../src/wire/state/decode.ts";
import type { MovedState } from "../../src/wire/state/model.ts";
import { anyState, sampleState } from "../support/state_samples.ts";
import {
  layHeader,
  layStream,
  MACHINES,
  type RawSection,
  sectionsOf,
  writeState,
} from "../support/state_writer.ts";

const HEADER = 65536;
const HEADER_USED = 28;
const SEED = 20261123;

const ALL = Array.from({ length: 255 }, (_, i) => i + 1);
const SOME = [1, 2, 4, 8, 12, 16, 32, 64, 128, 255];

/** What reading gives; undefined if it was refused. */
function outcome(bytes: Uint8Array): { state: MovedState | undefined } | undefined {
  let refusedEarly = false;
  try {
    neededBytes(bytes);
  } catch (error) {
    assert(error instanceof StateError, String(error));
    refusedEarly = true;
  }
  try {
    const { state } = decode(bytes);
    assert(!refusedEarly, "refused early, but taken");
    return { state };
  } catch (error) {
    assert(error instanceof StateError, (error as Error).stack);
    assert([22, 61, 95].includes(error.number));
    assert(error.offset >= 0 && error.offset <= bytes.length, error.message);
    return undefined;
  }
}

const refused = (bytes: Uint8Array) => outcome(bytes) === undefined;

/** Numbers that are the same in each run. */
function* numbers(below: number): Generator<number> {
  for (let x = SEED;;) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    yield (x >>> 0) % below;
  }
}

Deno.test("each byte of the header, changed in every way", () => {
  for (const machine of MACHINES) {
    const state = sampleState();
    const bytes = writeState(machine, state);
    for (let at = 0; at < HEADER_USED; at++) {
      // All of them for one machine: they take time.
      const changes = machine === MACHINES[3] ? ALL : SOME;
      for (const change of changes) {
        bytes[at] ^= change;
        const result = outcome(bytes);
        bytes[at] ^= change;
        // The size of a pointer makes no difference; version 1 is too long.
        if (at === 15 && change === 12) assertEquals(result, { state });
        else assertEquals(result, undefined, `byte ${at} ^ ${change}`);
      }
    }
  }
});

Deno.test("bytes of the header that mean nothing yet may be anything", () => {
  const bytes = writeState(MACHINES[0], sampleState());
  const places = numbers(HEADER - HEADER_USED);
  for (let i = 0; i < 300; i++) {
    bytes[HEADER_USED + places.next().value] ^= 1 + i % 255;
    assert(!refused(bytes));
  }
});

Deno.test("a thousand places behind the header, each a damage that is seen", () => {
  for (const machine of MACHINES) {
    const bytes = writeState(machine, sampleState());
    const random = numbers(2 ** 32);
    for (let i = 0; i < 1000; i++) {
      const at = HEADER + random.next().value % (bytes.length - HEADER);
      const change = 1 + random.next().value % 255;
      bytes[at] ^= change;
      assert(refused(bytes), `byte ${at} ^ ${change}`);
      bytes[at] ^= change;
    }
    assert(!refused(bytes));
  }
});

Deno.test("a stream cut anywhere is refused", () => {
  const bytes = writeState(MACHINES[3], sampleState());
  for (let length = HEADER; length < bytes.length; length++) {
    assert(refused(bytes.subarray(0, length)), `${length} bytes`);
  }
  for (let length = 0; length < HEADER; length += length < 40 ? 1 : 997) {
    assert(refused(bytes.subarray(0, length)), `${length} bytes`);
  }
});

/** Changes some bytes of some sections; the checksums are right again. */
const forged = fc.record({
  state: anyState,
  machine: fc.constantFrom(...MACHINES),
  changes: fc.array(
    fc.record({ section: fc.nat(7), at: fc.nat(), value: fc.nat(255) }),
    { minLength: 1, maxLength: 6 },
  ),
}).map(({ state, machine, changes }) => {
  const sections: RawSection[] = sectionsOf(machine, state);
  for (const { section, at, value } of changes) {
    const { bytes } = sections[section];
    if (bytes.length > 0) (bytes as number[])[at % bytes.length] = value;
  }
  return layStream(machine, sections);
});

Deno.test("forged streams, whose checksums are right", () => {
  let taken = 0;
  fc.assert(
    fc.property(forged, (bytes) => {
      if (!refused(bytes)) taken++;
    }),
    { numRuns: 1500, seed: SEED },
  );
  assert(taken > 0);
});

Deno.test("anything behind a header", () => {
  const header = Uint8Array.from(layHeader(MACHINES[0], 2));
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (rest) => {
      const bytes = new Uint8Array(HEADER + rest.length);
      bytes.set(header);
      bytes.set(rest, HEADER);
      assert(refused(bytes));
    }),
    { numRuns: 300 },
  );
});

Deno.test("anything at all", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
      assert(refused(bytes));
    }),
    { numRuns: 1000 },
  );
});

function passtBytes(state: MovedState): Uint8Array {
  return Uint8Array.from(encodePasst(state).chunks.flatMap((chunk) => [...chunk]));
}

Deno.test("passt's stream with each byte changed, and cut anywhere", () => {
  const bytes = passtBytes(sampleState());
  for (let at = 0; at < bytes.length; at++) {
    for (const change of [1, 2, 4, 8, 16, 32, 64, 128, 255]) {
      bytes[at] ^= change;
      outcome(bytes);
      bytes[at] ^= change;
    }
    assert(refused(bytes.subarray(0, at)));
  }
  assert(!refused(bytes));
});

Deno.test("anything behind passt's header, and forged flows", () => {
  const start = passtBytes(sampleState());
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(3), (rest, flows) => {
      const bytes = new Uint8Array(62 + rest.length);
      bytes.set(start.subarray(0, 62));
      bytes[61] = flows;
      bytes.set(rest, 62);
      outcome(bytes);
    }),
    { numRuns: 500 },
  );
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 5 });
  fc.assert(
    fc.property(anyState, changes, (state, changes) => {
      const bytes = passtBytes(state);
      for (const [at, value] of changes) bytes[16 + at % (bytes.length - 16)] = value;
      outcome(bytes);
    }),
    { numRuns: 1000 },
  );
});
