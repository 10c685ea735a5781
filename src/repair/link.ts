/**
 * The socket at which vuelo, that itself has no rights, waits for the privileged helper:
 * `vuelo repair` or passt-repair.
 */
import { Errno, errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import { close, Epoll, EPOLLIN, EPOLLRDHUP } from "../../ffi/event.ts";
import type { Config } from "../config.ts";
import { StartError } from "../errors.ts";
import { log } from "../log.ts";
import { accessOf, type SocketAccess } from "../host/socket_access.ts";
import { Listener } from "../vhost_user/listener.ts";
import { NO_FD } from "../vhost_user/backend.ts";
import { HAS_GONE, RemoteHelper } from "./remote.ts";
import { REPAIR_OFF, REPAIR_ON, type RepairSwitch } from "./switch.ts";

/** For a whole call of {@link RepairLink.switchSockets}, during which nothing else runs. */
export const REPAIR_TIMEOUT_MS = 5000;

/** Connections accepted in one go, more than the backlog holds. */
const MAX_ACCEPTED = 16;

/** What the link tells its operator. */
export interface RepairLog {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
}

/** The socket that `vuelo repair` connects to, and what is asked of it there. */
export class RepairLink implements RepairSwitch {
  /** To be watched for input, as long as the link is open. */
  readonly fd: number;
  readonly #listener: Listener;
  /** The listening socket and the helper's connection, so that one is to be watched. */
  readonly #epoll = new Epoll(2);
  readonly #log: RepairLog;
  #helper: RemoteHelper | null = null;
  #closed = false;

  /**
   * Listens at `path`.
   *
   * @param access who may connect; by default the user of this process
   * @throws {StartError} if that cannot be done: see {@link Listener}
   */
  constructor(
    readonly path: string,
    report: RepairLog = log,
    access: SocketAccess = accessOf({}),
  ) {
    this.#log = report;
    this.#listener = new Listener(path, report, access);
    this.#listener.watch(this.#epoll, 0);
    this.fd = this.#epoll.fd;
  }

  /** Whether a helper is there. */
  get connected(): boolean {
    return this.#helper !== null;
  }

  /** Whether a helper is connected now, even if the loop has not come to it yet. */
  get available(): boolean {
    this.onReadable();
    return this.connected;
  }

  describe(): string {
    if (this.#helper !== null) {
      return `TCP repair by the helper at ${this.path} (process ${this.#helper.pid})`;
    }
    return `no helper at ${this.path}: start vuelo repair ${this.path} as root`;
  }

  /** Notices that the helper has gone, and takes one that has come. */
  onReadable(): void {
    if (this.#closed) return;
    const did = this.#helper?.unasked() ?? "";
    if (did === HAS_GONE) this.#log.info(this.#about(did));
    else if (did !== "") this.#log.warn(`${this.#about(did)}; connection closed`);
    if (did !== "") this.#drop();
    for (let i = 0; i < MAX_ACCEPTED; i++) {
      const fd = this.#listener.take();
      if (fd === NO_FD) return;
      if (this.#helper === null) {
        this.#helper = new RemoteHelper(fd);
        if (!this.#epoll.tryAdd(fd, EPOLLIN | EPOLLRDHUP, 0)) {
          this.#log.warn(this.#about(`cannot be watched (${errnoName(errno())})`));
          this.#drop();
          return;
        }
        this.#log.info(this.#about("connected"));
      } else {
        close(fd);
        this.#log.warn(`${this.path}: refused a second repair helper, one is connected`);
      }
    }
  }

  /** To be called now and then: see {@link Listener.turn}. */
  turn(): void {
    this.#listener.turn();
  }

  #about(what: string): string {
    return `${this.path}: repair helper (process ${this.#helper?.pid}) ${what}`;
  }

  #drop(): void {
    this.#helper?.close();
    this.#helper = null;
  }

  /**
   * See {@link RepairSwitch}. Waits for the helper, so that nothing else runs meanwhile.
   * A helper that fails loses its connection, and one that was too slow may still switch
   * sockets afterwards.
   *
   * @returns 0; ENOTCONN without a helper, ETIMEDOUT, EPROTO for a wrong answer,
   *   ECONNRESET if the helper gave up, or what sendmsg() said
   */
  switchSockets(
    fds: ArrayLike<number>,
    on: boolean,
    timeoutMs: number = REPAIR_TIMEOUT_MS,
  ): number {
    if (fds.length === 0) return 0;
    this.onReadable();
    if (this.#helper === null) {
      this.#log.error(`TCP repair ${on ? "on" : "off"}: ${this.describe()}`);
      return Errno.ENOTCONN;
    }
    const failure = this.#helper.switchSockets(fds, on, timeoutMs);
    if (failure === undefined) return 0;
    const { error, what, sockets, lost } = failure;
    const asked = `TCP repair ${on ? "on" : "off"} of ${sockets} sockets`;
    if (!lost) {
      this.#log.error(`${this.path}: cannot ask for ${asked}: ${what}`);
      return error;
    }
    const expected = `expected the answer ${on ? REPAIR_ON : REPAIR_OFF}`;
    this.#log.error(
      this.#about(`was asked for ${asked}, ${expected}: it ${what}; connection closed`),
    );
    this.#drop();
    return error;
  }

  /** Ends the connection to the helper, stops listening, and removes the socket. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#drop();
    this.#listener.close();
    this.#epoll.close();
  }
}

/**
 * The link that the configuration asks for; undefined with `--repair-path none`, and
 * where only the default path cannot be used, which is no reason not to serve.
 *
 * @throws {StartError} if a path was given and cannot be listened at
 */
export function openRepairLink(
  config: Pick<Config, "repairPath" | "socketPath" | "runAs" | "socketGroup">,
): RepairLink | undefined {
  const { repairPath, socketPath } = config;
  if (repairPath === "none") return undefined;
  const access = accessOf(config);
  if (repairPath !== undefined) return new RepairLink(repairPath, log, access);
  if (socketPath === undefined) return undefined;
  try {
    return new RepairLink(`${socketPath}.repair`, log, access);
  } catch (error) {
    if (!(error instanceof StartError) && !(error instanceof SyscallError)) throw error;
    log.warn(`no repair helper can connect: ${error.message}; see --repair-path`);
    return undefined;
  }
}
