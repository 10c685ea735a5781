/** Streams of state that a migration brings (src/wire/state), vuelo's and passt's. */
import {
  decode,
  encodeVuelo,
  neededBytes,
  StateError,
} from "../../../src/wire/state/decode.ts";
import type { MovedState } from "../../../src/wire/state/model.ts";
import type { Target } from "../engine/target.ts";
import { STREAM_LENGTH, STREAM_SEEDS, streamOf } from "../streams.ts";

const ERRORS = [22, 61, 95];

/** Undefined if the stream was refused. */
function tried<T>(bytes: Uint8Array, read: (bytes: Uint8Array) => T): T | undefined {
  try {
    return read(bytes);
  } catch (error) {
    if (!(error instanceof StateError)) throw error;
    const inside = error.offset >= 0 && error.offset <= bytes.length;
    if (!inside || !ERRORS.includes(error.number)) throw new Error("a wrong refusal");
    return undefined;
  }
}

function written(state: MovedState): Uint8Array<ArrayBuffer> {
  const chunks = encodeVuelo(state);
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

const target: Target = {
  maxLength: STREAM_LENGTH,
  seeds: STREAM_SEEDS,
  run(input) {
    const bytes = streamOf(input);
    const needed = tried(bytes, neededBytes);
    const decoded = tried(bytes, decode);
    if (decoded === undefined) return;
    if (needed === undefined) throw new Error("refused early, but taken");
    if (needed > bytes.length) throw new Error("taken, though bytes are missing");
    const { state } = decoded;
    // passt's queues are of one kind that vuelo's writer marks; its own come back the same.
    if (state === undefined || decoded.format === "passt") return;
    const once = written(state);
    const again = decode(once).state;
    if (again === undefined) throw new Error("a state is lost");
    const twice = written(again);
    if (once.length !== twice.length || once.some((byte, i) => byte !== twice[i])) {
      throw new Error("a state comes back as another one");
    }
  },
};
export default target;
