/** The asking side of a load. */
import { Arena } from "../../../ffi/arena.ts";
import { checked, Errno, errno } from "../../../ffi/errno.ts";
import { EPOLLIN, EPOLLOUT } from "../../../ffi/event.ts";
import { IovecArray, MessageArray } from "../../../ffi/iovec.ts";
import {
  AF_INET,
  closeFd,
  connectSocket,
  getOption,
  IPPROTO_TCP,
  IPPROTO_UDP,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  openSocket,
  sendmmsg,
  setOption,
  SO_ERROR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
import { parseAddress } from "../../../src/wire/address.ts";
import type { Engine, Handler } from "./engine.ts";
import { Mode, Stream } from "./server.ts";

/** What a load is told to send, and where. */
export interface Work {
  readonly kind:
    | "sink"
    | "source"
    | "both"
    | "echo"
    | "plain"
    | "once"
    | "idle"
    | "flood";
  readonly address: string;
  /** Connections are spread over these. */
  readonly ports: readonly number[];
  /** Connections, or slots where they are short. */
  readonly count: number;
  /** Of datagrams. */
  readonly size: number;
}

/** Connections that are under way at once. */
const CONNECTING = 256;
const BATCH = 64;
/** Turns of a flood for each look at what else happens. */
const FLOOD_TURNS = 4;
const ASK = 0x3f;

/** Opens connections and hands each on once it is there; `work` may be stopped. */
abstract class Client implements Handler {
  readonly own = new Set<number>();
  readonly #address: Uint8Array;
  #opened = 0;

  constructor(protected readonly engine: Engine, protected readonly work: Work) {
    const address = parseAddress(work.address);
    if (address === undefined) throw new Error(`no address: ${work.address}`);
    this.#address = address;
  }

  abstract event(fd: number, events: number): void;

  /**
   * Opens a connection, to one port after the other; -1, which counts as a failure, if no
   * descriptor or port is left.
   */
  protected open(): number {
    const fd = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (fd === -1) {
      this.engine.counters.failed++;
      return -1;
    }
    const { ports } = this.work;
    const port = ports[this.#opened++ % ports.length];
    if (connectSocket(fd, this.#address, 0, port) === -1) {
      if (errno() !== Errno.EINPROGRESS) {
        this.engine.counters.failed++;
        closeFd(fd);
        return -1;
      }
    }
    setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    this.own.add(fd);
    this.engine.watch(fd, EPOLLOUT, this);
    return fd;
  }

  protected drop(fd: number): void {
    this.own.delete(fd);
    this.engine.close(fd);
  }

  stop(): void {
    for (const fd of [...this.own]) this.drop(fd);
  }
}

/** Connections that send or receive without end, or stay idle. */
export class Streams extends Client {
  readonly #stream: Stream;
  #left: number;

  constructor(engine: Engine, work: Work) {
    super(engine, work);
    this.#stream = new Stream(engine, (fd) => this.drop(fd));
    this.#left = work.count;
    for (let i = 0; i < Math.min(CONNECTING, work.count); i++) this.#next();
  }

  #next(): void {
    while (this.#left > 0) {
      this.#left--;
      if (this.open() !== -1) return;
    }
  }

  event(fd: number): void {
    const { engine, work } = this;
    const { counters } = engine;
    const failed = getOption(fd, SOL_SOCKET, SO_ERROR, 1) !== 0;
    const mode = work.kind === "idle" ? Mode.sink : Mode[work.kind as keyof typeof Mode];
    if (failed || !engine.sendByte(fd, mode)) {
      counters.failed++;
      this.drop(fd);
    } else {
      counters.operations++;
      const receives = work.kind === "sink" || work.kind === "idle" ? 0 : EPOLLIN;
      const sends = work.kind === "sink" || work.kind === "both" ? EPOLLOUT : 0;
      engine.change(fd, receives | sends, this.#stream);
    }
    this.#next();
  }
}

/** Asks and waits for the answer, over and over, on connections that stay. */
export class Requests extends Client {
  readonly #since: number[] = [];

  constructor(engine: Engine, work: Work) {
    super(engine, work);
    for (let i = 0; i < work.count; i++) this.open();
  }

  event(fd: number, events: number): void {
    const { engine } = this;
    if ((events & EPOLLOUT) !== 0) {
      engine.change(fd, EPOLLIN, this);
      // An echo service of another make needs not to be told.
      if (this.work.kind === "echo") engine.sendByte(fd, Mode.echo);
    } else {
      if (engine.receiveShort(fd) <= 0) {
        engine.counters.failed++;
        return this.drop(fd);
      }
      engine.counters.answered(performance.now() - this.#since[fd]);
    }
    this.#since[fd] = performance.now();
    engine.sendByte(fd, ASK);
  }
}

/** Connects, asks, gets the answer and the end, in several slots at once. */
export class Connections extends Client {
  readonly #since: number[] = [];
  readonly #answered: boolean[] = [];

  constructor(engine: Engine, work: Work) {
    super(engine, work);
    for (let i = 0; i < work.count; i++) this.#begin();
  }

  #begin(): void {
    const since = performance.now();
    const fd = this.open();
    if (fd === -1) return;
    this.#since[fd] = since;
    this.#answered[fd] = false;
  }

  event(fd: number, events: number): void {
    const { engine } = this;
    if ((events & EPOLLOUT) !== 0 && !this.#answered[fd]) {
      engine.change(fd, EPOLLIN, this);
      if (engine.sendByte(fd, Mode.once)) return;
    }
    const count = engine.receiveShort(fd);
    if (count > 0) {
      this.#answered[fd] = true;
      return;
    }
    if (count === 0 && this.#answered[fd]) {
      engine.counters.answered(performance.now() - this.#since[fd]);
    } else engine.counters.failed++;
    this.drop(fd);
    this.#begin();
  }
}

/** Sends datagrams as fast as the kernel takes them. */
export class Flood {
  readonly #messages: MessageArray;
  readonly #fd: number;
  readonly #turn = () => this.#send();

  constructor(private readonly engine: Engine, work: Work) {
    const arena = new Arena(8192);
    const iovecs = new IovecArray(arena, 1);
    iovecs.add(engine.arena.base + engine.data, work.size);
    this.#messages = new MessageArray(arena, BATCH);
    for (let i = 0; i < BATCH; i++) this.#messages.setIovecs(i, iovecs.address, 1);
    this.#fd = checked(openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP), "socket");
    const address = parseAddress(work.address)!;
    checked(connectSocket(this.#fd, address, 0, work.ports[0]), "connect");
    engine.floods.add(this.#turn);
  }

  #send(): void {
    for (let i = 0; i < FLOOD_TURNS; i++) {
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      const count = sendmmsg(this.#fd, this.#messages.pointer, BATCH, flags);
      if (count > 0) this.engine.counters.datagramsSent += count;
    }
  }

  stop(): void {
    this.engine.floods.delete(this.#turn);
    this.engine.close(this.#fd);
  }
}
