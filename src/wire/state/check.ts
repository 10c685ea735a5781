/**
 * What must hold of flow entries, whatever the format they came in, so that the flow
 * table and its services may rely on them.
 */
import { invalid } from "./error.ts";
import { FLOW_WORDS, FlowKind, FlowWord, PingWord, UdpWord } from "./flow_entry.ts";
import type { MovedTcp } from "./model.ts";
import { TcpFlow, TcpState, TcpWord } from "./tcp_entry.ts";

/** Where a word of an entry lies in the stream, for errors. */
export type WordOffset = (flow: number, word: number) => number;

/** 65535 << 14: the most that may be under way (RFC 7323, section 2.3), and a FIN. */
const MOST_IN_FLIGHT = 2 ** 30;
const MAX_SCALE = 14;
const MAX_HINT = 64;
const MAX_DISCOVER = 5;
/** The third word of an IPv4 address, mapped. */
const MAPPED = new Int32Array(Uint8Array.of(0, 0, 0xff, 0xff).buffer)[0];
/** The highest state of each kind. */
const LAST_STATE = [0, TcpState.established, 0, 0, 0];

/**
 * Checks all entries.
 *
 * @throws StateError
 */
export function checkEntries(
  entries: Int32Array<ArrayBuffer>,
  offsetOf: WordOffset,
): void {
  const seen = LAST_STATE.map(() => new Map<string, number>());
  const check = new EntryCheck(entries, offsetOf);
  for (let flow = 0; flow * FLOW_WORDS < entries.length; flow++) {
    check.select(flow);
    const key = check.key();
    const other = seen[check.kind].get(key);
    if (other !== undefined) {
      throw check.error(
        FlowWord.guestPorts,
        "guest side",
        "one of its own",
        `${other}'s`,
      );
    }
    seen[check.kind].set(key, flow);
  }
}

/** Checks entries, one at a time. */
class EntryCheck {
  /** Kind of the entry. */
  kind = 0;
  readonly #halves: Uint16Array;
  #flow = 0;
  #at = 0;

  constructor(readonly words: Int32Array<ArrayBuffer>, readonly offsetOf: WordOffset) {
    const { buffer, byteOffset, length } = words;
    this.#halves = new Uint16Array(buffer, byteOffset, length * 2);
  }

  /** Checks an entry, which errors and the key are then of. */
  select(flow: number): void {
    this.#flow = flow;
    this.#at = flow * FLOW_WORDS;
    this.kind = this.words[this.#at] & 0xff;
    this.#all();
  }

  error(word: number, field: string, expected: string, came: number | string): Error {
    const offset = this.offsetOf(this.#flow, word);
    return invalid(offset, `flow ${this.#flow}: ${field}`, expected, came);
  }

  /** Checks that bits of a word lie in a range. */
  #range(word: number, field: string, value: number, low: number, high: number): void {
    if (value >= low && value <= high) return;
    throw this.error(word, field, `${low} to ${high}`, value);
  }

  #word(word: number): number {
    return this.words[this.#at + word];
  }

  /** What its guest side is found by, among those of its kind: ports and addresses. */
  key(): string {
    const start = (this.#at + FlowWord.guestPorts) * 2;
    const side = this.#halves.subarray(start, start + 18);
    return String.fromCharCode.apply(null, side as unknown as number[]);
  }

  #all(): void {
    const kind = this.kind;
    this.#range(FlowWord.kind, "kind", kind, FlowKind.tcp, FlowKind.ping6);
    const state = (this.#word(FlowWord.kind) >>> 8) & 0xff;
    const first = kind === FlowKind.tcp ? TcpState.connecting : 0;
    this.#range(FlowWord.kind, "state", state, first, LAST_STATE[kind]);
    const fd = this.#word(FlowWord.fd);
    if (fd !== -1) throw this.error(FlowWord.fd, "descriptor", "-1", fd);
    this.#addresses("guest side", FlowWord.guestOur, FlowWord.guestEndpoint);
    this.#addresses("host side", FlowWord.hostOur, FlowWord.hostEndpoint);
    this.#families();
    if (kind === FlowKind.tcp) this.#tcp(state);
    else if (kind === FlowKind.udp) this.#udp();
    else this.#ping();
  }

  /** Both of one family, where they are known. */
  #addresses(side: string, our: number, endpoint: number): void {
    const family = this.#family(endpoint);
    if (family === 0 && endpoint === FlowWord.hostEndpoint) {
      throw this.error(endpoint, `${side}, endpoint`, "an address", "none");
    }
    const other = this.#family(our);
    if (family === 0 || other === 0 || family === other) return;
    throw this.error(our, `${side}, addresses`, "both of one family", "one of each");
  }

  /** One for both sides, as nothing is translated, and for the kind. */
  #families(): void {
    const peer = this.#family(FlowWord.hostEndpoint);
    const guest = this.#family(FlowWord.guestEndpoint) || this.#family(FlowWord.guestOur);
    if (guest !== 0 && guest !== peer) {
      const expected = `IPv${peer}, as on the host side`;
      const word = FlowWord.guestEndpoint;
      throw this.error(word, "guest side, family", expected, `IPv${guest}`);
    }
    if (this.kind !== FlowKind.ping4 && this.kind !== FlowKind.ping6) return;
    const kind = peer === 4 ? FlowKind.ping4 : FlowKind.ping6;
    if (this.kind === kind) return;
    throw this.error(FlowWord.kind, "kind", `${kind}, a ping of IPv${peer}`, this.kind);
  }

