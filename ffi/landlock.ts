/**
 * Landlock (landlock(7)): a process takes rights over files from itself, for good. Rights
 * are a thread's and those of the threads that it makes.
 */
import { Arena } from "./arena.ts";
import { Call, rawCall } from "./raw_call.ts";

const CREATE_RULESET_VERSION = 1;
const RULE_PATH_BENEATH = 1;
const O_PATH_CLOEXEC = 0o10000000 | 0o2000000;
const AT_FDCWD = -100;
/** LANDLOCK_ACCESS_FS_REMOVE_FILE. */
const REMOVE_FILE = 1 << 5;
/** LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL. */
const ALL_SCOPES = 3;
/** How many rights over files each version of the interface has (landlock(7)). */
const RIGHTS = [0, 13, 14, 15, 15, 16];

/** From this version on all threads can be put under rules at once. */
const TSYNC_VERSION = 8;
const RESTRICT_SELF_TSYNC = 1 << 3;

const encoder = new TextEncoder();

/** Version of Landlock's interface in this kernel; 0 if it has none, or it is off. */
export function landlockVersion(): number {
  return Math.max(
    0,
    rawCall(Call.landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION),
  );
}

/**
 * Makes a set of rules: no rights over files but to remove those in some folders; and from
 * version 6 on, no signals to other processes and no connections to abstract sockets.
 *
 * @param removable folders
 * @returns its descriptor, or an error number below 0
 */
export function makeRules(version: number, removable: readonly string[]): number {
  // struct landlock_ruleset_attr { u64 fs, net, scoped; }; versions below 6 know less of it
  const arena = new Arena(8192);
  const at = arena.take(24);
  const rights = RIGHTS[Math.min(version, RIGHTS.length - 1)];
  arena.view.setBigUint64(at, BigInt(2 ** rights - 1), true);
  if (version >= 6) arena.view.setBigUint64(at + 16, BigInt(ALL_SCOPES), true);
  const size = version >= 6 ? 24 : 8;
  const rules = rawCall(Call.landlock_create_ruleset, arena.base + at, size, 0);
  if (rules < 0) return rules;
  for (const folder of removable) {
    const result = addFolder(rules, folder);
    if (result === 0) continue;
    rawCall(Call.close, rules);
    return result;
  }
  return rules;
}

function addFolder(rules: number, folder: string): number {
  const name = encoder.encode(folder + "\0");
  // struct landlock_path_beneath_attr { u64 allowed_access; s32 parent_fd; }, packed
  const arena = new Arena(16 + name.length);
  const rule = arena.take(16);
  const path = arena.take(name.length);
  arena.bytes(path, name.length).set(name);
  const fd = rawCall(Call.openat, AT_FDCWD, arena.base + path, O_PATH_CLOEXEC);
  if (fd < 0) return fd;
  arena.view.setBigUint64(rule, BigInt(REMOVE_FILE), true);
  arena.view.setInt32(rule + 8, fd, true);
  const at = arena.base + rule;
  const result = rawCall(Call.landlock_add_rule, rules, RULE_PATH_BENEATH, at, 0);
  rawCall(Call.close, fd);
  return result;
}

/**
 * Puts a thread that can gain no privileges under rules and, where the kernel knows how
 * to, all others of the process.
 *
 * @returns 0 or an error number, and whether other threads follow
 */
export function restrictSelf(
  rules: number,
  version: number,
): { error: number; everyThread: boolean } {
  const everyThread = version >= TSYNC_VERSION;
  const flags = everyThread ? RESTRICT_SELF_TSYNC : 0;
  const result = rawCall(Call.landlock_restrict_self, rules, flags);
  return { error: result < 0 ? -result : 0, everyThread: everyThread && result === 0 };
}
