/** Streams of state: what is written is what is read, by writers of two minds. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { decode, encodeVuelo } from "../../src/wire/state/decode.ts";
import type { MovedState } from "../../src/wire/state/model.ts";
import { anyState, sampleState } from "../support/state_samples.ts";
import { MACHINES, writeState } from "../support/state_writer.ts";

function join(chunks: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(chunks.flatMap((chunk) => [...chunk]));
}

/** Fast, and says which part differs. */
function assertSame(actual: MovedState | undefined, expected: MovedState): void {
  assert(actual !== undefined);
  for (const key of Object.keys(expected) as (keyof MovedState)[]) {
    assertEquals(actual[key], expected[key], key);
  }
}

Deno.test("a state is read as it was written, and lies as documented", () => {
  const native = MACHINES.find(({ little, pointer, time }) =>
    little && pointer === 8 && time === 8
  );
  assert(native !== undefined);
  fc.assert(
    fc.property(anyState, (state) => {
      const bytes = join(encodeVuelo(state));
      assertEquals(bytes.subarray(65536), writeState(native, state).subarray(65536));
      assertEquals(bytes.subarray(0, 28), writeState(native, state).subarray(0, 28));
      assertSame(decode(bytes).state, state);
    }),
    { numRuns: 300 },
  );
});

for (const machine of MACHINES) {
  const { little, pointer, time } = machine;
  const name = `${little ? "little" : "big"} endian, ${pointer}-byte pointers, ` +
    `${time}-byte times`;
  Deno.test(`read from a source with ${name}`, () => {
    const { source, state } = decode(writeState(machine, sampleState()));
    assertEquals(
      [source.littleEndian, source.pointerSize, source.timeSize],
      [little, pointer, time],
    );
    assertSame(state, sampleState());
    fc.assert(
      fc.property(anyState, (state) => {
        assertSame(decode(writeState(machine, state)).state, state);
      }),
      { numRuns: 100 },
    );
  });
}
