/** The serving side of a load: what a connection does is what its first byte says. */
import { checked } from "../../../ffi/errno.ts";
import { EPOLLIN, EPOLLOUT } from "../../../ffi/event.ts";
import { IovecArray, MessageArray } from "../../../ffi/iovec.ts";
import {
  acceptSocket,
  AF_INET,
  bindSocket,
  IPPROTO_TCP,
  IPPROTO_UDP,
  listenSocket,
  MSG_DONTWAIT,
  openSocket,
  recvmmsg,
  setOption,
  SO_RCVBUF,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
import { parseAddress } from "../../../src/wire/address.ts";
import type { Engine, Handler } from "./engine.ts";

/** First bytes of connections: what the server does with what follows. */
export const Mode = {
  /** Discard it. */
  sink: 1,
  /** Send without end. */
  source: 2,
  /** Both. */
  both: 3,
  /** Send it back. */
  echo: 4,
  /** Answer with one byte and close. */
  once: 5,
} as const;

const SO_RCVBUFFORCE = 33;
const DATAGRAM_BUFFER = 32 << 20;
const ANY = parseAddress("0.0.0.0")!;
const BATCH = 64;
const LONGEST = 2048;
const BACKLOG = 4096;

/** Sends and receives without end, whichever the descriptor is watched for. */
export class Stream implements Handler {
  constructor(
    private readonly engine: Engine,
    private readonly close = (fd: number) => engine.close(fd),
  ) {}

  event(fd: number, events: number): void {
    const { engine } = this;
    if ((events & ~EPOLLOUT) !== 0 && !engine.discard(fd)) this.close(fd);
    else if ((events & EPOLLOUT) !== 0) engine.send(fd);
  }
}

/** Sends back what comes. */
class Echo implements Handler {
  constructor(private readonly engine: Engine) {}

  event(fd: number): void {
    const { engine } = this;
    const count = engine.receiveShort(fd);
    if (count <= 0) engine.close(fd);
    else engine.send(fd, count);
  }
}

/** A connection whose first byte has not come. */
class Fresh implements Handler {
  readonly #stream: Stream;
  readonly #echo: Echo;

  constructor(private readonly engine: Engine) {
    this.#stream = new Stream(engine);
    this.#echo = new Echo(engine);
  }

  event(fd: number): void {
    const { engine } = this;
    const count = engine.receiveShort(fd);
    switch (count > 0 ? engine.short[0] : 0) {
      case Mode.sink:
        return engine.change(fd, EPOLLIN, this.#stream);
      case Mode.source:
        return engine.change(fd, EPOLLOUT, this.#stream);
      case Mode.both:
        return engine.change(fd, EPOLLIN | EPOLLOUT, this.#stream);
      case Mode.echo:
        engine.change(fd, EPOLLIN, this.#echo);
        if (count > 1) engine.send(fd, count - 1);
        return;
      case Mode.once:
        engine.send(fd, 1);
    }
    engine.close(fd);
  }
}

/** Listens on TCP ports. */
export class StreamServer implements Handler {
  readonly #fresh: Fresh;

  constructor(private readonly engine: Engine, ports: readonly number[]) {
    this.#fresh = new Fresh(engine);
    for (const port of ports) {
      const fd = checked(openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP), "socket");
      setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      checked(bindSocket(fd, ANY, 0, port), `bind to port ${port}`);
      checked(listenSocket(fd, BACKLOG), "listen");
      engine.watch(fd, EPOLLIN, this);
    }
  }

  event(listener: number): void {
    for (;;) {
      const fd = acceptSocket(listener);
      if (fd === -1) return;
      setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      this.engine.watch(fd, EPOLLIN, this.#fresh);
    }
  }
}

/** Counts the datagrams that come to UDP ports. */
export class DatagramServer implements Handler {
  readonly #messages: MessageArray;

  constructor(private readonly engine: Engine, ports: readonly number[]) {
    const { arena } = engine;
    const buffer = arena.take(LONGEST);
    const iovecs = new IovecArray(arena, 1);
    iovecs.add(arena.base + buffer, LONGEST);
    this.#messages = new MessageArray(arena, BATCH);
    for (let i = 0; i < BATCH; i++) this.#messages.setIovecs(i, iovecs.address, 1);
    for (const port of ports) {
      const fd = checked(openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP), "socket");
      if (setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, DATAGRAM_BUFFER) === -1) {
        setOption(fd, SOL_SOCKET, SO_RCVBUF, DATAGRAM_BUFFER);
      }
      checked(bindSocket(fd, ANY, 0, port), `bind to port ${port}`);
      engine.watch(fd, EPOLLIN, this);
    }
  }

  event(fd: number): void {
    const count = recvmmsg(fd, this.#messages.pointer, BATCH, MSG_DONTWAIT, null);
    if (count > 0) this.engine.counters.datagramsReceived += count;
  }
}
