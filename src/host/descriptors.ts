/** Descriptors that came with the process, and how many more it may have. */
import { countEntries, openFolder } from "../../ffi/folder.ts";
import { descriptorLimit, isInherited, openNull, replaceBy } from "../../ffi/process.ts";
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

/** The folder of all descriptors, once it can't be opened any more. */
let folder: number | undefined;

/** How many the kernel says are open, which it does since Linux 6.2; else 0. */
function counted(): number {
  return Deno.statSync("/proc/self/fd").size;
}

/** Has {@link freeDescriptors} work when no file can be opened any more. */
export function prepareToCount(): void {
  if (folder === undefined && counted() === 0) folder = openFolder("/proc/self/fd");
}

function count(): number {
  return counted() || (folder === undefined ? open().length : countEntries(folder));
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
 * Call it before anything else is opened, as a log file may be the same file, but after
 * {@link closeInherited}: what has the number of a copy that was closed is none.
 *
 * @param keepStdin leaves standard input out, which is the socket of `-F 0` then
 */
export function standardStreams(keepStdin: boolean): number[] {
  const streams = keepStdin ? [1, 2] : [0, 1, 2];
  const targets = streams.map(target).filter((name) => name !== undefined);
  const copies = open().filter((fd) => fd > 2 && targets.includes(target(fd) ?? ""));
  return [...streams, ...copies];
}

/** Pipes and terminals: what nothing else in the process can be by chance. */
const STREAM = /^(?:pipe:|\/dev\/)/;

/**
 * Call it when all threads are there: each has made copies of its own.
 *
 * @param streams as {@link standardStreams} found them
 * @returns what points these descriptors to nowhere, so that nobody waits for their end,
 *   and gives 0 or an error number; it works when no file can be opened any more
 */
export function prepareToDetach(streams: readonly number[]): () => number {
  const targets = streams.map(target).filter((name) => name?.match(STREAM));
  const copies = open().filter((fd) =>
    fd > 2 && !streams.includes(fd) && targets.includes(target(fd))
  );
  const nowhere = openNull();
  return () => replaceBy(nowhere, [...streams, ...copies]);
}
