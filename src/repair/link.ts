/**
 * The socket at which vuelo, that itself has no rights, waits for the privileged helper:
 * `vuelo repair` or passt-repair. A message is one signed byte, 1 for repair mode on and 0
 * for off, with up to 253 sockets; the helper answers with the same byte when it has
 * switched them all, and with nothing but the end of the connection if it could not.
 */
import { Errno, errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import { close, Epoll, EPOLLIN, EPOLLRDHUP } from "../../ffi/event.ts";
import { getStructure, optionWords, SOL_SOCKET } from "../../ffi/socket.ts";
import {
  acceptUnix,
  awaitInput,
  MAX_MESSAGE_FDS,
  receive,
  send,
} from "../../ffi/unix_socket.ts";
import type { Config } from "../config.ts";
import { StartError } from "../errors.ts";
import { log } from "../log.ts";
import { Listener } from "../vhost_user/listener.ts";
import {
  isInRepair,
  newTcpSocket,
  REPAIR_OFF,
  REPAIR_ON,
  type RepairMode,
  type RepairSwitch,
} from "./switch.ts";

/** For a whole call of {@link RepairLink.switchSockets}, during which nothing else runs. */
export const REPAIR_TIMEOUT_MS = 5000;

/**
 * Fewer sockets than this are filled up with a spare one. passt-repair as Debian ships it
 * drops descriptors of a message that has more of them than an earlier one on the same
 * connection had, and answers as if all were well. So batches must not grow, and if the
 * first had a single socket, thousands would have to follow one by one.
 */
const SMALLEST_BATCH = 64;

const SO_PEERCRED = 17;
const NO_FD = -1;
/** Connections accepted in one go, more than the backlog holds. */
const MAX_ACCEPTED = 16;

/** Results of reading that are not what is wrong with an answer. */
const ANSWERED = "answered";
const HAS_GONE = "has ended the connection";
/** Errors of sending for which the helper is to blame. */
const HELPER_ERRORS: readonly number[] = [Errno.EPIPE, Errno.ECONNRESET, Errno.EAGAIN];

const LISTENER_EVENT = 0;
const HELPER_EVENT = 1;

/** What the link tells its operator. */
export interface RepairLog {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
}

/** A connected helper. */
interface Helper {
  readonly fd: number;
  readonly pid: number;
  /** TCP socket to fill up batches with; NO_FD if there was none to be had. */
  readonly spare: number;
  /** Descriptors that a batch may have. */
  limit: number;
}

export class RepairLink implements RepairSwitch {
  /** To be watched for input, as long as the link is open. */
  readonly fd: number;
  readonly #listener: Listener;
  readonly #epoll = new Epoll(2);
  readonly #log: RepairLog;
  #helper: Helper | null = null;
  #closed = false;

  /**
   * Listens at `path`, which only this user may connect to.
   *
   * @throws {StartError} if that cannot be done: see {@link Listener}
   */
  constructor(readonly path: string, report: RepairLog = log) {
    this.#log = report;
    this.#listener = new Listener(path, report);
    this.#epoll.add(this.#listener.fd, EPOLLIN, LISTENER_EVENT);
    this.fd = this.#epoll.fd;
  }

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
    if (this.#helper !== null) this.#look(this.#helper);
    for (let i = 0; i < MAX_ACCEPTED; i++) {
      const fd = acceptUnix(this.#listener.fd);
      if (fd === -1) return;
      if (this.#helper === null) this.#take(fd);
      else {
        close(fd);
        this.#log.warn(`${this.path}: refused a second repair helper, one is connected`);
      }
    }
  }

  #take(fd: number): void {
    const known = getStructure(fd, SOL_SOCKET, SO_PEERCRED) >= 4;
    const pid = known ? optionWords[0] : 0;
    this.#epoll.add(fd, EPOLLIN | EPOLLRDHUP, HELPER_EVENT);
    this.#helper = { fd, pid, spare: newTcpSocket(), limit: MAX_MESSAGE_FDS };
    this.#log.info(`${this.path}: repair helper connected (process ${pid})`);
  }

  /** A helper has nothing to say unless it was asked. */
  #look(helper: Helper): void {
    if (!awaitInput(helper.fd, 0)) return;
    const what = this.#read(helper, undefined);
    if (what === "") return;
    const line = `${this.path}: repair helper (process ${helper.pid}) ${what}`;
    if (what === HAS_GONE) this.#log.info(line);
    else this.#log.warn(line);
    this.#drop();
  }

  #drop(): void {
    const helper = this.#helper;
    if (helper === null) return;
    this.#helper = null;
    close(helper.fd);
    if (helper.spare !== NO_FD) close(helper.spare);
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
    const deadline = performance.now() + timeoutMs;
    const mode = on ? REPAIR_ON : REPAIR_OFF;
    let rest = Array.from(fds);
    if (rest.length > 0) this.onReadable();
    while (rest.length > 0) {
      const helper = this.#helper;
      if (helper === null) {
        this.#log.error(`TCP repair ${on ? "on" : "off"}: ${this.describe()}`);
        return Errno.ENOTCONN;
      }
      // As equal as can be, so that a small rest doesn't make all that follow small.
      const size = Math.ceil(rest.length / Math.ceil(rest.length / helper.limit));
      const batch = rest.slice(0, size);
      const failure = this.#exchange(helper, batch, mode, deadline, timeoutMs);
      if (failure !== 0) return failure;
      const missed = batch.filter((fd) => isInRepair(fd) !== on);
      if (missed.length === size) {
        return this.#fail(helper, size, mode, "answered that it did, but did not");
      }
      if (missed.length > 0) {
        helper.limit = size - missed.length;
        this.#log.debug(`repair helper left out ${missed.length} of ${size} sockets`);
      }
      rest = missed.concat(rest.slice(size));
    }
    return 0;
  }

  /** Sends one message and waits for its answer; 0 or an error number. */
  #exchange(
    helper: Helper,
    batch: readonly number[],
    mode: RepairMode,
    deadline: number,
    timeoutMs: number,
  ): number {
    const { length } = batch;
    if (performance.now() >= deadline) {
      const what = `was not done after ${timeoutMs} ms`;
      return this.#fail(helper, length, mode, what, Errno.ETIMEDOUT);
    }
    const filled = fill(batch, helper);
    helper.limit = Math.min(helper.limit, filled.length);
    if (send(helper.fd, new Uint8Array([mode & 0xff]), filled) !== 1) {
      const number = errno();
      if (!HELPER_ERRORS.includes(number)) {
        const what = `${length} sockets to the repair helper: ${errnoName(number)}`;
        this.#log.error(`${this.path}: cannot send ${what}`);
        return number;
      }
      const what = `took no message (${errnoName(number)})`;
      return this.#fail(helper, length, mode, what, number);
    }
    for (;;) {
      const left = deadline - performance.now();
      if (left <= 0) {
        const what = `did not answer within ${timeoutMs} ms`;
        return this.#fail(helper, length, mode, what, Errno.ETIMEDOUT);
      }
      if (!awaitInput(helper.fd, left)) continue;
      const what = this.#read(helper, mode);
      if (what === ANSWERED) return 0;
      if (what === "") continue;
      const error = what === HAS_GONE ? Errno.ECONNRESET : Errno.EPROTO;
      return this.#fail(helper, length, mode, what, error);
    }
  }

  /**
   * Reads what is there: {@link ANSWERED} if it is the answer `expected`, "" if there was
   * nothing, else what is wrong with it.
   */
  #read(helper: Helper, expected: RepairMode | undefined): string {
    const bytes = new Uint8Array(2);
    const fds: number[] = [];
    const count = receive(helper.fd, bytes, fds);
    const number = errno();
    for (const fd of fds) close(fd);
    if (count === -1 && number === Errno.EAGAIN) return "";
    if (count === 0 || count === -1) return HAS_GONE;
    const came = count === 1 ? `${bytes[0] << 24 >> 24}` : "more than one byte";
    if (expected === undefined) return `sent ${came} unasked; connection closed`;
    if (count === 1 && bytes[0] === (expected & 0xff) && fds.length === 0) {
      return ANSWERED;
    }
    return `answered ${came}${fds.length > 0 ? " with descriptors" : ""}`;
  }

  /** Logs why a helper is no good, and is done with it; returns `number`. */
  #fail(
    helper: Helper,
    sockets: number,
    mode: RepairMode,
    what: string,
    number: number = Errno.EPROTO,
  ): number {
    this.#log.error(
      `${this.path}: repair helper (process ${helper.pid}) was asked for TCP repair ` +
        `${mode === REPAIR_ON ? "on" : "off"} of ${sockets} sockets, expected the ` +
        `answer ${mode}: it ${what}; connection closed`,
    );
    this.#drop();
    return number;
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

/** The sockets of a message: see {@link SMALLEST_BATCH}. */
function fill(batch: readonly number[], helper: Helper): readonly number[] {
  const wanted = Math.min(SMALLEST_BATCH, helper.limit);
  if (helper.spare === NO_FD || batch.length >= wanted) return batch;
  return batch.concat(Array(wanted - batch.length).fill(helper.spare));
}

/**
 * The link that the configuration asks for; undefined with `--repair-path none`, and
 * where only the default path cannot be used, which is no reason not to serve.
 *
 * @throws {StartError} if a path was given and cannot be listened at
 */
export function openRepairLink(
  config: Pick<Config, "repairPath" | "socketPath">,
): RepairLink | undefined {
  const { repairPath, socketPath } = config;
  if (repairPath === "none") return undefined;
  if (repairPath !== undefined) return new RepairLink(repairPath);
  if (socketPath === undefined) return undefined;
  try {
    return new RepairLink(`${socketPath}.repair`);
  } catch (error) {
    if (!(error instanceof StartError) && !(error instanceof SyscallError)) throw error;
    log.warn(`no repair helper can connect: ${error.message}; see --repair-path`);
    return undefined;
  }
}