  /** 4 or 6, or 0 of the unspecified address of either family. */
  #family(word: number): number {
    const words = this.words;
    const at = this.#at + word;
    if (words[at] !== 0 || words[at + 1] !== 0) return 6;
    if (words[at + 2] === MAPPED) return words[at + 3] === 0 ? 0 : 4;
    return words[at + 2] === 0 && words[at + 3] === 0 ? 0 : 6;
  }

  #tcp(state: number): void {
    const port = this.#word(FlowWord.hostPorts) & 0xffff;
    this.#range(FlowWord.hostPorts, "port of the peer", port, 1, 65535);
    const counts = this.#word(TcpWord.counts);
    this.#range(TcpWord.counts, "window scale of the guest", counts & 0xff, 0, MAX_SCALE);
    const ours = (counts >>> 8) & 0xff;
    this.#range(TcpWord.counts, "window scale to the guest", ours, 0, MAX_SCALE);
    this.#range(TcpWord.counts, "upper bits of its counts", counts >>> 24, 0, 0);
    this.#range(TcpWord.mss, "MSS", this.#word(TcpWord.mss), 1, 65535);
    const acknowledged = this.#word(TcpWord.ackFromGuest);
    const next = this.#word(TcpWord.seqToGuest);
    const highest = this.#word(TcpWord.seqMax);
    const flying = next - acknowledged | 0;
    const most = highest - acknowledged | 0;
    this.#range(TcpWord.seqMax, "bytes under way", most, 0, MOST_IN_FLIGHT);
    this.#range(TcpWord.seqToGuest, "next byte to the guest", flying, 0, most);
    if (state < TcpState.synSent) this.#acknowledged();
    else if (state === TcpState.established) {
      this.#acknowledged();
      this.#fins();
    }
  }

  /** Of what the guest sent, at most all is acknowledged. */
  #acknowledged(): void {
    const told = this.#word(TcpWord.ackToGuest);
    const taken = this.#word(TcpWord.seqFromGuest) - told | 0;
    this.#range(TcpWord.ackToGuest, "bytes taken", taken, 0, MOST_IN_FLIGHT);
  }

  #fins(): void {
    const flags = this.#word(FlowWord.kind);
    const sent = (flags & TcpFlow.finSent) !== 0;
    const told = (flags & (TcpFlow.finToGuest | TcpFlow.finToGuestAcked)) !== 0;
    if (sent || !told) return;
    throw this.error(FlowWord.kind, "flags", "a FIN that was sent", "only its state");
  }

  #udp(): void {
    this.#range(UdpWord.ttl, "TTL", this.#word(UdpWord.ttl), 0, 255);
    this.#range(UdpWord.hint, "hint", this.#word(UdpWord.hint), 0, MAX_HINT);
    const size = this.#word(UdpWord.size);
    this.#range(UdpWord.size, "expected size", size, 0, 65535);
    const listener = this.#word(UdpWord.listener);
    this.#range(UdpWord.listener, "listener", listener, 0, 1 << 18);
  }

  #ping(): void {
    this.#range(PingWord.ttl, "TTL", this.#word(PingWord.ttl), 0, 255);
    const discover = this.#word(PingWord.discover);
    this.#range(PingWord.discover, "path MTU discovery", discover, 0, MAX_DISCOVER);
  }
}

