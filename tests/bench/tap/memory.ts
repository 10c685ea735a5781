/** The memory of the guest behind a tap: rings and buffers, at the same place for all. */
import { vringLayout } from "./layout.ts";

/** Where the guest sees byte 0. */
export const GUEST_BASE = 0x4000_0000;
export const RING_SIZE = 256;
/** A frame of 64 KiB with its headers, in whole pages. */
export const SLOT = 69_632;
/** Descriptors of a frame of the guest that lies in pieces. */
export const TABLE = 16 * 8;

/** Offsets of what belongs to one queue pair. */
export interface PairPlaces {
  readonly rx: number;
  readonly tx: number;
  readonly tables: number;
  readonly rxBuffers: number;
  readonly txSlots: number;
  readonly end: number;
}

const PAGE = 4096;
const pages = (bytes: number) => Math.ceil(bytes / PAGE) * PAGE;

/** Places of pair `pair`, whose receive buffers have `rxBuffer` bytes. */
export function pairPlaces(pair: number, rxBuffer: number): PairPlaces {
  const ring = pages(vringLayout(RING_SIZE).size);
  const buffers = pages(RING_SIZE * rxBuffer);
  const tables = pages(RING_SIZE * TABLE);
  const size = 2 * ring + tables + buffers + RING_SIZE * SLOT;
  const rx = pair * size;
  return {
    rx,
    tx: rx + ring,
    tables: rx + 2 * ring,
    rxBuffers: rx + 2 * ring + tables,
    txSlots: rx + 2 * ring + tables + buffers,
    end: rx + size,
  };
}

/** What a thread is told. */
export interface ThreadJob {
  readonly role: "send" | "receive";
  /** Address in this process and size of the guest's memory. */
  readonly base: number;
  readonly size: number;
  readonly places: PairPlaces;
  readonly rxBuffer: number;
  readonly tap: number;
  readonly kick: number;
  readonly call: number;
  readonly mergeable: boolean;
  readonly eventIdx: boolean;
  /** Frames of the guest lie in pieces. */
  readonly indirect: boolean;
}
