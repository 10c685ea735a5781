/** Descriptors that came with the process, and how many more it may have. */
import { descriptorLimit, isInherited, replaceByNull } from "../../ffi/process.ts";
import { close } from "../../ffi/event.ts";

const RESERVED = 192;
const RESERVED_PER_QUEUE = 48;

function open(): number[] {
  return [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name));
}

/** What a descriptor refers to, by the kernel's name for it. */
function target(fd: number): string | undefined {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

/** How many are open. The kernel counts them since Linux 6.2, which takes a call. */
function count(): number {
  const counted = Deno.statSync("/proc/self/fd").size;
  return counted > 0 ? counted : open().length;
}

/** How many descriptors can be opened yet. */
export function freeDescriptors(): number {
  try {
    return Math.max(0, descriptorLimit() - count());
  } catch {
    return 0; // not even one to look
  }
}

/**
 * How many sockets flows may have: what is free now, when all else is open, less a reserve
 * for what comes later. That is the frontend and what it sends (memory regions, and three
 * descriptors for each ring), its log and the state of a migration, a repair helper, and
 * sockets that each thread keeps beside its flows. Where there is little, half of it.
 *
 * @param queues queue pairs
 */
export function socketsFor(queues: number): number {
  const free = freeDescriptors();
  return Math.max(1, free - Math.min(free >> 1, RESERVED + queues * RESERVED_PER_QUEUE));
}

/** Closes all descriptors that the parent left open, but for `keep` and 0 to 2. */
export function closeInherited(keep?: number): void {
  for (const fd of open()) {
    // What the runtime itself opens is never inherited by anyone.
    if (fd > 2 && fd !== keep && isInherited(fd)) close(fd);
  }
}

/**
 * Finds standard input, output and error and the copies that the runtime made of them.
 * Call it before anything else is opened: a log file may be the same file.
 *
 * @param keepStdin leaves standard input out, which is the socket of `-F 0` then
 */
export function standardStreams(keepStdin: boolean): number[] {
  const streams = keepStdin ? [1, 2] : [0, 1, 2];
  const targets = streams.map(target).filter((name) => name !== undefined);
  const copies = open().filter((fd) => fd > 2 && targets.includes(target(fd) ?? ""));
  return [...streams, ...copies];
}

/** Points these descriptors to nowhere, so that nobody waits for their end. */
export function detach(streams: readonly number[]): void {
  replaceByNull(streams);
}
