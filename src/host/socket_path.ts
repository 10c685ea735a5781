/** The socket that the hypervisor connects to: which path, and what may be in its way. */
import { Errno, SyscallError } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { connectUnix, listenUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";

/** Paths that are tried if none is given, as passt does. */
const DEFAULT_PATHS = 64;

export interface Listener {
  /** A non-blocking listening socket of mode 0600. */
  readonly fd: number;
  readonly path: string;
}

/**
 * Listens at `path`, or at the first free of /tmp/vuelo_1.socket and so on. A socket
 * that nobody listens at any more is replaced; any other file is left alone.
 *
 * @throws {StartError} naming the path and what is wrong with it
 */
export function listenForFrontend(path?: string): Listener {
  if (path !== undefined) {
    const reason = makeFree(path);
    if (reason !== undefined) throw new StartError(`cannot listen at ${path}: ${reason}`);
    return { fd: listen(path), path };
  }
  for (let n = 1; n <= DEFAULT_PATHS; n++) {
    const candidate = `/tmp/vuelo_${n}.socket`;
    if (makeFree(candidate) !== undefined) continue;
    try {
      return { fd: listenUnix(candidate), path: candidate };
    } catch (error) {
      // Another one that started at the same time was faster.
      if (error instanceof SyscallError && error.number === Errno.EADDRINUSE) continue;
      throw error;
    }
  }
  throw new StartError(
    `no path from /tmp/vuelo_1.socket to /tmp/vuelo_${DEFAULT_PATHS}.socket is free: ` +
      "give one with --socket-path",
  );
}

function listen(path: string): number {
  try {
    return listenUnix(path);
  } catch (error) {
    throw new StartError(`cannot listen at ${path}: ${(error as Error).message}`);
  }
}

/** Removes a stale socket; returns why the path can't be used, if it can't. */
function makeFree(path: string): string | undefined {
  let info: Deno.FileInfo;
  try {
    info = Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    return (error as Error).message;
  }
  if (info.isSocket !== true) return "there is a file that is not a socket";
  try {
    close(connectUnix(path));
    return "another process listens there";
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.number === Errno.EAGAIN) return "another process listens there";
    if (error.number !== Errno.ECONNREFUSED) return error.message;
  }
  try {
    Deno.removeSync(path);
    return undefined;
  } catch (error) {
    return `the stale socket cannot be removed: ${(error as Error).message}`;
  }
}
