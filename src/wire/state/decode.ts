/**
 * Streams of state of any format and version: telling them apart, reading and writing.
 */
import { gather } from "./chunks.ts";
import { cutShort, invalid, type StateError } from "./error.ts";
import { NATIVE, type WordLayout } from "./fields.ts";
import { readHeader, restIsUsed } from "./header.ts";
import type { MovedState, MovedTcp } from "./model.ts";
import {
  isPasst,
  neededPasst,
  type PasstContent,
  readPasst,
  readPasstHeader,
  writePasstFlows,
  writePasstHead,
  writePasstSockets,
} from "./passt.ts";
import { flowOf, fromPasst, passtDevice, socketOf, whyNotPasst } from "./passt_flows.ts";
import type { Section } from "./sections.ts";
import { decodeVuelo, KNOWN_VERSIONS, neededVuelo, type StreamContent } from "./vuelo.ts";

export { StateError } from "./error.ts";
export { encodeVuelo } from "./vuelo.ts";

/** Who wrote a stream, by what its header says; passt's says nothing of the layout. */
export interface StreamSource extends WordLayout {
  readonly format: "vuelo" | "passt";
  readonly version: number;
  /** passt: the oldest version whose readers can read it. */
  readonly compat?: number;
  /** vuelo: bytes of the header that mean nothing yet are not 0. */
  readonly reservedUsed?: boolean;
}

/** A stream that was read to its end. */
export interface Decoded {
  readonly format: StreamSource["format"];
  readonly source: StreamSource;
  /** Undefined in version 1 of vuelo's, which has a header alone. */
  readonly state: MovedState | undefined;
  /** vuelo's, from version 2 on. */
  readonly sections: readonly Section[];
}

/** How far {@link decode} came, for those who want to show a damaged stream. */
export interface Progress {
  /** Takes note of sections whose CRC is wrong, so that they are read all the same. */
  damaged?: ((error: StateError) => void) | undefined;
  source?: StreamSource;
  vuelo?: StreamContent;
  passt?: PasstContent;
}

/** What is needed to tell the formats apart and to judge the header. */
const JUDGED = 28;

/**
 * Judges a stream by its first bytes, as many as there are, so that a bad one is refused
 * before the rest is read.
 *
 * @returns how many bytes it has at least; if there are more than came so far, a later
 *   call with more may say more
 * @throws StateError if what came is wrong already
 */
export function neededBytes(prefix: Uint8Array): number {
  if (prefix.length < 16) return JUDGED;
  if (isPasst(prefix)) return neededPasst(prefix);
  return prefix.length < JUDGED ? JUDGED : neededVuelo(prefix);
}

/** Which format, version and source a header tells of: 28 bytes at least. */
export function readSource(bytes: Uint8Array): StreamSource {
  if (isPasst(bytes)) {
    return { format: "passt", ...NATIVE, ...readPasstHeader(bytes) };
  }
  const facts = readHeader(bytes, KNOWN_VERSIONS);
  return {
    format: "vuelo",
    ...facts,
    // Only who shows a stream asks: while a guest is moved, it waits for nothing.
    get reservedUsed() {
      return restIsUsed(bytes);
    },
  };
}

/**
 * Reads a whole stream. The queues in the result lie in `bytes`.
 *
 * @param progress is filled while this goes on
 * @throws StateError: where it breaks, what was expected and what came
 */
export function decode(bytes: Uint8Array, progress: Progress = {}): Decoded {
  const source = readSource(bytes);
  progress.source = source;
  const { format } = source;
  if (format === "passt") {
    const content: PasstContent = { flows: [], sockets: [] };
    progress.passt = content;
    const end = readPasst(bytes, content);
    if (end < bytes.length) {
      const came = `${bytes.length - end} bytes`;
      throw invalid(end, "end of the stream", "nothing more", came);
    }
    const { device } = content;
    if (device === undefined) throw cutShort(bytes.length, "addresses", 42);
    return { format, source, state: fromPasst({ ...content, device }), sections: [] };
  }
  const content: StreamContent = {
    sections: [],
    records: [],
    tcp: [],
    udp: [],
    ping: [],
    rules: [],
    damaged: progress.damaged,
  };
  progress.vuelo = content;
  const state = decodeVuelo(bytes, source, content);
  return { format, source, state, sections: content.sections };
}

/** passt's stream, and what could not be put into it. */
export interface PasstStream {
  readonly chunks: readonly Uint8Array<ArrayBuffer>[];
  /** TCP connections in it. */
  readonly carried: number;
  /** Those that are not, and why. */
  readonly left: readonly { readonly flow: number; readonly why: string }[];
}

/**
 * Writes passt's stream, version 2. It knows established TCP connections only: UDP flows,
 * pings and rules are left out without a word.
 */
export function encodePasst(state: MovedState): PasstStream {
  const { device, entries, tcp } = state;
  const carried: MovedTcp[] = [];
  const left: { flow: number; why: string }[] = [];
  for (const record of tcp) {
    const why = whyNotPasst(entries, record);
    if (why === "") carried.push(record);
    else left.push({ flow: record.flow, why });
  }
  const pieces = [
    writePasstHead(passtDevice(device), carried.length),
    writePasstFlows(carried.map((record) => flowOf(entries, record))),
    ...writePasstSockets(carried.map((record) => socketOf(entries, record))),
  ];
  return { chunks: gather(pieces), carried: carried.length, left };
}
