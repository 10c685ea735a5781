/** The service's side of the repair protocol, step by step, for a helper under test. */
import { Errno, errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { getOption, IPPROTO_TCP } from "../../ffi/socket.ts";
import {
  acceptUnix,
  isHungUp,
  listenUnix,
  receive,
  send,
} from "../../ffi/unix_socket.ts";
import { vuelo } from "./cli.ts";
import { Process, type ProcessOptions, until } from "./lab_process.ts";

const TCP_REPAIR = 19;

/** TCP_REPAIR of each socket. */
export function modes(fds: readonly number[]): number[] {
  return fds.map((fd) => getOption(fd, IPPROTO_TCP, TCP_REPAIR));
}

/** A listening socket and the helper that is connected to it. */
export class RepairClient {
  readonly #listener: number;
  #fd = -1;

  constructor(readonly path: string) {
    this.#listener = listenUnix(path);
  }

  /** Waits for a helper. */
  async accept(): Promise<void> {
    await until("a helper is connected", () => {
      this.#fd = acceptUnix(this.#listener);
      return this.#fd !== -1;
    });
  }

  /** Whether a helper has connected by now. */
  tryAccept(): boolean {
    this.#fd = acceptUnix(this.#listener);
    return this.#fd !== -1;
  }

  send(bytes: readonly number[], fds: readonly number[] = []): void {
    const sent = send(this.#fd, new Uint8Array(bytes), fds);
    if (sent !== bytes.length) throw new Error(`sent ${sent}: ${errno()}`);
  }

  /** The bytes of the next answer; none at the end of the connection. */
  async answer(): Promise<number[]> {
    const bytes = new Uint8Array(16);
    let count = -1;
    await until("there is an answer", () => {
      count = receive(this.#fd, bytes, []);
      return count >= 0 || errno() !== Errno.EAGAIN;
    });
    return [...bytes.subarray(0, Math.max(0, count))];
  }

  /** Sends a message and returns the answer. */
  async ask(command: number, fds: readonly number[]): Promise<number[]> {
    this.send([command & 0xff], fds);
    return await this.answer();
  }

  async hungUp(): Promise<void> {
    await until("the helper has hung up", () => isHungUp(this.#fd));
  }

  /** Ends the connection to the helper. */
  hangUp(): void {
    if (this.#fd !== -1) close(this.#fd);
    this.#fd = -1;
  }

  close(): void {
    this.hangUp();
    close(this.#listener);
  }
}

/** Starts `vuelo repair` with arguments, behind a program that changes its rights. */
export function startHelper(
  args: readonly string[],
  before: readonly string[] = [],
  options: ProcessOptions = {},
): Process {
  const [program, all] = vuelo(["repair", ...args]);
  return new Process([...before, program, ...all], options);
}
