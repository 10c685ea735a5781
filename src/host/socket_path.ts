/** Where sockets are made: the path if none is given, and what may be there before. */
import { pointTo, renameToNew } from "../../ffi/folder_entry.ts";
import { Errno, errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { connectUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";

/** Paths that are tried, as many as passt tries. */
const CANDIDATES = 64;

/**
 * The first of /tmp/vuelo_1.socket and so on where there is nothing, or a socket that
 * nobody listens at and that this user may remove.
 *
 * @throws {StartError} if none is free
 */
export function freeSocketPath(folder = "/tmp"): string {
  for (let n = 1; n <= CANDIDATES; n++) {
    const path = `${folder}/vuelo_${n}.socket`;
    try {
      removeStale(path);
      return path;
    } catch (error) {
      if (!(error instanceof StartError)) throw error;
    }
  }
  throw new StartError(
    `${folder}/vuelo_1.socket to vuelo_${CANDIDATES}.socket are all in use: ` +
      "give a path with --socket-path",
  );
}

/** Which file is at a path, links not followed; "" if none can be seen. */
export function identityOf(path: string): string {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch {
    return "";
  }
}

/**
 * Makes way for a socket: removes one that nobody listens at, and nothing else.
 *
 * @throws {StartError} for anything else that is there, or if that cannot be told
 */
export function removeStale(path: string): void {
  // Held, so that no other file can get the same number meanwhile.
  const held = pointTo(path);
  if (held === -1) {
    if (errno() === Errno.ENOENT) return;
    throw new StartError(`${path}: ${errnoName(errno())}`);
  }
  try {
    const self = `/proc/self/fd/${held}`;
    const { isSocket, dev, ino } = Deno.statSync(self);
    if (isSocket !== true) {
      throw new StartError(
        `${path}: exists and is not a socket; remove it or name another`,
      );
    }
    if (isListening(path, self)) {
      throw new StartError(
        `${path}: another process listens there; stop it or name another`,
      );
    }
    removeThat(path, `${dev}:${ino}`);
  } finally {
    close(held);
  }
}

/** @param self another name of the socket at `path` */
function isListening(path: string, self: string): boolean {
  try {
    close(connectUnix(self));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.number === Errno.ECONNREFUSED) return false;
    if (error.number !== Errno.EAGAIN) {
      const reason = errnoName(error.number);
      throw new StartError(`${path}: cannot tell whether anybody listens (${reason})`);
    }
  }
  return true;
}

/**
 * Removes the file that was seen at a path. If another has taken its place since (of a
 * vuelo that starts at the same time, say), that one stays: it is put aside, looked at,
 * and put back.
 */
function removeThat(path: string, identity: string): void {
  const aside = `${path}.${crypto.randomUUID().slice(0, 8)}`;
  try {
    if (!renameToNew(path, aside)) {
      Deno.removeSync(path);
      return;
    }
    if (identityOf(aside) === identity) {
      Deno.removeSync(aside);
      return;
    }
    renameToNew(aside, path);
  } catch (error) {
    if (error instanceof SyscallError && error.number === Errno.ENOENT) return;
    throw new StartError(`${path}: ${error instanceof Error ? error.message : error}`);
  }
  throw new StartError(`${path}: another process takes it at this moment`);
}
