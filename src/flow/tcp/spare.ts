/**
 * What can wait until nothing else is to be done: sockets of connections that have ended
 * are closed, and sockets for the next ones are made. Both take the kernel longer than
 * what the guest waits for.
 */
import {
  AF_INET,
  AF_INET6,
  closeFd,
  IPPROTO_TCP,
  openSocket,
  setOption,
  SO_OOBINLINE,
  SO_PEEK_OFF,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";

/** Sockets kept of each family, once the first was needed. */
const SPARES = 16;
/** Sockets that wait to be closed at most. */
const LEFT_OPEN = 256;

/** A stack of descriptors. */
class Descriptors {
  count = 0;
  readonly #fds: Int32Array;

  constructor(capacity: number) {
    this.#fds = new Int32Array(capacity);
  }
  get full(): boolean {
    return this.count === this.#fds.length;
  }
  push(fd: number): void {
    this.#fds[this.count++] = fd;
  }
  pop(): number {
    return this.#fds[--this.count];
  }
}

/**
 * Sets the options of a flow's socket, or of a listening one, from which those that it
 * accepts have them.
 *
 * @param peekOffset MSG_PEEK follows SO_PEEK_OFF for this family
 * @returns false with errno() if data would be read from the wrong place
 */
export function setFlowOptions(fd: number, peekOffset: boolean): boolean {
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1); // the guest has its own Nagle
  setOption(fd, SOL_SOCKET, SO_OOBINLINE, 1);
  return !peekOffset || setOption(fd, SOL_SOCKET, SO_PEEK_OFF, 0) === 0;
}

/** Sockets of TCP for the next connections, of each family. */
export class SpareSockets {
  readonly #four = new Descriptors(SPARES);
  readonly #six = new Descriptors(SPARES);
  readonly #ended = new Descriptors(LEFT_OPEN);
  #wanted4 = false;
  #wanted6 = false;

  /** @param supply says when sockets are too scarce to have any that are not in use */
  constructor(readonly supply: { readonly scarce: boolean } = { scarce: false }) {}

  /** A socket with the options of {@link setFlowOptions}; -1 with errno() if none is left. */
  take(four: boolean, peekOffset: boolean): number {
    const spares = four ? this.#four : this.#six;
    if (four) this.#wanted4 = true;
    else this.#wanted6 = true;
    return spares.count > 0 ? spares.pop() : make(four, peekOffset);
  }

  /** Closes a socket with which nothing is to be done any more, not at once. */
  close(fd: number): void {
    const { scarce } = this.supply;
    if (scarce) this.#closeEnded();
    if (scarce || this.#ended.full) closeFd(fd);
    else this.#ended.push(fd);
  }

  /** Gives up the sockets that were made. */
  clear(): void {
    while (this.#four.count > 0) closeFd(this.#four.pop());
    while (this.#six.count > 0) closeFd(this.#six.pop());
  }

  /** Whether {@link work} has anything to do. */
  get waiting(): boolean {
    return this.#ended.count > 0 || (this.#wanted4 && !this.#four.full) ||
      (this.#wanted6 && !this.#six.full);
  }

  #closeEnded(): void {
    while (this.#ended.count > 0) closeFd(this.#ended.pop());
  }

  /** Closes what has ended, and makes sockets for what may come. */
  work(peekOffset4: boolean, peekOffset6: boolean): void {
    this.#closeEnded();
    if (this.supply.scarce) {
      this.clear();
      this.#wanted4 = this.#wanted6 = false; // until one is taken again
      return;
    }
    if (this.#wanted4) this.#wanted4 = fill(this.#four, true, peekOffset4);
    if (this.#wanted6) this.#wanted6 = fill(this.#six, false, peekOffset6);
  }
}

function make(four: boolean, peekOffset: boolean): number {
  const fd = openSocket(four ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP);
  if (fd === -1 || setFlowOptions(fd, peekOffset)) return fd;
  closeFd(fd);
  return -1;
}

/** False if the host has no more: then sockets are made one by one, as they are needed. */
function fill(spares: Descriptors, four: boolean, peekOffset: boolean): boolean {
  while (!spares.full) {
    const fd = make(four, peekOffset);
    if (fd === -1) return false;
    spares.push(fd);
  }
  return true;
}