/**
 * Keeps account of which entries have a record: one each.
 *
 * @throws StateError
 */
export class RecordCheck {
  readonly #has: Uint8Array;

  constructor(readonly entries: Int32Array) {
    this.#has = new Uint8Array(entries.length / FLOW_WORDS);
  }

  /** Notes a record for a flow of one of the kinds. */
  note(offset: number, what: string, flow: number, kinds: readonly number[]): void {
    const field = `${what}: flow`;
    if (flow >= this.#has.length) {
      const expected = `below ${this.#has.length}, the flow table's count`;
      throw invalid(offset, field, expected, flow);
    }
    const kind = this.entries[flow * FLOW_WORDS] & 0xff;
    if (!kinds.includes(kind)) {
      const expected = `a flow of kind ${kinds.join(" or ")}`;
      throw invalid(offset, field, expected, `flow ${flow} of kind ${kind}`);
    }
    if (this.#has[flow] !== 0) {
      throw invalid(offset, field, "a flow without a record", `flow ${flow} once more`);
    }
    this.#has[flow] = 1;
  }

  /** Checks that none lacks one. */
  finish(offsetOf: WordOffset): void {
    const flow = this.#has.indexOf(0);
    if (flow < 0) return;
    throw invalid(offsetOf(flow, 0), `flow ${flow}`, "a record of it", "none");
  }
}

/** Kinds that a record may be for. */
export const KINDS = {
  tcp: [FlowKind.tcp],
  udp: [FlowKind.udp],
  ping: [FlowKind.ping4, FlowKind.ping6],
} as const satisfies Record<string, readonly number[]>;

/** Bytes that were sent to the guest, were not acknowledged, and may be sent again. */
export function bytesUnderWay(entries: Int32Array, flow: number): number {
  const at = flow * FLOW_WORDS;
  const flags = entries[at];
  if (((flags >>> 8) & 0xff) !== TcpState.established) return 0;
  const sent = entries[at + TcpWord.seqMax] - entries[at + TcpWord.ackFromGuest] | 0;
  const fins = flags & (TcpFlow.finSent | TcpFlow.finToGuestAcked);
  return fins === TcpFlow.finSent ? sent - 1 : sent;
}

/**
 * The record, marked lost if its entry and its queue contradict each other: a connection
 * that went on would deliver other bytes than the peer sent.
 */
export function withoutHoles(entries: Int32Array, record: MovedTcp): MovedTcp {
  if (record.lost !== "") return record;
  const state = (entries[record.flow * FLOW_WORDS] >>> 8) & 0xff;
  if (state === TcpState.connecting) return lose(record, "it was not connected yet");
  const sent = bytesUnderWay(entries, record.flow);
  if (sent <= record.receiveQueue.length) return record;
  const held = record.receiveQueue.length;
  return lose(record, `${sent} bytes under way to the guest, but ${held} in its queue`);
}

const EMPTY = new Uint8Array();

/** A connection that cannot be moved, without queues. */
export function lose(record: MovedTcp, lost: string): MovedTcp {
  return { ...record, lost, notSent: 0, sendQueue: EMPTY, receiveQueue: EMPTY };
}
