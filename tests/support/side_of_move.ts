/** One side of a move, driven from outside through the frontend's pipe. */
import { assert, assertEquals } from "@std/assert";
import { close, Epoll } from "../../ffi/event.ts";
import { Errno, errno } from "../../ffi/errno.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import { createPipe, readSome, writeSome } from "../../ffi/pipe.ts";
import { Migration } from "../../src/migrate/migration.ts";
import { FakeMovable } from "./fake_movable.ts";
import { openDescriptors } from "./frontend.ts";
import { LogLines } from "./vhost_session.ts";

export const SAVE = 0;
export const LOAD = 1;
export const STOPPED = 0;
const DATA = 77;

/** One side: a migration, the loop that drives it, and the frontend's end of the pipe. */
export class SideOfMove {
  readonly guest = new FakeMovable();
  readonly log = new LogLines();
  readonly epoll = new Epoll(8);
  readonly migration: Migration;
  readonly #fds = new Set<number>();

  /** @param maxState bytes of a state that are taken */
  constructor(maxState?: number) {
    const { guest, epoll, log } = this;
    this.migration = new Migration(guest, "vuelo", epoll, DATA, log, maxState);
  }

  /** Asks for a transfer; the frontend's end of its pipe, or -1 if it was refused. */
  begin(direction: number, phase = STOPPED, stopped = true): number {
    const [reading, writing] = createPipe();
    const [theirs, ours] = direction === SAVE ? [reading, writing] : [writing, reading];
    setNonBlocking(theirs);
    const { accepted } = this.migration.begin(direction, phase, ours, stopped);
    if (!accepted) {
      close(theirs);
      close(ours);
      return -1;
    }
    this.#fds.add(theirs);
    return theirs;
  }

  /** One round of the loop; false if nothing happened. */
  turn(): boolean {
    const count = this.epoll.wait(0);
    for (let i = 0; i < count; i++) {
      assertEquals(this.epoll.data(i), DATA);
      this.migration.onEvent(this.epoll.events(i), this.epoll.high(i));
    }
    return count > 0;
  }

  /** Reads what the source writes, `piece` bytes at a time, to the end. */
  receive(fd: number, piece = 1 << 16): Uint8Array {
    const all: number[] = [];
    const buffer = new Uint8Array(piece);
    for (;;) {
      const count = readSome(fd, buffer);
      if (count === 0) return Uint8Array.from(all);
      if (count > 0) all.push(...buffer.subarray(0, count));
      else assert(this.turn(), "the source has stopped");
    }
  }

  /** Writes a stream, `piece` bytes at a time, as far as it is taken; closes the pipe. */
  send(fd: number, bytes: Uint8Array<ArrayBuffer>, piece = 1 << 16): void {
    for (let at = 0; at < bytes.length;) {
      const count = writeSome(fd, bytes.subarray(at, at + piece));
      if (count > 0) at += count;
      else if (errno() === Errno.EPIPE) break;
      else assert(this.turn(), "the target has stopped");
    }
    this.hangUp(fd);
  }

  hangUp(fd: number): void {
    if (this.#fds.delete(fd)) close(fd);
  }

  run(): void {
    while (this.turn());
  }

  [Symbol.dispose](): void {
    this.migration.gone();
    for (const fd of this.#fds) close(fd);
    this.epoll.close();
  }
}

/** A test of two sides, in which no descriptor may be lost. */
export function moving(
  name: string,
  body: (source: SideOfMove, target: SideOfMove) => void,
): void {
  Deno.test(name, () => {
    const before = openDescriptors();
    {
      using source = new SideOfMove();
      using target = new SideOfMove();
      body(source, target);
    }
    assertEquals(openDescriptors() - before, 0, "descriptors lost");
  });
}

/** A stream as a source writes it. */
export function saved(source: SideOfMove): Uint8Array<ArrayBuffer> {
  const bytes = source.receive(source.begin(SAVE));
  assertEquals(source.migration.check(), 0);
  return Uint8Array.from(bytes);
}
