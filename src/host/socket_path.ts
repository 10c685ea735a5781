/** The path of the socket when none is given. */
import { Errno, SyscallError } from "../../ffi/errno.ts";
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
    if (isFree(path)) return path;
  }
  throw new StartError(
    `${folder}/vuelo_1.socket to vuelo_${CANDIDATES}.socket are all in use: ` +
      "give a path with --socket-path",
  );
}

function isFree(path: string): boolean {
  try {
    if (Deno.lstatSync(path).isSocket !== true) return false;
    close(connectUnix(path));
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return true;
    if (!(error instanceof SyscallError) || error.number !== Errno.ECONNREFUSED) {
      return false;
    }
  }
  try {
    Deno.removeSync(path);
    return true;
  } catch {
    return false;
  }
}
