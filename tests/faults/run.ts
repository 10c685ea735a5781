/** Runs lives with faults, one at a time or many at random, and holds them to what is stated. */
import { faultName, faultsOf } from "./errors.ts";
import type { Fault, Injector } from "./injector.ts";
import type { Report } from "./outcome.ts";
import { unstated } from "./stated.ts";

/** A call that a life makes: where, and how often. */
export interface Site {
  readonly name: string;
  readonly site: string;
  calls: number;
}

/** What goes wrong with a life. */
export interface Finding {
  readonly what: string;
  readonly error: string;
}

export type Live = (injector: Injector, after: () => void) => Report;

/** Descriptors of this process. */
function descriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

/**
 * All sites that a life without faults comes to, up to its last part. A life in which the
 * kernel was slower than the clock that runs ahead is lived again.
 */
export function survey(injector: Injector, live: Live): Map<string, Site> {
  for (let tries = 1;; tries++) {
    const { sites, report } = surveyOnce(injector, live);
    if (Object.keys(report).length === 0) return sites;
    if (tries === TRIES) throw new Error(`without faults: ${JSON.stringify(report)}`);
  }
}

function surveyOnce(injector: Injector, live: Live) {
  const sites = new Map<string, Site>();
  injector.decide = (name, at) => {
    if (faultsOf(name).length === 0) return undefined;
    const site = at();
    const known = sites.get(site);
    if (known === undefined) sites.set(site, { name, site, calls: 1 });
    else known.calls++;
    return undefined;
  };
  const calm = () => {
    injector.decide = () => undefined;
  };
  return { sites, report: live(injector, calm) };
}

/** A call that does not come is waited for in so many lives. */
const TRIES = 5;
/**
 * How long the loop may sleep is a matter of time, and so are which of these it is called
 * and whether a connection ends before it is reset; memory that is taken once is there.
 */
const OF_TIME = /^epoll_p?wait|^setsockopt by resetOnClose|^mmap .*\/announce\.ts/;

/** A life in which the `nth` call of a site fails; its report, or what went wrong. */
export function once(
  injector: Injector,
  live: Live,
  { name, site }: Site,
  fault: Fault,
  nth: number,
): Report | Finding {
  const what = `${site}: ${faultName(fault)}, call ${nth}`;
  for (let tries = 0; tries < TRIES; tries++) {
    const before = descriptors();
    let seen = 0;
    injector.decide = (called, at) => {
      if (called !== name || seen >= nth || at() !== site) return undefined;
      return ++seen === nth ? fault : undefined;
    };
    const result = held(what, injector, live, before);
    if (isFinding(result)) return result;
    if (seen === nth) {
      const error = unstated(site, fault, result);
      return error === "" ? result : { what, error: `not stated: ${error}` };
    }
    // How often a call comes may depend on time.
    if (seen > 0) return {};
  }
  return OF_TIME.test(site) ? {} : { what, error: "the call did not come" };
}

/** A life in which calls fail with a probability, up to its last part. */
export function storm(
  injector: Injector,
  live: Live,
  seed: number,
  probability: number,
): Report | Finding {
  const random = generator(seed);
  const failed: string[] = [];
  let calls = 0;
  // Most seeds let the start succeed.
  const from = seed % 4 === 0 ? 0 : START_CALLS;
  const before = descriptors();
  injector.decide = (name, at) => {
    const faults = faultsOf(name);
    if (calls++ < from || faults.length === 0) return undefined;
    if (random() >= probability) return undefined;
    const fault = faults[Math.floor(random() * faults.length)];
    failed.push(`${at()}: ${faultName(fault)}`);
    return fault;
  };
  const result = held(`seed ${seed}`, injector, live, before);
  if (!isFinding(result)) return result;
  return { ...result, what: `${result.what}\n  ${failed.slice(-8).join("\n  ")}` };
}

function held(
  what: string,
  injector: Injector,
  live: Live,
  before: number,
): Report | Finding {
  const calm = () => {
    injector.decide = () => undefined;
  };
  try {
    const report = live(injector, calm);
    calm();
    const lost = descriptors() - before;
    // A process that does not start leaves nothing open, whatever it had opened.
    if (lost !== 0 && report.start === undefined) {
      return { what, error: `${lost} descriptors lost` };
    }
    return report;
  } catch (error) {
    calm();
    return { what, error: (error as Error).stack ?? String(error) };
  }
}

export function isFinding(result: Report | Finding): result is Finding {
  return "what" in result;
}

/** So many calls come before the first frontend, at least. */
const START_CALLS = 60;

/** Numbers from 0 to 1 that depend on a seed alone (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}
