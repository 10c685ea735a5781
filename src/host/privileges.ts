/** Which user vuelo serves as, and the change to it. */
import {
  boundToNothing,
  CAP_NET_ADMIN,
  dropCapabilities,
  keepCapabilitiesOfUser,
  ownCapabilities,
} from "../../ffi/capabilities.ts";
import {
  becomeUser,
  effectiveUser,
  findGroup,
  findUser,
  findUserByNumber,
  type UserEntry,
} from "../../ffi/process.ts";
import type { Config } from "../config.ts";
import { StartError } from "../errors.ts";
import { canRepair } from "../repair/switch.ts";

/** Debian's and Fedora's number of nobody, and of its group. */
const NOBODY: UserEntry = { uid: 65534, gid: 65534 };
const MAX_ID = 0xffff_fffe;

/**
 * Reads `USER[:GROUP]`, each a name or a number.
 *
 * @return undefined if the system doesn't know one of them
 */
export function parseUser(text: string): UserEntry | undefined {
  const [userText, groupText, ...more] = text.split(":");
  if (more.length > 0) return undefined;
  const number = parseId(userText);
  const user = number === undefined
    ? findUser(userText)
    : { uid: number, gid: findUserByNumber(number)?.gid ?? number };
  if (user === undefined || groupText === undefined) return user;
  const gid = parseGroup(groupText);
  return gid === undefined ? undefined : { uid: user.uid, gid };
}

/** Reads a group's name or number; undefined if the system doesn't know it. */
export function parseGroup(text: string): number | undefined {
  return parseId(text) ?? (text === "" ? undefined : findGroup(text));
}

function parseId(text: string): number | undefined {
  if (!/^[0-9]{1,10}$/.test(text)) return undefined;
  const id = Number(text);
  return id <= MAX_ID ? id : undefined;
}

/**
 * The user to become without --runas: nobody for root, else undefined. "Root" of a user
 * namespace is an ordinary user that may not become another one, and stays.
 */
export function defaultUser(): UserEntry | undefined {
  if (!isRootOfHost()) return undefined;
  return findUser("nobody") ?? NOBODY;
}

function isRootOfHost(): boolean {
  return effectiveUser() === 0 && isInitialUserNamespace();
}

function isInitialUserNamespace(): boolean {
  try {
    const map = Deno.readTextFileSync("/proc/self/uid_map").trim().split(/\s+/);
    return map.join(" ") === "0 0 4294967295";
  } catch {
    // A kernel without user namespaces has only the first.
    return true;
  }
}

/**
 * Gives up what the process needed to start: call it when sockets, PID file and capture
 * are open. No thread has a capability afterwards; but with `--repair-path none`,
 * CAP_NET_ADMIN stays with this thread if it has that.
 *
 * @returns whether that is so for all threads: a change of user takes from all what it
 *   takes, but what is inherited by executed files, or was given to an ordinary user,
 *   only this thread can drop
 * @throws {StartError} if the user can't be changed
 */
export function dropPrivileges(config: Pick<Config, "runAs" | "repairPath">): boolean {
  const { runAs } = config;
  // Who wants no repair helper wants vuelo to repair connections itself.
  const repairs = config.repairPath === "none" && canRepair();
  // Root that is to stay root gives up its other groups all the same.
  const changes = runAs !== undefined &&
    (runAs.uid !== effectiveUser() || isRootOfHost());
  try {
    const before = ownCapabilities();
    const taken = changes && effectiveUser() === 0 && runAs.uid !== 0;
    boundToNothing(before);
    if (changes) {
      if (repairs) keepCapabilitiesOfUser();
      becomeUser(runAs.uid, runAs.gid);
    }
    dropCapabilities(repairs ? CAP_NET_ADMIN : undefined);
    return before.inheritable === 0n && (taken || before.permitted === 0n);
  } catch (error) {
    throw new StartError(
      `cannot become user ${runAs?.uid}, group ${runAs?.gid}: ${
        (error as Error).message
      }`,
    );
  }
}
