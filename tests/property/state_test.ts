/** Streams of state: what is written is what is read, by writers of two minds. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { decode, encodePasst, encodeVuelo } from "../../src/wire/state/decode.ts";
import type { MovedState, MovedTcp } from "../../src/wire/state/model.ts";
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

/** States of a socket whose FIN is unacknowledged, and those after the peer's FIN. */
const FIN_OUT = [4, 9, 11];
const CLOSED = [7, 8, 9, 11];
const PEER_FIN = 1 << 16;
/** Option bits that mark what vuelo wrote. */
const MARK = 0xa0;

/** Once the peer's FIN is in, there are three states only. */
function passtState(state: number, peerFin: boolean): number {
  if (FIN_OUT.includes(state)) return peerFin ? 9 : 4;
  if (!peerFin) return state;
  return state === 5 || state === 7 ? 7 : 8;
}

/** What passt's stream keeps of a record. */
function asPasstHasIt(record: MovedTcp, flow: number, kind: number): Partial<MovedTcp> {
  const { state, options } = record;
  const peerFin = (kind & PEER_FIN) !== 0 || CLOSED.includes(state);
  const kept = { ...record, flow, options: options & ~MARK, device: "", idle: 0, gap: 0 };
  return {
    ...kept,
    state: passtState(state, peerFin),
    keepIdle: 0,
    keepInterval: 0,
    keepCount: 0,
  };
}

Deno.test("what passt's stream can carry is read as it was written", () => {
  let compared = 0;
  fc.assert(
    fc.property(anyState, (state) => {
      for (let at = 0; at < state.entries.length; at += 32) state.entries[at + 29] = 0;
      const { chunks, carried, left } = encodePasst(state);
      const back = decode(join(chunks)).state;
      assert(back !== undefined);
      assertEquals(carried + left.length, state.tcp.length);
      const kept = state.tcp.filter(({ flow }) => !left.some((one) => one.flow === flow));
      assertEquals(back.tcp.length, kept.length);
      kept.forEach((record, i) => {
        compared++;
        const { gapEnd, recover } = back.tcp[i];
        const expected = asPasstHasIt(record, i, state.entries[record.flow * 32]);
        assertEquals<Partial<MovedTcp>>(back.tcp[i], { ...expected, gapEnd, recover });
        const sides = (of: MovedState, flow: number) =>
          of.entries.slice(flow * 32 + 1, flow * 32 + 19);
        assertEquals(sides(back, i), sides(state, record.flow));
      });
    }),
    { numRuns: 500 },
  );
  assert(compared > 20, `${compared}`);
});
