/**
 * What may become of a guest's life when one call fails: docs/security/faults.md says it in
 * words. Whatever is not stated here is a finding, as is an exception, a wait without end,
 * a descriptor or flow that is left, or a next frontend that is not served.
 */
import { Errno } from "../../ffi/errno.ts";
import { type Fault, SHORT } from "./injector.ts";
import type { Outcome, Report } from "./outcome.ts";

/** With these the caller is to try again; nothing may be lost by them. */
const TEMPORARY: readonly Fault[] = [SHORT, Errno.EAGAIN, Errno.EINTR];

/** How each step may fail; one that is not listed always succeeds. */
const STATED: Readonly<Record<string, readonly Outcome[]>> = {
  "start": ["start refused"],
  "connect": ["refused", "closed"],
  "repair helper": ["closed"],
  "rehearsal": [],
  "reset": ["refused", "closed"],
  "second frontend": ["refused", "closed"],
  "odd descriptors": ["refused", "closed"],
  "half a message": ["closed"],
  "TCP": ["reset"],
  "TCP forwarded": ["reset"],
  "TCP before a move": ["reset"],
  "move": ["not moved", "refused", "closed"],
  "TCP after a move": ["reset"],
};

/** Where an error that is temporary elsewhere is not. */
function isFinal(site: string, fault: Fault): boolean {
  // A frontend that takes no answers is sent away.
  if (site.includes(" at src/vhost_user/channel.ts") && site.startsWith("sendmsg")) {
    return fault !== Errno.EINTR;
  }
  // A helper with a few messages to read yet takes no more: it is of no use.
  if (/^sendmsg .* at src\/repair\/remote\.ts/.test(site)) return fault === Errno.EAGAIN;
  // A socket that is frozen gives and takes at once what it has and has room for.
  if (/^(?:send|recv) .* at src\/flow\/tcp\/(?:save|rebuild)/.test(site)) {
    return fault === Errno.EAGAIN;
  }
  // No port of the host is left; no memory can be had at the start.
  return fault === Errno.EAGAIN && /^(connect|mmap|setres)/.test(site);
}

/** What of a report is not stated for a fault, "" if nothing. */
export function unstated(site: string, fault: Fault, report: Report): string {
  const temporary = TEMPORARY.includes(fault) && !isFinal(site, fault);
  const wrong = Object.entries(report).filter(([step, outcome]) =>
    temporary || STATED[step]?.includes(outcome) !== true
  );
  return wrong.map(([step, outcome]) => `${step}: ${outcome}`).join(", ");
}
