/** How the helper gives up every right but one, at once. */
import {
  boundTo,
  CAP_NET_ADMIN,
  execute,
  forbidTracing,
  keepCapabilitiesOfUser,
  keepOnly,
  rightsOfThreads,
} from "../../ffi/capabilities.ts";
import { Errno, SyscallError } from "../../ffi/errno.ts";
import {
  becomeUser,
  effectiveUser,
  findUserByNumber,
  forbidNewPrivileges,
} from "../../ffi/process.ts";
import { StartError } from "../errors.ts";
import { log } from "../log.ts";

/** Names the process that has narrowed itself, so that it tries once only. */
const MARKER = "VUELO_REPAIR_NARROWED";

/** Whether no thread has a capability besides CAP_NET_ADMIN. */
export function isNarrow(): boolean {
  const allowed = 1n << BigInt(CAP_NET_ADMIN);
  return rightsOfThreads().every((thread) => (thread.capabilities & ~allowed) === 0n);
}

/**
 * Gives up what is not needed; afterwards the process cannot be traced, either.
 *
 * Root becomes `owner` if that is another user: without root's capabilities it could not
 * connect to that user's socket, and would still own root's files. libc changes the user
 * of all threads, whereupon only this one has a capability left. In all other cases (root
 * stays root, a user with more capabilities) the program is executed once more, since a
 * thread cannot change another one's: then all threads have what this one had left. Where
 * it may no longer read its own executable, this thread alone has given up its rights; it
 * is the only one that acts.
 *
 * @throws {StartError} if CAP_NET_ADMIN is missing
 */
export function narrowToNetAdmin(owner: { uid: number; gid: number }): void {
  const again = Deno.env.get(MARKER) === String(Deno.pid);
  Deno.env.delete(MARKER);
  try {
    forbidNewPrivileges();
    if (!isNarrow()) {
      boundTo(CAP_NET_ADMIN);
      becomeOwner(owner);
      keepOnly(CAP_NET_ADMIN);
    }
    // Last, as changing the user and executing make it traceable again.
    forbidTracing();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    const missing = error.call === "capset()" && error.number === Errno.EPERM;
    throw new StartError(missing ? MISSING : `cannot give up rights: ${error.message}`);
  }
  if (!again && !isNarrow()) startAgain();
}

/** Executes this program once more, with the rights that this thread has. */
function startAgain(): void {
  Deno.env.set(MARKER, String(Deno.pid));
  const program = Deno.execPath();
  const args = Deno.build.standalone
    ? Deno.args
    : ["run", "--quiet", "--allow-all", Deno.mainModule, ...Deno.args];
  try {
    execute(program, [program, ...args]);
  } catch (error) {
    log.warn(`repair: idle threads keep the rights of root: ${(error as Error).message}`);
  }
}

/** What to do about a helper that may not do its work. */
export const MISSING =
  "CAP_NET_ADMIN is missing: start vuelo repair as root, or give its executable the " +
  "capability (setcap cap_net_admin=ep vuelo), in the user namespace that the network " +
  "namespace of the connections belongs to";

function becomeOwner({ uid, gid }: { uid: number; gid: number }): void {
  if (effectiveUser() !== 0 || uid === 0) return;
  keepCapabilitiesOfUser();
  try {
    becomeUser(uid, findUserByNumber(uid)?.gid ?? gid);
  } catch (error) {
    // Root of a user namespace that does not have this user, or of few rights.
    log.warn(`repair: stays root: ${(error as Error).message}`);
  }
}
