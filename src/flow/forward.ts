/** Listening sockets of -t and -u: from ports of the host to ports of the guest. */
import { EPOLLERR, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { Errno, SyscallError } from "../../ffi/errno.ts";
import { awaitReady, POLLIN } from "../../ffi/pipe.ts";
import { deafen, undeafen } from "../../ffi/socket_filter.ts";
import { closeFd } from "../../ffi/socket.ts";
import type { ForwardRule } from "../config.ts";
import { StartError } from "../errors.ts";
import { log } from "../log.ts";
import { isIPv4 } from "../wire/address.ts";
import { eventData, EventKind, type FlowContext } from "./context.ts";
import {
  AnyAddress,
  anyAddress,
  BACKLOG,
  listen,
  nameOf,
  ranges,
  refusal,
  report,
  type Skipped,
} from "./forward_socket.ts";

/** Ports that rules which come with a guest are looked at for: all there are, twice. */
const MAX_ADOPTED = 1 << 18;
/** How long a port rests after a connection found no room. */
const REST_MS = 100;

/** Whom connections and datagrams that come in are handed to. */
export type ForwardContext = Pick<FlowContext, "config" | "epoll"> & {
  readonly tcp: {
    /**
     * Connections wait at the listening socket `fd`; false if one cannot be accepted yet,
     * for want of descriptors or other room.
     */
    onListener(fd: number, guestPort: number, guestAddress?: Uint8Array): boolean;
  };
  readonly udp: {
    /** Datagrams wait at the socket `fd`, the forwarder's socket number `index`. */
    onListener(
      index: number,
      fd: number,
      guestPort: number,
      guestAddress?: Uint8Array,
      events?: number,
    ): void;
    /** The forwarder's socket number `index` is closed. */
    forgetListener(index: number): void;
  };
};

interface Listening {
  readonly kind: number;
  readonly fd: number;
  /** Port of the host, and the rule it belongs to. */
  readonly port: number;
  readonly rule: ForwardRule;
  readonly guestPort: number;
  /** Address of the guest that is meant, undefined for the one it uses. */
  readonly guestAddress?: Uint8Array;
}

/** A forwarded UDP port, as UdpFlows.adopt() takes it. */
export type DatagramSocket = Pick<Listening, "fd" | "guestPort" | "guestAddress"> & {
  readonly index: number;
};

/**
 * All forwarded ports. Their sockets listen from {@link open} on, so that what comes in
 * before the guest receives waits in the kernel; {@link resume} and {@link pause} follow
 * the guest's receive queue.
 */
export class Forwarder {
  readonly #context: ForwardContext;
  #listening: Listening[] = [];
  /** By port of the host, the numbers of UDP sockets. */
  readonly #datagram = new Map<number, number[]>();
  /** Rules that came with a guest, and the number of the first socket of theirs. */
  #adopted: ForwardRule[] = [];
  #firstAdopted = Infinity;
  #receiving = false;
  /** Sockets take nothing: see {@link hold}. */
  #held = false;
  /** Sockets not watched until {@link #restEnds}: connections there found no room. */
  readonly #resting: number[] = [];
  #restEnds = Infinity;

  constructor(context: ForwardContext) {
    this.#context = context;
  }

  /**
   * Makes the sockets of all rules; may be called again after {@link close}.
   *
   * @throws {StartError} if a port cannot be had, except for the ports of `all` that
   *   others use or that need a privilege; nothing is open then
   */
  open(): void {
    const skipped = {
      tcp: { ports: [], had: 0 } as Skipped,
      udp: { ports: [], had: 0 } as Skipped,
    };
    const any = anyAddress(this.#context.config);
    try {
      for (const rule of this.#context.config.forwards) {
        this.#openRule(rule, any, skipped[rule.protocol]);
      }
      report("tcp", skipped.tcp);
      report("udp", skipped.udp);
      if (this.#receiving) this.#watch();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #openRule(rule: ForwardRule, any: AnyAddress, skipped: Skipped): void {
    for (let port = rule.first; port <= rule.last; port++) {
      const number = this.#openPort(rule, port, any);
      if (number === 0) {
        if (rule.weak) skipped.had++;
        continue;
      }
      if (!rule.weak || number !== Errno.EADDRINUSE && number !== Errno.EACCES) {
        throw new StartError(refusal(rule, port, number));
      }
      skipped.ports.push(port);
    }
  }

  /** Opens one port of a rule; 0, or the error number. */
  #openPort(rule: ForwardRule, port: number, any: AnyAddress): number {
    const kind = rule.protocol === "tcp" ? EventKind.tcpListener : EventKind.udpListener;
    const fd = listen(rule, port, any);
    if (fd < 0) return -fd;
    const guestPort = port - rule.first + rule.guestFirst;
    const { guestAddress } = rule;
    const index = this.#listening.length;
    this.#listening.push({ kind, fd, port, rule, guestPort, guestAddress });
    if (kind === EventKind.udpListener) {
      const same = this.#datagram.get(port);
      if (same === undefined) this.#datagram.set(port, [index]);
      else same.push(index);
    }
    return 0;
  }

  /** The guest receives: what waits at the sockets is handed on, now and later. */
  resume(): void {
    if (this.#receiving) return;
    this.#receiving = true;
    this.unhold();
    for (let index = 0; index < this.#listening.length; index++) {
      try {
        this.#watchOne(index);
      } catch (error) {
        if (!(error instanceof SyscallError)) throw error;
        this.#later(index, error);
      }
    }
  }

  /** A port cannot be watched now, for want of memory say. */
  #later(index: number, error: SyscallError): void {
    const { port } = this.#listening[index];
    log.error(`forwarded port ${port} does not work for now: ${error.message}`);
    this.#resting.push(index);
    this.#restEnds = performance.now() + REST_MS;
  }

  #watch(): void {
    for (let index = 0; index < this.#listening.length; index++) this.#watchOne(index);
  }

  #watchOne(index: number): void {
    const { fd, kind } = this.#listening[index];
    // Datagrams that find no receive buffer wait: no event may come of them meanwhile.
    const events = kind === EventKind.udpListener ? EPOLLIN + EPOLLET : EPOLLIN;
    this.#context.epoll.add(fd, events, eventData(kind, index));
  }

  /** The guest does not receive: what comes in waits. */
  pause(): void {
    if (!this.#receiving) return;
    this.#receiving = false;
    this.#forgetResting();
    for (const { fd } of this.#listening) {
      try {
        this.#context.epoll.remove(fd);
      } catch (error) {
        // Not watched: resume() could not.
        if (!(error instanceof SyscallError)) throw error;
      }
    }
  }

  /**
   * Something waits at a socket. An event of the same turn may have paused or closed it:
   * such a late event is ignored.
   *
   * @param events EPOLL* bits, if they are known
   */
  onEvent(kind: number, index: number, events: number = EPOLLERR): void {
    if (!this.#receiving || index >= this.#listening.length) return;
    const listening = this.#listening[index];
    if (listening.kind !== kind) return;
    const { tcp, udp } = this.#context;
    const { fd, guestPort, guestAddress } = listening;
    if (kind === EventKind.udpListener) {
      udp.onListener(index, fd, guestPort, guestAddress, events);
    } else if (!tcp.onListener(fd, guestPort, guestAddress)) this.#rest(index);
  }

  /**
   * There is no room for a connection that waits. It goes on waiting in the kernel,
   * established as its peer sees it, until a flow has ended; watched meanwhile, it would
   * keep the loop from ever waiting.
   */
  #rest(index: number): void {
    this.#context.epoll.tryRemove(this.#listening[index].fd);
    this.#resting.push(index);
    if (this.#restEnds === Infinity) this.#restEnds = performance.now() + REST_MS;
  }

  /** Watches ports again that had to rest; once in each turn of the loop. */
  turn(): void {
    if (this.#resting.length === 0 || performance.now() < this.#restEnds) return;
    const rested = this.#resting.splice(0);
    this.#restEnds = Infinity;
    for (const index of rested) {
      try {
        this.#watchOne(index);
      } catch (error) {
        if (!(error instanceof SyscallError)) throw error;
        this.#resting.push(index); // no memory: later
        this.#restEnds = performance.now() + REST_MS;
      }
    }
  }

  /** Milliseconds until {@link turn} has something to do, Infinity if it has not. */
  timeout(): number {
    return this.#restEnds === Infinity
      ? Infinity
      : Math.max(0, this.#restEnds - performance.now());
  }

  #forgetResting(): void {
    this.#resting.length = 0;
    this.#restEnds = Infinity;
  }

  /** The rules in force: those of the configuration, and those that came with a guest. */
  get rules(): readonly ForwardRule[] {
    return [...this.#context.config.forwards, ...this.#adopted];
  }

  /**
   * Takes over rules that came with a guest: ports that are not open yet are opened, until
   * {@link dropAdopted}. What cannot be had is told in the log.
   *
   * @param most ports, for each of which there is a descriptor to spare
   */
  adopt(rules: readonly ForwardRule[], most: number): void {
    const any = anyAddress(this.#context.config);
    const open = new Set(this.#listening.map(({ rule, port }) => nameOf(rule, port)));
    this.#firstAdopted = Math.min(this.#firstAdopted, this.#listening.length);
    let left = Math.min(most, MAX_ADOPTED);
    for (const rule of rules) {
      left -= rule.last - rule.first + 1;
      if (left < 0) {
        log.warn(
          "more forwarded ports came with the guest than there are descriptors for (see " +
            `ulimit -Hn): ${rule.protocol.toUpperCase()} ${rule.first}-${rule.last} and ` +
            "later ones are left out",
        );
        return;
      }
      this.#adoptRule(rule, any, open);
    }
  }

  #adoptRule(rule: ForwardRule, any: AnyAddress, open: Set<string>): void {
    const refused: number[] = [];
    const before = this.#listening.length;
    for (let port = rule.first; port <= rule.last; port++) {
      const name = nameOf(rule, port);
      if (open.has(name)) continue;
      const number = this.#openPort(rule, port, any);
      if (number === 0) open.add(name);
      else refused.push(port);
      if (number === Errno.EMFILE || number === Errno.ENFILE) {
        // The guest's connections need descriptors, too.
        this.#closeFrom(before);
        log.warn(refusal(rule, port, number));
        return;
      }
    }
    if (this.#listening.length > before) this.#adopted.push(rule);
    if (refused.length > 0 && !rule.weak) {
      log.warn(
        `forwarded ports that came with the guest cannot be had here: ` +
          `${rule.protocol.toUpperCase()} ${ranges(refused)}`,
      );
    }
  }

  /** The guest is gone, and so are the rules that it brought along. */
  dropAdopted(): void {
    if (this.#firstAdopted < this.#listening.length) this.#closeFrom(this.#firstAdopted);
    this.#firstAdopted = Infinity;
    this.#adopted = [];
  }

  /** Closes the sockets from number `first` on. */
  #closeFrom(first: number): void {
    for (let index = this.#listening.length - 1; index >= first; index--) {
      const { kind, fd, port } = this.#listening[index];
      closeFd(fd); // which is watched no longer
      if (kind !== EventKind.udpListener) continue;
      this.#context.udp.forgetListener(index);
      const same = this.#datagram.get(port)!;
      if (same.length === 1) this.#datagram.delete(port);
      else same.pop();
    }
    this.#listening.length = first;
    const resting = this.#resting.splice(0).filter((index) => index < first);
    this.#resting.push(...resting);
  }

  /**
   * The guest is leaving: no socket takes, refuses or loses anything from now on, clients
   * ask again and meet the guest where it then is. What was taken before is handed on.
   * This ends with {@link unhold}, or when a guest receives here.
   */
  hold(): void {
    this.#held = true;
    for (const { fd } of this.#listening) deafen(fd);
    for (const { kind, fd, guestPort, guestAddress } of this.#listening) {
      if (kind !== EventKind.tcpListener) continue;
      const { tcp } = this.#context;
      // Each call takes a turn's share, of one at least: no more than a backlog waits.
      for (let i = 0; i < BACKLOG && awaitReady(fd, POLLIN, 0); i++) {
        if (!tcp.onListener(fd, guestPort, guestAddress)) break;
      }
    }
  }

  /** Undoes {@link hold}. */
  unhold(): void {
    if (!this.#held) return;
    this.#held = false;
    for (const { fd } of this.#listening) undeafen(fd);
  }

  /** The socket that takes datagrams for a port of the host, and its index. */
  datagramSocket(port: number, four: boolean): DatagramSocket | undefined {
    const index = this.#datagram.get(port)?.find((index) => {
      const { address } = this.#listening[index].rule;
      return address === undefined || isIPv4(address) === four;
    });
    if (index === undefined) return undefined;
    const { fd, guestPort, guestAddress } = this.#listening[index];
    return { index, fd, guestPort, guestAddress };
  }

  /** Closes all sockets: connections that wait are reset, datagrams are lost. */
  close(): void {
    this.#closeFrom(0);
    this.dropAdopted();
    this.#forgetResting();
  }
}
