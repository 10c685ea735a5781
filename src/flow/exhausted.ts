/** What to do where the host has no descriptor or memory left for another socket. */
import { Errno } from "../../ffi/errno.ts";
import { log } from "../log.ts";

/** How often the log says the same, as long as it lasts. */
const WARN_MS = 60_000;
const warned = new Map<string, number>();

/** Whether a call failed for want of descriptors or memory, and may succeed later. */
export function isExhausted(number: number): boolean {
  switch (number) {
    case Errno.EMFILE:
    case Errno.ENFILE:
    case Errno.ENOBUFS:
    case Errno.ENOMEM:
      return true;
    default:
      return false;
  }
}

/**
 * Tells the operator what comes of it and what helps, once a minute at most.
 *
 * @param outcome for whom or what, and what becomes of them
 */
export function warnExhausted(outcome: string): void {
  const now = performance.now();
  if (now - (warned.get(outcome) ?? -Infinity) < WARN_MS) return;
  warned.set(outcome, now);
  log.warn(
    `${outcome}: no descriptor is left for them; raise the limit of open files ` +
      "(ulimit -Hn, LimitNOFILE, fs.file-max)",
  );
}

/** Says so if this is why a socket for the guest could not be had; returns the number. */
export function noteExhausted(number: number): number {
  if (isExhausted(number)) warnExhausted("the guest's connections fail");
  return number;
}
