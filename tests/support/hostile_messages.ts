/**
 * Wrong messages for a vuelo process, one after the other: those of the table, of which
 * each must be refused, and others at random, of which nothing is expected but an answer
 * or the end of the connection.
 */
import { close, eventfdCreate } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import { createPipe } from "../../ffi/pipe.ts";
import { socketPair, writeBytes } from "../../ffi/unix_socket.ts";
import type { Random } from "./dirty_world.ts";
import {
  FILE,
  GET_FEATURES,
  GUEST,
  HostileLink,
  type HostileRam,
  MARKER,
  message,
  SHARED,
  USER,
} from "./hostile_link.ts";
import {
  type FdKind,
  type Scene,
  type WrongMessage,
  wrongMessages,
} from "./wrong_messages.ts";

/** Messages sent at once: their answers must fit the socket. */
const BATCH = 64;
/** Batches on a connection, if none ends it before. */
const BATCHES = 40;
const RING = { desc: 0, avail: 0x1000, used: 0x2000 };
const EMPTY = new Uint8Array(0);

interface Encoded extends WrongMessage {
  /** With need_reply, if nothing else is said. */
  readonly encoded: Uint8Array;
  readonly sent: readonly number[];
}

export class HostileMessages {
  readonly #table: Encoded[];
  readonly #tellable: Encoded[];
  readonly #fatal: Encoded[];
  readonly #open: number[] = [];
  /** Descriptors of every kind, for random messages. */
  readonly #any: readonly number[];
  readonly #features: number;
  readonly #protocol: number;
  played = 0;
  connections = 0;

  constructor(
    readonly path: string,
    readonly ram: HostileRam,
    readonly random: Random,
  ) {
    const link = new HostileLink(path);
    const [featuresLo, featuresHi] = link.get(GET_FEATURES);
    [this.#protocol] = link.get(MARKER);
    link.close();
    this.#features = featuresLo + 2 ** 32; // VERSION_1 of the upper half
    const fds: Record<FdKind, number> = {
      event: this.#keep(eventfdCreate()),
      ram: ram.fd,
      file: this.#keep(memfdCreate("file", 4096)),
    };
    const scene: Scene = {
      featuresLo,
      featuresHi,
      protocolFeatures: this.#protocol,
      queues: 2,
      guest: GUEST,
      user: USER,
      size: SHARED,
      file: FILE,
    };
    this.#table = wrongMessages(scene).map((wrong) => ({
      ...wrong,
      encoded: message(wrong.request, wrong.bytes, wrong.flags ?? 9, wrong.size),
      sent: wrong.fds.map((kind) => fds[kind]),
    }));
    this.#tellable = this.#table.filter(({ ends }) => !ends);
    this.#fatal = this.#table.filter(({ ends }) => ends);
    this.#any = [...Object.values(this.#strange()), fds.event, fds.file];
  }

  #keep(fd: number): number {
    this.#open.push(fd);
    return fd;
  }

  /** Memory of its own that may be written to, and what a writer could wait for. */
  #strange() {
    const full = this.#keep(eventfdCreate(true));
    writeBytes(full, Uint8Array.of(0xfe, 255, 255, 255, 255, 255, 255, 255));
    const [unread, pipe] = createPipe();
    close(unread);
    const [far, socket] = socketPair();
    close(far);
    return {
      scrap: this.#keep(memfdCreate("scrap", 2 ** 20)),
      full,
      pipe: this.#keep(pipe),
      socket: this.#keep(socket),
    };
  }

  /** Plays `count` messages, and perhaps some more. */
  play(count: number): void {
    for (const end = this.played + count; this.played < end;) {
      const link = new HostileLink(this.path);
      this.connections++;
      try {
        link.negotiate(this.#features, this.#protocol, this.ram);
        link.ring(0, 256, 0, RING);
        if (this.random.chance(30)) this.#atRandom(link);
        else this.#fromTable(link);
      } finally {
        link.close();
      }
    }
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.random.below(list.length)];
  }

  /** Messages that are refused one by one, and perhaps one at last that ends it all. */
  #fromTable(link: HostileLink): void {
    for (let i = this.random.below(BATCHES); i >= 0; i--) this.#batch(link);
    if (this.random.chance(10)) return;
    const told = this.random.chance(50);
    const last = this.#pick(told ? this.#table : this.#fatal);
    const quiet = message(last.request, last.bytes, last.flags ?? 1, last.size);
    link.send(quiet, last.sent);
    this.played++;
    const answer = link.answer();
    if (answer !== null) {
      throw new Error(`${name(last)}: answered, expected the end of the connection`);
    }
  }

  #batch(link: HostileLink): void {
    const sent = Array.from({ length: BATCH }, () => this.#pick(this.#tellable));
    for (const { encoded, sent: fds } of sent) link.send(encoded, fds);
    for (const wrong of sent) {
      const answer = link.answer();
      if (answer === null) throw new Error(`${name(wrong)}: the connection ended`);
      const { request, flags, payload } = answer;
      const refused = payload.length === 8 && payload.some((byte) => byte !== 0);
      if (request !== wrong.request || flags !== 5 || !refused) {
        throw new Error(`${name(wrong)}: ${request}, ${flags}, ${payload.toHex()}`);
      }
    }
    this.played += BATCH;
  }

  /** Anything, on a connection that may come to any state thereby. */
  #atRandom(link: HostileLink): void {
    const marker = message(MARKER, EMPTY, 1);
    for (let i = this.random.below(BATCHES); i >= 0; i--) {
      for (let j = 0; j < BATCH / 2; j++) {
        this.played++;
        if (!link.send(this.#anything(), this.#descriptors())) return;
      }
      if (!link.send(marker) || !link.untilMarker()) return;
    }
  }

  #anything(): Uint8Array {
    const { random } = this;
    if (random.below(500) === 0) return random.bytes(1 + random.below(40));
    const { request, bytes } = this.#pick(this.#table);
    const changed = bytes.slice(0, 64);
    for (let i = random.below(4); i > 0 && changed.length > 0; i--) {
      const value = random.chance(50) ? random.below(4) : random.below(256);
      changed[random.below(changed.length)] = value;
    }
    const other = random.chance(10) ? random.below(46) : request;
    const flags = random.below(300) === 0 ? random.below(32) : 9;
    return message(other === MARKER ? 0 : other, changed, flags);
  }

  #descriptors(): readonly number[] {
    const count = this.random.below(5);
    if (count > 1) return count === 2 ? [] : [this.#pick(this.#any)];
    return Array.from({ length: this.random.below(9) }, () => this.#pick(this.#any));
  }

  close(): void {
    for (const fd of this.#open) close(fd);
  }
}

function name({ request, what }: WrongMessage): string {
  return `request ${request}, ${what}`;
}
