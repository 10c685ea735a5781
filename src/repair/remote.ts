/**
 * The service's side of the protocol: a helper to which sockets are sent. A message is one
 * signed byte, 1 for repair mode on and 0 for off, with up to 253 sockets; the helper
 * answers with the same byte when it has switched them all, and with nothing but the end
 * of the connection if it could not.
 */
import { Errno, errno, errnoName } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { getStructure, optionWords, SOL_SOCKET } from "../../ffi/socket.ts";
import { awaitInput, MAX_MESSAGE_FDS, receive, send } from "../../ffi/unix_socket.ts";
import {
  isInRepair,
  newTcpSocket,
  REPAIR_OFF,
  REPAIR_ON,
  type RepairMode,
} from "./switch.ts";

/**
 * Fewer sockets than this are filled up with a spare one. passt-repair as Debian ships it
 * drops descriptors of a message that has more of them than an earlier one on the same
 * connection had, and answers as if all were well. So batches must not grow, and if the
 * first had a single socket, thousands would have to follow one by one.
 */
const SMALLEST_BATCH = 64;
/** Messages under way, so that the helper need not wait while answers are verified. */
const MAX_UNANSWERED = 4;

const SO_PEERCRED = 17;
const NO_FD = -1;

/** Results of reading that are not what is wrong with an answer. */
const ANSWERED = "answered";
const NOTHING = "";
/** What {@link RemoteHelper.unasked} says of a helper that hung up. */
export const HAS_GONE = "has ended the connection";

/** Errors of sending for which the helper is to blame. */
const HELPER_ERRORS: readonly number[] = [Errno.EPIPE, Errno.ECONNRESET, Errno.EAGAIN];

/** Why sockets could not be switched. */
export interface Failure {
  /** Error number for the caller. */
  readonly error: number;
  /** What the helper did or did not do; or what cannot be sent, if it is not to blame. */
  readonly what: string;
  /** Sockets in the message that failed. */
  readonly sockets: number;
  /** The helper is of no more use. */
  readonly lost: boolean;
}

/** A connected helper. */
export class RemoteHelper {
  /** Its process as the kernel knows it; 0 if not at all. */
  readonly pid: number;
  /** TCP socket to fill up messages with; NO_FD if there was none to be had. */
  readonly #spare = newTcpSocket();
  /** Descriptors that a message may have. */
  #limit = MAX_MESSAGE_FDS;

  /** @param fd a connected, non-blocking socket, which is this object's from now on */
  constructor(readonly fd: number) {
    const known = getStructure(fd, SOL_SOCKET, SO_PEERCRED) >= 4;
    this.pid = known ? optionWords[0] : 0;
  }

  /** "", or what the helper did without being asked: hang up or talk. */
  unasked(): string {
    if (!awaitInput(this.fd, 0)) return NOTHING;
    const said = this.#read(undefined);
    return said === NOTHING || said === HAS_GONE ? said : `sent ${said} unasked`;
  }

  /**
   * Has sockets switched and verifies every one; waits, so that nothing else runs.
   *
   * @returns undefined if all are switched
   */
  switchSockets(
    fds: ArrayLike<number>,
    on: boolean,
    timeoutMs: number,
  ): Failure | undefined {
    const deadline = performance.now() + timeoutMs;
    const mode = on ? REPAIR_ON : REPAIR_OFF;
    const late = `did not answer within ${timeoutMs} ms`;
    let rest = Array.from(fds);
    const unanswered: number[][] = [];
    while (rest.length > 0 || unanswered.length > 0) {
      while (rest.length > 0 && unanswered.length < MAX_UNANSWERED) {
        const batch = this.#nextOf(rest);
        const failure = this.#send(batch, mode);
        if (failure !== undefined) {
          // Answers that nobody reads would be taken for those to later messages.
          const settled = unanswered.every(() =>
            this.#awaitAnswer(mode, deadline) === ANSWERED
          );
          return settled ? failure : { ...failure, lost: true };
        }
        unanswered.push(batch);
        rest = rest.slice(batch.length);
      }
      const batch = unanswered.shift()!;
      const said = this.#awaitAnswer(mode, deadline);
      if (said === NOTHING) return lost(Errno.ETIMEDOUT, late, batch);
      if (said === HAS_GONE) return lost(Errno.ECONNRESET, said, batch);
      if (said !== ANSWERED) return lost(Errno.EPROTO, `answered ${said}`, batch);
      const missed = batch.filter((fd) => isInRepair(fd) !== on);
      if (missed.length === batch.length) {
        return lost(Errno.EPROTO, "answered that it did, but did not", batch);
      }
      if (missed.length > 0) {
        this.#limit = Math.min(this.#limit, batch.length - missed.length);
        rest = missed.concat(rest);
      }
    }
    return undefined;
  }

  /** As equal as can be, so that a small rest doesn't make all that follow small. */
  #nextOf(rest: readonly number[]): number[] {
    return rest.slice(0, Math.ceil(rest.length / Math.ceil(rest.length / this.#limit)));
  }

  #send(batch: readonly number[], mode: RepairMode): Failure | undefined {
    const missing = Math.min(SMALLEST_BATCH, this.#limit) - batch.length;
    const filled = missing > 0 && this.#spare !== NO_FD
      ? batch.concat(Array(missing).fill(this.#spare))
      : batch;
    this.#limit = Math.min(this.#limit, filled.length);
    if (send(this.fd, new Uint8Array([mode & 0xff]), filled) === 1) return undefined;
    const error = errno();
    if (HELPER_ERRORS.includes(error)) {
      return lost(error, `took no message (${errnoName(error)})`, batch);
    }
    return { error, what: errnoName(error), sockets: batch.length, lost: false };
  }

  /** Waits for the answer `expected`; {@link NOTHING} if it does not come in time. */
  #awaitAnswer(expected: RepairMode, deadline: number): string {
    for (;;) {
      const left = deadline - performance.now();
      if (left <= 0) return NOTHING;
      if (!awaitInput(this.fd, left)) continue;
      const said = this.#read(expected);
      if (said !== NOTHING) return said;
    }
  }

  /**
   * Reads one byte: {@link ANSWERED} if it is the expected answer, {@link NOTHING} if
   * there was none, {@link HAS_GONE}, else what came.
   */
  #read(expected: RepairMode | undefined): string {
    const byte = new Uint8Array(1);
    const fds: number[] = [];
    const count = receive(this.fd, byte, fds);
    const number = errno();
    for (const fd of fds) close(fd);
    if (count === -1 && number === Errno.EAGAIN) return NOTHING;
    if (count === 0 || count === -1) return HAS_GONE;
    if (count < 0 || fds.length > 0) return "with descriptors";
    const came = byte[0] << 24 >> 24;
    return came === expected ? ANSWERED : String(came);
  }

  /** Ends the connection. */
  close(): void {
    close(this.fd);
    if (this.#spare !== NO_FD) close(this.#spare);
  }
}

function lost(error: number, what: string, batch: readonly number[]): Failure {
  return { error, what, sockets: batch.length, lost: true };
}
