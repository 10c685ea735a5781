/** The helper's side of the protocol: see remote.ts for the other, and for what is sent. */
import { Errno, errno, errnoName } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import {
  MAX_MESSAGE_FDS,
  receive,
  RECEIVE_TOO_MANY_FDS,
  send,
} from "../../ffi/unix_socket.ts";
import { type RepairMode, switchAll } from "./switch.ts";

const REQUESTS_AT_ONCE = 64;

/** A request that cannot be fulfilled; the only answer there is to one is to hang up. */
export class RequestError extends Error {
  override readonly name = "RequestError";
}

/** A connection to the service that has connections to move. */
export class Connection {
  /** Requests fulfilled, and sockets in them. */
  requests = 0;
  sockets = 0;
  readonly #byte = new Uint8Array(1);

  /** @param fd a connected, non-blocking socket, which is this object's from now on */
  constructor(readonly fd: number, readonly path: string) {}

  /**
   * Fulfils requests that have come: so many that others have their turn, too.
   *
   * @returns false when the other side has ended the connection
   * @throws {RequestError} for the first one that is wrong or fails; its sockets are as
   *   they were
   */
  serve(): boolean {
    for (let i = 0; i < REQUESTS_AT_ONCE; i++) {
      const fds: number[] = [];
      // Each message is a byte of its own: the kernel does not join what has descriptors.
      // One more than there can be, for the even number that receive() wants.
      const count = receive(this.fd, this.#byte, fds, MAX_MESSAGE_FDS + 1);
      const number = errno();
      if (count === 0) return false;
      if (count === RECEIVE_TOO_MANY_FDS) {
        throw new RequestError("a request lost sockets: not enough descriptors left");
      }
      if (count < 0) {
        if (number === Errno.EAGAIN) return true;
        if (number === Errno.ECONNRESET) return false;
        throw new RequestError(`cannot receive: ${errnoName(number)}`);
      }
      try {
        this.#fulfil(this.#byte[0] << 24 >> 24, fds);
      } finally {
        for (const fd of fds) close(fd);
      }
      if (!this.#answer()) return false;
    }
    return true;
  }

  #fulfil(command: number, fds: readonly number[]): void {
    if (!isMode(command)) {
      throw new RequestError(`request ${command}, expected 1 (on), 0 or -1 (off)`);
    }
    if (fds.length === 0) {
      throw new RequestError(
        `request ${command} came without sockets, expected 1 to ${MAX_MESSAGE_FDS}`,
      );
    }
    const failure = switchAll(fds, command);
    if (failure !== undefined) throw new RequestError(explain(command, fds, failure));
    this.requests++;
    this.sockets += fds.length;
  }

  /** Answers with the byte that came; false if nobody wants to know any more. */
  #answer(): boolean {
    if (send(this.fd, this.#byte) === 1) return true;
    const number = errno();
    if (number === Errno.EPIPE || number === Errno.ECONNRESET) return false;
    throw new RequestError(`cannot answer: ${errnoName(number)}`);
  }

  /** What it did, for the log. */
  describe(): string {
    return `${this.requests} requests, ${this.sockets} sockets`;
  }

  /** Ends the connection. */
  close(): void {
    close(this.fd);
  }
}

function isMode(command: number): command is RepairMode {
  return command === 1 || command === 0 || command === -1;
}

function explain(
  command: number,
  fds: readonly number[],
  failure: { readonly index: number; readonly error: number },
): string {
  const { index, error } = failure;
  let reason = errnoName(error);
  if (error === Errno.EPERM) {
    reason = "EPERM: it listens, or is of a namespace where CAP_NET_ADMIN is missing";
  } else if (NOT_TCP.includes(error)) {
    reason += ": it is no TCP socket";
  }
  return `request ${command}: descriptor ${index + 1} of ${fds.length} refused ` +
    `(${reason}); the ones before it were put back`;
}

const ENOTSOCK = 88;
const NOT_TCP: readonly number[] = [ENOTSOCK, Errno.ENOPROTOOPT, Errno.EOPNOTSUPP];
