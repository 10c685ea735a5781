/** Streams of either format on one side, what moves on the other. */
import { Errno } from "../../ffi/errno.ts";
import type { StateFormat } from "../config.ts";
import {
  decode,
  encodePasst,
  encodeVuelo,
  neededBytes,
  StateError,
  type StreamSource,
} from "../wire/state/decode.ts";
import { nameConnection } from "../wire/state/flow_entry.ts";
import type { MovedState } from "../wire/state/model.ts";
import { type MoveCounts, NOTHING_MOVED } from "./summary.ts";
import type { Version } from "./versions.ts";

/** A stream that was read whole. */
export interface ParsedState {
  readonly format: StateFormat;
  readonly version: number;
  /** Undefined if the version carries none. */
  readonly state: MovedState | undefined;
  readonly counts: MoveCounts;
  /** What was seen, for the log. */
  readonly description: string;
}

/** Why a stream was refused. */
export interface Unreadable {
  readonly number: number;
  readonly problem: string;
}

/** A stream to be written. */
export interface FormattedState {
  readonly chunks: readonly Uint8Array<ArrayBuffer>[];
  readonly counts: MoveCounts;
  /** Connections that the format cannot carry, with the reason, as lines for the log. */
  readonly left: readonly string[];
}

/**
 * The stream of a version, in pieces; large ones are views of the state's own bytes.
 */
export function formatState(
  version: Version,
  state: MovedState,
): FormattedState {
  const counts = count(state);
  if (version.format === "vuelo") {
    const chunks = encodeVuelo(state, version.version);
    return { chunks, counts: version.carries ? counts : NOTHING_MOVED, left: [] };
  }
  const { chunks, carried, left } = encodePasst(state);
  return {
    chunks,
    counts: { tcp: carried, left: left.length, udp: 0, ping: 0 },
    left: left.map(({ flow, why }) =>
      `${nameConnection(state.entries, flow)} is not carried: ${why}`
    ),
  };
}

/**
 * Judges what has come so far; undefined if nothing is wrong with it.
 *
 * @param most bytes that the whole stream may have
 */
export function judgeStart(bytes: Uint8Array, most: number): Unreadable | undefined {
  try {
    const needed = neededBytes(bytes);
    if (needed <= most) return undefined;
    const problem = `the stream is to have ${needed} bytes, expected ${most} at most ` +
      "(--max-state)";
    return { number: Errno.EFBIG, problem };
  } catch (error) {
    return refusal(error);
  }
}

/** Reads a stream of any format and version that is known. */
export function parseState(bytes: Uint8Array<ArrayBuffer>): ParsedState | Unreadable {
  try {
    const { format, source, state } = decode(bytes);
    return {
      format,
      version: source.version,
      state,
      counts: state === undefined ? NOTHING_MOVED : count(state),
      description: describeSource(source, bytes.length),
    };
  } catch (error) {
    return refusal(error);
  }
}

function refusal(error: unknown): Unreadable {
  if (!(error instanceof StateError)) throw error;
  return { number: error.number, problem: error.message };
}

function count({ tcp, udp, ping }: MovedState): MoveCounts {
  const left = tcp.reduce((sum, { lost }) => sum + (lost === "" ? 0 : 1), 0);
  return { tcp: tcp.length - left, left, udp: udp.length, ping: ping.length };
}

function describeSource(source: StreamSource, length: number): string {
  const { format, version } = source;
  if (format === "passt") return `${length} bytes from passt, version ${version}`;
  const order = source.littleEndian ? "little" : "big";
  return `${length} bytes from vuelo, version ${version}, ${order}-endian, pointers of ` +
    `${source.pointerSize} bytes, times of ${source.timeSize}`;
}
