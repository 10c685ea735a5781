/**
 * The socket that frontends connect to. One is served at a time: a second one is
 * accepted and closed at once with a log line, since in the backlog its hypervisor would
 * hang without a word, while a closed connection makes it say so or try again. A
 * frontend that comes while the one before has gone, though that was not noticed yet
 * (a killed QEMU started again), takes its place.
 */
import { Errno, SyscallError } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  MAX_SOCKET_PATH,
} from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { NO_FD, type SessionLog } from "./backend.ts";

/** What the listener must know of a running session. */
export interface PresentSession {
  readonly hungUp: boolean;
  close(): void;
}

export class Listener {
  /** To be watched for input. */
  readonly fd: number;
  readonly #log: SessionLog;
  readonly #identity: string;
  #closed = false;

  /**
   * Listens at `path`, which only this user may connect to (mode 0600). The socket that
   * a killed process left behind is replaced; nothing else ever is.
   *
   * @throws {StartError} if there is another file, or a socket that somebody listens at,
   *   or the folder does not allow it.
   */
  constructor(readonly path: string, log: SessionLog) {
    this.#log = log;
    const length = new TextEncoder().encode(path).length;
    if (length === 0 || length > MAX_SOCKET_PATH) {
      throw new StartError(
        `${path}: ${length} bytes, expected a socket path of 1 to ${MAX_SOCKET_PATH}`,
      );
    }
    try {
      removeStale(path);
      this.fd = listenUnix(path);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      throw new StartError(`cannot listen: ${error.message}`);
    }
    this.#identity = identityOf(path);
  }

  /**
   * Takes a frontend that connects, if no session is present.
   *
   * @param present the running session, which is closed if its frontend is gone
   * @returns its descriptor, or {@link NO_FD} if there was none to take
   */
  accept(present: PresentSession | null): number {
    const fd = acceptUnix(this.fd);
    if (fd === -1) return NO_FD;
    if (present === null) return fd;
    if (present.hungUp) {
      present.close();
      return fd;
    }
    close(fd);
    this.#log.warn(`${this.path}: refused a second frontend, one is connected`);
    return NO_FD;
  }

  /** Stops listening and removes the socket if it is still this one. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    close(this.fd);
    if (this.#identity === "" || identityOf(this.path) !== this.#identity) return;
    try {
      Deno.removeSync(this.path);
    } catch {
      this.#log.debug(`${this.path}: cannot be removed`);
    }
  }
}

/** Which file is at a path, links not followed; "" if none can be seen. */
function identityOf(path: string): string {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch {
    return "";
  }
}

function removeFile(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    throw new StartError(`${path}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Removes a socket that nobody listens at. @throws {StartError} for anything else. */
function removeStale(path: string): void {
  let status: Deno.FileInfo;
  try {
    status = Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw new StartError(`${path}: ${error instanceof Error ? error.message : error}`);
  }
  if (!status.isSocket) {
    throw new StartError(
      `${path}: exists and is not a socket; remove it or name another`,
    );
  }
  try {
    close(connectUnix(path));
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.number === Errno.ENOENT) return;
    if (error.number === Errno.ECONNREFUSED) return removeFile(path);
    if (error.number !== Errno.EAGAIN) throw error;
  }
  throw new StartError(`${path}: another process listens there; stop it or name another`);
}
