/**
 * The socket that frontends connect to. One is served at a time: a second one is
 * accepted and closed at once with a log line, since in the backlog its hypervisor would
 * hang without a word, while a closed connection makes it say so or try again. A
 * frontend that comes while the one before has gone, though that was not noticed yet
 * (a killed QEMU started again), takes its place.
 */
import { Errno, errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import { close, type Epoll, EPOLLIN } from "../../ffi/event.ts";
import { acceptUnix, listenUnix, MAX_SOCKET_PATH } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { accessOf, grant, refusalOf, type SocketAccess } from "../host/socket_access.ts";
import { identityOf, removeStale } from "../host/socket_path.ts";
import { NO_FD, type SessionLog } from "./backend.ts";

/** How long no connection is looked for after the process could not have one. */
const REST_MS = 100;
const WARN_MS = 60_000;
/** Errors of accept() after which there is nothing to wait for. */
const PASSING: readonly number[] = [Errno.EAGAIN, Errno.EINTR, Errno.ECONNABORTED];

/** What the listener must know of a running session. */
export interface PresentSession {
  readonly hungUp: boolean;
  close(): void;
}

/** A UNIX socket at a path, where those connect who may. */
export class Listener {
  /** To be watched for input. */
  readonly fd: number;
  readonly #log: SessionLog;
  readonly #access: SocketAccess;
  readonly #identity: string;
  #closed = false;
  #epoll: Epoll | undefined;
  #data = 0;
  /** Not watched until then. */
  #restEnds = Infinity;
  #warnedAt = -Infinity;

  /**
   * Listens at `path`, with mode 0600, or 0660 for a group. The socket that a killed
   * process left behind is replaced; nothing else ever is.
   *
   * @param access who may connect; by default the user of this process
   * @throws {StartError} if there is another file, or a socket that somebody listens at,
   *   or the folder does not allow it.
   */
  constructor(readonly path: string, log: SessionLog, access = accessOf({})) {
    this.#log = log;
    this.#access = access;
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
    try {
      grant(path, access);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Has `epoll` tell when somebody connects, with the data word `data`. */
  watch(epoll: Epoll, data: number): void {
    epoll.add(this.fd, EPOLLIN, data);
    this.#epoll = epoll;
    this.#data = data;
  }

  /** Watches again after a rest; to be called now and then. */
  turn(): void {
    if (this.#restEnds === Infinity || performance.now() < this.#restEnds) return;
    if (this.#closed || this.#epoll?.tryAdd(this.fd, EPOLLIN, this.#data) === true) {
      this.#restEnds = Infinity;
    } else this.#restEnds = performance.now() + REST_MS;
  }

  /**
   * The next connection of somebody who may connect; others are closed, with a line in
   * the log. {@link NO_FD} if there is none, or if the process can have none now: it
   * waits, and the socket is not watched for a while, which would wake the loop again
   * and again.
   */
  take(): number {
    const fd = acceptUnix(this.fd);
    if (fd === -1) {
      const number = errno();
      if (!PASSING.includes(number)) this.#rest(number);
      return NO_FD;
    }
    const refusal = refusalOf(fd, this.#access);
    if (refusal === "") return fd;
    this.#log.warn(`${this.path}: ${refusal}`);
    close(fd);
    return NO_FD;
  }

  #rest(number: number): void {
    if (this.#restEnds !== Infinity) return;
    const now = performance.now();
    if (this.#epoll !== undefined) {
      this.#epoll.tryRemove(this.fd);
      this.#restEnds = now + REST_MS;
    }
    if (now - this.#warnedAt < WARN_MS) return;
    this.#warnedAt = now;
    this.#log.warn(
      `${this.path}: a connection waits (${
        errnoName(number)
      }): raise the limit of open ` +
        "files (ulimit -Hn, LimitNOFILE, fs.file-max)",
    );
  }

  /**
   * Takes a frontend that connects, if no session is present.
   *
   * @param present the running session, which is closed if its frontend is gone
   * @returns its descriptor, or {@link NO_FD} if there was none to take
   */
  accept(present: PresentSession | null): number {
    const fd = this.take();
    if (fd === NO_FD || present === null) return fd;
    if (present.hungUp) {
      present.close();
      return fd;
    }
    close(fd);
    this.#log.warn(`${this.path}: refused a second frontend, one is connected`);
    return NO_FD;
  }

  /**
   * Removes the socket if it is still this one, and then stops listening: another vuelo
   * would take one that nobody listens at for stale, and have its own removed here.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#identity !== "" && identityOf(this.path) === this.#identity) this.#remove();
    close(this.fd);
  }

  #remove(): void {
    try {
      Deno.removeSync(this.path);
    } catch {
      this.#log.debug(`${this.path}: cannot be removed`);
    }
  }
}
