/** Streams of either format on one side, what moves on the other. */
import type { StateFormat } from "../config.ts";
import type { MovedState } from "../wire/state/model.ts";
import type { MoveCounts } from "./summary.ts";
import type { Version } from "./versions.ts";

/** A stream that was read whole. */
export interface ParsedState {
  readonly format: StateFormat;
  readonly version: number;
  /** Undefined if the version carries none. */
  readonly state?: MovedState;
  readonly counts: MoveCounts;
  /** What was seen, for the log. */
  readonly description: string;
}

/** Why a stream was refused. */
export interface Unreadable {
  readonly number: number;
  readonly problem: string;
}

/** The stream of a version, in pieces; the pieces are views of the state's own bytes. */
export function formatState(
  version: Version,
  state: MovedState | undefined,
): { readonly bytes: Uint8Array<ArrayBuffer>[]; readonly counts: MoveCounts } {
  throw new Error(`${version.format} ${state}`);
}

/** Reads a stream of any format and version that is known. */
export function parseState(bytes: Uint8Array<ArrayBuffer>): ParsedState | Unreadable {
  throw new Error(`${bytes.length}`);
}
