/** Segments that are no part of any conversation: all flags there are, in all places. */
import { LONG } from "./abuse_world.ts";

/** CWR, ECE, URG, ACK, PSH, RST, SYN, FIN; in the long form also with and without NS. */
export const COMBINATIONS = LONG ? 512 : 256;
/** Connections at once. */
export const BATCH = 64;
/** Where numbering starts: what follows soon goes over 2 ** 32. */
export const START = 0xffff_fffd;
const EMPTY: Uint8Array = new Uint8Array(0);
export const NEW = Uint8Array.of(1, 2, 3, 4, 5, 6, 7);
const WRONG = 0xee;

/** A segment's place: what it says, from what would be right. */
export interface Place {
  readonly name: string;
  readonly seq: number;
  readonly ack: number;
  /** Its payload, of which what the peer has already is wrong. */
  readonly data: Uint8Array;
}

function overlapping(before: number): Uint8Array {
  return Uint8Array.from([...new Uint8Array(before).fill(WRONG), ...NEW]);
}

/** Places inside the window, at its edges, and far outside of any that was ever offered. */
export const PLACES: readonly Place[] = [
  { name: "next, no data", seq: 0, ack: 0, data: EMPTY },
  { name: "next", seq: 0, ack: 0, data: NEW },
  { name: "overlaps what has come", seq: -2, ack: 0, data: overlapping(2) },
  { name: "all of it has come", seq: -2, ack: 0, data: overlapping(2).subarray(0, 2) },
  { name: "behind a hole", seq: 5, ack: 0, data: NEW },
  { name: "beyond the window", seq: 2 ** 24 + 70_000, ack: 0, data: NEW },
  { name: "before all", seq: -100_000, ack: 0, data: NEW },
  { name: "half the numbers away", seq: 2 ** 31, ack: 0, data: NEW },
  { name: "acknowledges what was never sent", seq: 0, ack: 2, data: NEW },
  { name: "acknowledges what was never sent, by far", seq: 0, ack: 2 ** 30, data: NEW },
  { name: "acknowledges long ago", seq: 0, ack: -(2 ** 30), data: NEW },
];

/** A segment that is tried. */
export interface Case {
  readonly flags: number;
  readonly place: Place;
}

/**
 * Every combination of flags: in every place in the long form, else in one that follows
 * from the flags.
 *
 * @param shift other combinations meet in other places
 */
export function everyCase(shift: number): Case[] {
  return Array.from({ length: COMBINATIONS }, (_, flags) => {
    const places = LONG ? PLACES : [PLACES[(flags * 7 + shift) % PLACES.length]];
    return places.map((place) => ({ flags, place }));
  }).flat();
}

/** In as many at a time as there are connections at once. */
export function batches(cases: readonly Case[]): Case[][] {
  const count = Math.ceil(cases.length / BATCH);
  return Array.from({ length: count }, (_, i) => cases.slice(i * BATCH, (i + 1) * BATCH));
}
