/** What a process gives up besides capabilities: files, dumps of its memory. */
import { Arena } from "./arena.ts";
import { makeRules, restrictSelf } from "./landlock.ts";
import { Call, rawCall } from "./raw_call.ts";

const PR_SET_DUMPABLE = 4;
const RLIMIT_CORE = 4;

/**
 * Other processes of this user can neither trace this one nor read its memory, and nothing
 * of it is written to a file when it crashes.
 *
 * @returns 0, or an error number
 */
export function forbidDumps(): number {
  const none = new Arena(16);
  const limited = rawCall(Call.prlimit64, 0, RLIMIT_CORE, none.base, 0);
  return -(limited < 0 ? limited : rawCall(Call.prctl, PR_SET_DUMPABLE, 0));
}

/** How far {@link forbidFiles} went. */
export interface Reached {
  /** 0, or an error number. */
  readonly error: number;
  /** Whether other threads that are there follow. */
  readonly everyThread: boolean;
}

/**
 * The calling thread, those that it makes from now on and, where the kernel can, all
 * others cannot open, make or change a file by its path; see {@link makeRules}.
 * Descriptors that are open keep working.
 *
 * @param version Landlock's
 * @param removable folders in which files can be removed
 */
export function forbidFiles(version: number, removable: readonly string[]): Reached {
  const rules = makeRules(version, removable);
  if (rules < 0) return { error: -rules, everyThread: false };
  const reached = restrictSelf(rules, version);
  rawCall(Call.close, rules);
  return reached;
}
