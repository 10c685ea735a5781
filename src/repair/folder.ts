/** The helper in a folder: serves every socket there whose name ends in `.repair`. */
import { Errno, SyscallError } from "../../ffi/errno.ts";
import { close, Epoll, EPOLLIN, EPOLLRDHUP } from "../../ffi/event.ts";
import { entriesOf, openFolder } from "../../ffi/folder.ts";
import { FolderWatch } from "../../ffi/inotify.ts";
import { connectUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { strangerAt } from "../host/socket_access.ts";
import { log } from "../log.ts";
import { Connection, RequestError } from "./connection.ts";

const SUFFIX = ".repair";
/** Between attempts to connect while a socket's service does not listen yet. */
const RETRY_MS = 100;
/** After this time a socket that refuses is nobody's any more. */
const REFUSED_MS = 10_000;
/** Nobody listens yet; many wait; it is still to be given to the user who may connect. */
const WAITING: readonly number[] = [Errno.ECONNREFUSED, Errno.EAGAIN, Errno.EACCES];
/** The host lacks memory or descriptors for now; how soon it is tried again. */
const LACKING: readonly number[] = [
  Errno.EMFILE,
  Errno.ENFILE,
  Errno.ENOMEM,
  Errno.ENOBUFS,
  Errno.ENOSPC,
];
const LACKING_MS = 1000;
/** A connection that ended sooner and brought nothing makes the next pause longer. */
const SHORT_MS = 1000;
const MAX_PAUSE_MS = 60_000;
/** Sockets that are served, and names that may become some, at once. */
const MOST_PLACES = 4096;

/** A socket of the folder. */
interface Place {
  readonly path: string;
  connection?: Connection;
  connectedAt: number;
  /** When to try, while there is no connection. */
  retryAt: number;
  refusedSince?: number;
  /** Before the next attempt after a connection has ended. */
  pause: number;
}

/** Serves the sockets of a folder as they come and go. */
export class FolderHelper {
  readonly #watch: FolderWatch;
  /** The folder itself: once the helper is confined, it opens nothing more. */
  readonly #folder: number;
  readonly #epoll = new Epoll();
  readonly #places = new Map<string, Place>();
  /** By the descriptor of the connection. */
  readonly #connected = new Map<number, Place>();

  /**
   * @param owner the user whose services are served, and root's
   * @throws {StartError} if the folder cannot be watched
   */
  constructor(readonly folder: string, private readonly owner: number) {
    try {
      this.#watch = new FolderWatch(folder);
      this.#folder = openFolder(folder);
    } catch (error) {
      throw new StartError((error as Error).message);
    }
    this.#epoll.add(this.#watch.fd, EPOLLIN, this.#watch.fd);
  }

  /** Serves for good. @throws {StartError} when the folder is no more */
  run(): never {
    this.#scan();
    for (;;) {
      const count = this.#epoll.wait(this.#connect());
      for (let i = 0; i < count; i++) {
        const fd = this.#epoll.data(i);
        if (fd === this.#watch.fd) this.#readNews();
        else this.#serve(fd);
      }
    }
  }

  #scan(): void {
    try {
      for (const name of entriesOf(this.#folder)) this.#notice(name);
    } catch (error) {
      throw new StartError(`${this.folder}: ${(error as Error).message}`);
    }
  }

  #readNews(): void {
    const { names, overflowed, gone } = this.#watch.read();
    if (gone) throw new StartError(`${this.folder}: the folder was removed or moved`);
    for (const name of names) this.#notice(name);
    if (overflowed) this.#scan();
  }

  /** A name was seen in the folder. */
  #notice(name: string): void {
    if (!name.endsWith(SUFFIX)) return;
    const path = `${this.folder}/${name}`;
    if (this.#places.size >= MOST_PLACES && !this.#places.has(path)) {
      log.warn(`repair: ${path}: not served, ${MOST_PLACES} others are in the folder`);
      return;
    }
    const place = this.#places.get(path) ??
      { path, connectedAt: 0, retryAt: 0, pause: RETRY_MS };
    place.retryAt = 0;
    place.refusedSince = undefined;
    place.pause = RETRY_MS;
    this.#places.set(path, place);
  }

  /** Connects where it is time to; returns the milliseconds until it is again, or -1. */
  #connect(): number {
    const now = performance.now();
    let next = Infinity;
    for (const place of this.#places.values()) {
      if (place.connection !== undefined) continue;
      if (place.retryAt <= now && !this.#tryConnect(place, now)) {
        this.#places.delete(place.path);
      } else if (place.connection === undefined) next = Math.min(next, place.retryAt);
    }
    return next === Infinity ? -1 : Math.max(1, next - now);
  }

  /** False if there is no hope for this socket. */
  #tryConnect(place: Place, now: number): boolean {
    const { path } = place;
    try {
      if (!Deno.lstatSync(path).isSocket) return false;
      const fd = connectUnix(path);
      const stranger = strangerAt(fd, this.owner, path);
      if (stranger !== "") {
        close(fd);
        log.warn(`repair: ${path}: ${stranger}; not tried again until it is new`);
        return false;
      }
      const connection = new Connection(fd, path);
      if (!this.#epoll.tryAdd(connection.fd, EPOLLIN | EPOLLRDHUP, connection.fd)) {
        const error = new SyscallError(`watching ${path}`);
        connection.close();
        throw error;
      }
      place.connection = connection;
      place.connectedAt = now;
      place.refusedSince = undefined;
      this.#connected.set(connection.fd, place);
      log.info(`repair: connected to ${path}`);
      return true;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return false;
      const number = error instanceof SyscallError ? error.number : 0;
      if (number === Errno.ENOENT) return false;
      place.refusedSince ??= now;
      place.retryAt = now + RETRY_MS;
      if (LACKING.includes(number)) {
        place.retryAt = now + LACKING_MS;
        log.warn(`repair: ${(error as Error).message}; tried again in a second`);
        return true;
      }
      if (WAITING.includes(number) && now - place.refusedSince < REFUSED_MS) return true;
      log.warn(`repair: ${(error as Error).message}; not tried again until it is new`);
      return false;
    }
  }

  #serve(fd: number): void {
    const place = this.#connected.get(fd);
    const connection = place?.connection;
    if (place === undefined || connection === undefined) return;
    try {
      if (connection.serve()) return;
      log.info(`repair: ${place.path} ended the connection (${connection.describe()})`);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      log.error(`repair: ${place.path}: ${error.message}; connection closed`);
    }
    this.#connected.delete(fd);
    connection.close();
    place.connection = undefined;
    const now = performance.now();
    const fruitful = connection.requests > 0 || now - place.connectedAt > SHORT_MS;
    place.pause = fruitful ? RETRY_MS : Math.min(2 * place.pause, MAX_PAUSE_MS);
    place.retryAt = now + place.pause;
  }
}
