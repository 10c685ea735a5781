/** Memory and descriptors that the threads of the data path share. */
import { eventfdCreate } from "../../ffi/event.ts";
import { OWNERS_SIZE } from "./owners.ts";
import { ringMemory } from "./ring.ts";

/** Bytes in flight from one thread to another: 15 of the largest frames. */
export const RING_SIZE = 1 << 20;
/** One word per thread, on cache lines of their own. */
export const FLAG_STRIDE = 16;
/** Bytes to count flows in. */
const BOUNDS_SIZE = 256;
/** Bytes for what is known of the guest. */
const GUEST_SIZE = 256;

/** As it is sent to a thread when it starts. */
export interface SharedParts {
  readonly threads: number;
  /** A ring for each pair of threads, by sender and receiver. */
  readonly rings: SharedArrayBuffer;
  /** Who sleeps. */
  readonly flags: SharedArrayBuffer;
  readonly owners: SharedArrayBuffer;
  readonly guest: SharedArrayBuffer;
  /** How many flows there are, of all threads. */
  readonly bounds: SharedArrayBuffer;
  /** Keys of the flows' hash and of initial sequence numbers. */
  readonly hashKey: Uint32Array<ArrayBuffer>;
  readonly sequenceKey: Uint32Array<ArrayBuffer>;
  /** An eventfd for each thread. */
  readonly wakeFds: readonly number[];
}

/** Makes what `threads` threads share. @throws {SyscallError} without descriptors */
export function makeShared(threads: number): SharedParts {
  return {
    threads,
    rings: new SharedArrayBuffer(threads * threads * ringMemory(RING_SIZE)),
    flags: new SharedArrayBuffer(threads * FLAG_STRIDE * 4),
    owners: new SharedArrayBuffer(OWNERS_SIZE),
    guest: new SharedArrayBuffer(GUEST_SIZE),
    bounds: new SharedArrayBuffer(BOUNDS_SIZE),
    hashKey: crypto.getRandomValues(new Uint32Array(4)),
    sequenceKey: crypto.getRandomValues(new Uint32Array(4)),
    wakeFds: Array.from({ length: threads }, () => eventfdCreate()),
  };
}
