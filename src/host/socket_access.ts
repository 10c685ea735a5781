/** Who may connect to the sockets that vuelo listens at. */
import { giveTo, pointTo } from "../../ffi/folder_entry.ts";
import { SyscallError } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { effectiveUser } from "../../ffi/process.ts";
import { peerGroupsOf, peerOf } from "../../ffi/unix_socket.ts";
import type { Config } from "../config.ts";
import { StartError } from "../errors.ts";

const ROOT = 0;

/** Who owns the sockets, and who may connect. */
export interface SocketAccess {
  /** Whom the socket is to belong to, root aside the only user who may connect. */
  readonly user: number;
  /** --socket-group: who is in it may connect, too. */
  readonly group?: number;
}

/**
 * The access that a configuration means: for the user that --runas names, else for the one
 * who started vuelo. That is not the user that root becomes by default: nobody is many.
 */
export function accessOf(config: Pick<Config, "runAs" | "socketGroup">): SocketAccess {
  const { runAs, socketGroup } = config;
  const named = runAs !== undefined && runAs.byDefault !== true;
  const user = named ? runAs.uid : effectiveUser();
  return socketGroup === undefined ? { user } : { user, group: socketGroup };
}

/**
 * Gives a new socket, which only its maker may connect to so far, to whom it is for.
 *
 * @throws {StartError} if that is not permitted
 */
export function grant(path: string, { user, group }: SocketAccess): void {
  const others = user !== effectiveUser();
  if (!others && group === undefined) return;
  const fd = pointTo(path);
  try {
    if (fd === -1) throw new SyscallError("open()");
    // Whatever took the place of the socket meanwhile is nobody's to be given.
    const { isSocket, uid } = Deno.statSync(`/proc/self/fd/${fd}`);
    if (isSocket !== true || uid !== effectiveUser()) {
      throw new StartError(`${path}: something else has taken the socket's place`);
    }
    giveTo(fd, others ? user : undefined, group);
    if (group !== undefined) Deno.chmodSync(`/proc/self/fd/${fd}`, 0o660);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new StartError(
      `${path}: cannot be given to user ${user}` +
        (group === undefined ? "" : `, group ${group} (--socket-group)`) +
        `: ${error.message}; an ordinary user can name groups of its own`,
    );
  } finally {
    if (fd !== -1) close(fd);
  }
}

/** Why the process that made a connection may not, with what to do; "" if it may. */
export function refusalOf(fd: number, { user, group }: SocketAccess): string {
  const peer = peerOf(fd);
  if (peer === undefined) return "refused a connection: the kernel does not say whose";
  if (peer.uid === ROOT || peer.uid === user) return "";
  if (group !== undefined) {
    if (peer.gid === group || peerGroupsOf(fd).includes(group)) return "";
  }
  const expected = user === ROOT ? "root" : `user ${user} or root`;
  const orGroup = group === undefined ? "" : ` or a member of group ${group}`;
  return `refused a connection of user ${peer.uid} (process ${peer.pid}), expected ` +
    `${expected}${orGroup}: start vuelo with --socket-group, or as that user, or as ` +
    `root with --runas`;
}

const WRITABLE_BY_OTHERS = 0o022;
const STICKY = 0o1000;

/**
 * Why who listens at the other end is not to be served: a service is its owner's, whose the
 * socket or its folder is, or root's, even if others may create sockets there, too. One
 * that became another user before it listened, as passt does, is known by its socket.
 *
 * @returns "" if it is to be served
 */
export function strangerAt(fd: number, owner: number, path: string): string {
  const peer = peerOf(fd);
  if (peer === undefined) return "the kernel does not say who listens there";
  if (peer.uid === ROOT || peer.uid === owner || isMadeBy(owner, path)) return "";
  return `user ${peer.uid} (process ${peer.pid}) listens there, expected ` +
    `${owner === ROOT ? "root" : `user ${owner}, whose it is, or root`}`;
}

/** Whether a socket is the owner's or root's, where others could not have put it. */
function isMadeBy(owner: number, path: string): boolean {
  const theirs = ({ uid }: Deno.FileInfo) => uid === ROOT || uid === owner;
  const slash = path.lastIndexOf("/");
  try {
    const socket = Deno.lstatSync(path);
    const folder = Deno.statSync(slash < 0 ? "." : path.slice(0, slash + 1));
    const mode = folder.mode ?? WRITABLE_BY_OTHERS;
    const closed = (mode & WRITABLE_BY_OTHERS) === 0 || (mode & STICKY) !== 0;
    return socket.isSocket === true && theirs(socket) && theirs(folder) && closed;
  } catch {
    return false; // It is gone.
  }
}
