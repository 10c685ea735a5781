/** Listening sockets of -t and -u: from ports of the host to ports of the guest. */
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { Errno, errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  bindToDevice,
  closeFd,
  interfaceIndex,
  IP_PKTINFO,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_RECVPKTINFO,
  IPV6_V6ONLY,
  listenSocket,
  openSocket,
  setOption,
  SO_RCVBUF,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
  supportsFamily,
} from "../../ffi/socket.ts";
import type { ForwardRule } from "../config.ts";
import { StartError } from "../errors.ts";
import { log, LogSite } from "../log.ts";
import { formatAddress, isIPv4, isLinkLocal, parseAddress } from "../wire/address.ts";
import { eventData, EventKind, type FlowContext } from "./context.ts";

/** The kernel bounds it by net.core.somaxconn. */
const BACKLOG = 4096;
/** Bytes of datagrams that may wait; the kernel bounds it by net.core.rmem_max. */
const RECEIVE_BUFFER = 4 << 20;
/** How long a port rests after a connection found no descriptor. */
const REST_MS = 100;
/** Port ranges that the line about ports passed over names. */
const RANGES_NAMED = 16;

const exhausted = new LogSite(1);

const ANY4 = parseAddress("0.0.0.0") as Uint8Array;
const ANY6 = parseAddress("::") as Uint8Array;

/** Whom connections and datagrams that come in are handed to. */
export type ForwardContext = Pick<FlowContext, "config" | "epoll"> & {
  readonly tcp: {
    /**
     * Connections wait at the listening socket `fd`; false if one cannot be accepted for
     * want of descriptors.
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
    ): void;
  };
};

interface Listening {
  readonly kind: number;
  readonly fd: number;
  readonly guestPort: number;
  /** Address of the guest that is meant, undefined for the one it uses. */
  readonly guestAddress?: Uint8Array;
}

/** Ports of `all` that could not be had, in the order of the rules. */
interface Skipped {
  readonly ports: number[];
  had: number;
}

/**
 * All forwarded ports. Their sockets listen from {@link open} on, so that what comes in
 * before the guest receives waits in the kernel; {@link resume} and {@link pause} follow
 * the guest's receive queue.
 */
export class Forwarder {
  readonly #context: ForwardContext;
  #listening: Listening[] = [];
  #receiving = false;
  /** Sockets not watched until {@link #restEnds}, for want of descriptors. */
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
    const { ip4, ip6, forwards } = this.#context.config;
    const any = ip6 === undefined
      ? AnyAddress.four
      : ip4 === undefined
      ? AnyAddress.six
      : supportsFamily(AF_INET6)
      ? AnyAddress.both
      : AnyAddress.four;
    try {
      for (const rule of forwards) this.#openRule(rule, any, skipped[rule.protocol]);
      report("tcp", skipped.tcp);
      report("udp", skipped.udp);
      if (this.#receiving) this.#watch();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #openRule(rule: ForwardRule, any: AnyAddress, skipped: Skipped): void {
    const kind = rule.protocol === "tcp" ? EventKind.tcpListener : EventKind.udpListener;
    for (let port = rule.first; port <= rule.last; port++) {
      const fd = listen(rule, port, any);
      if (fd >= 0) {
        const guestPort = port - rule.first + rule.guestFirst;
        const { guestAddress } = rule;
        this.#listening.push({ kind, fd, guestPort, guestAddress });
        if (rule.weak) skipped.had++;
        continue;
      }
      const number = -fd;
      if (!rule.weak || number !== Errno.EADDRINUSE && number !== Errno.EACCES) {
        throw new StartError(refusal(rule, port, number));
      }
      skipped.ports.push(port);
    }
  }

  /** The guest receives: what waits at the sockets is handed on, now and later. */
  resume(): void {
    if (this.#receiving) return;
    this.#receiving = true;
    try {
      this.#watch();
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      log.error(`some forwarded ports do not work: ${error.message}`);
    }
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
   */
  onEvent(kind: number, index: number): void {
    if (!this.#receiving || index >= this.#listening.length) return;
    const listening = this.#listening[index];
    if (listening.kind !== kind) return;
    const { tcp, udp } = this.#context;
    const { fd, guestPort, guestAddress } = listening;
    if (kind === EventKind.udpListener) {
      udp.onListener(index, fd, guestPort, guestAddress);
    } else if (!tcp.onListener(fd, guestPort, guestAddress)) this.#rest(index);
  }

  /**
   * No descriptor is left for a connection that waits. It goes on waiting in the kernel,
   * established as its peer sees it, until a flow has ended; watched meanwhile, it would
   * keep the loop from ever waiting.
   */
  #rest(index: number): void {
    exhausted.write(
      "warning",
      "connections to forwarded ports wait: no descriptor is left for them; raise the " +
        "limit of open files (ulimit -Hn, LimitNOFILE, fs.file-max)",
    );
    this.#context.epoll.remove(this.#listening[index].fd);
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

  /** Closes all sockets: connections that wait are reset, datagrams are lost. */
  close(): void {
    // A closed descriptor is watched no longer.
    for (const { fd } of this.#listening) closeFd(fd);
    this.#listening = [];
    this.#forgetResting();
  }
}

/** What a rule without an address listens on. */
const AnyAddress = { four: 0, six: 1, both: 2 } as const;
type AnyAddress = typeof AnyAddress[keyof typeof AnyAddress];

/** Makes one socket; its descriptor, or the error number negated. */
function listen(rule: ForwardRule, port: number, any: AnyAddress): number {
  const four = rule.address === undefined
    ? any === AnyAddress.four
    : isIPv4(rule.address);
  const tcp = rule.protocol === "tcp";
  const fd = openSocket(
    four ? AF_INET : AF_INET6,
    tcp ? SOCK_STREAM : SOCK_DGRAM,
    tcp ? IPPROTO_TCP : IPPROTO_UDP,
  );
  if (fd === -1) return -errno();
  const address = rule.address ?? (four ? ANY4 : ANY6);
  const only = rule.address !== undefined || any !== AnyAddress.both;
  const ready = (four || setOption(fd, SOL_IPV6, IPV6_V6ONLY, only ? 1 : 0) === 0) &&
    (rule.interface === undefined || bindToDevice(fd, rule.interface) === 0) &&
    (tcp ? listenTcp(fd, address, port, rule) : bindUdp(fd, address, port, rule, four));
  if (ready) return fd;
  const number = errno();
  closeFd(fd);
  return -number;
}

/** Interface index that a link-local address needs. */
function scopeOf(address: Uint8Array, rule: ForwardRule): number {
  if (rule.interface === undefined || !isLinkLocal(address)) return 0;
  return interfaceIndex(rule.interface);
}

function listenTcp(
  fd: number,
  address: Uint8Array,
  port: number,
  rule: ForwardRule,
): boolean {
  return setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1) === 0 &&
    bindSocket(fd, address, 0, port, scopeOf(address, rule)) === 0 &&
    listenSocket(fd, BACKLOG) === 0;
}

/**
 * SO_REUSEADDR comes after bind(): a port that somebody else has is refused, and sockets
 * of flows can still be bound to this one. On a socket of both families
 * IPV6_RECVPKTINFO tells of IPv4 datagrams too, with mapped addresses.
 */
function bindUdp(
  fd: number,
  address: Uint8Array,
  port: number,
  rule: ForwardRule,
  four: boolean,
): boolean {
  const information = four
    ? setOption(fd, SOL_IP, IP_PKTINFO, 1)
    : setOption(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1);
  return information === 0 &&
    bindSocket(fd, address, 0, port, scopeOf(address, rule)) === 0 &&
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1) === 0 &&
    setOption(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER) === 0;
}

/** The option that asked for a rule of this protocol. */
function optionOf(protocol: ForwardRule["protocol"]): string {
  return protocol === "tcp" ? "-t" : "-u";
}

function refusal(rule: ForwardRule, port: number, number: number): string {
  const address = rule.address === undefined
    ? "any address"
    : formatAddress(rule.address);
  const where = rule.interface === undefined ? address : `${address}%${rule.interface}`;
  return `cannot listen on ${rule.protocol.toUpperCase()} port ${port} (${where}): ` +
    `${errnoName(number)}; ${advice(rule, number)}, see ${optionOf(rule.protocol)}`;
}

function advice(rule: ForwardRule, number: number): string {
  switch (number) {
    case Errno.EADDRINUSE:
      return "another program has the port: stop it or choose another port";
    case Errno.EACCES:
      return "ports this low need CAP_NET_BIND_SERVICE or a lower " +
        "net.ipv4.ip_unprivileged_port_start";
    case Errno.EADDRNOTAVAIL:
      return "the host does not have this address";
    case Errno.EPERM:
      return `binding to ${rule.interface ?? "an interface"} needs CAP_NET_RAW here`;
    case Errno.ENODEV:
      return `the host has no interface ${rule.interface ?? ""}`.trimEnd();
    case Errno.EINVAL:
      return "a link-local address needs its interface, as address%interface";
    case Errno.EMFILE:
    case Errno.ENFILE:
      return "each port takes a descriptor: forward fewer or raise the limit (ulimit -Hn)";
    case Errno.EAFNOSUPPORT:
      return "the host does not have this address family";
    default:
      return "forward another port or address";
  }
}

/** One line about the ports of `all` that are not forwarded. */
function report(protocol: ForwardRule["protocol"], { ports, had }: Skipped): void {
  if (ports.length === 0) return;
  const name = protocol.toUpperCase();
  if (had === 0) {
    throw new StartError(
      `cannot listen on any ${name} port of 'all': others have them or they need ` +
        `privileges, see ${optionOf(protocol)}`,
    );
  }
  log.warn(
    `${name} ports not forwarded, being in use or privileged: ${ranges(ports)} ` +
      `(${ports.length} in all)`,
  );
}

/** Port numbers in ascending order as text like `1-1023,8080`. */
function ranges(ports: readonly number[]): string {
  const parts: string[] = [];
  for (let at = 0; at < ports.length;) {
    let end = at;
    while (end + 1 < ports.length && ports[end + 1] === ports[end] + 1) end++;
    if (parts.length === RANGES_NAMED) {
      parts.push(`and ${ports.length - at} more`);
      break;
    }
    parts.push(end === at ? `${ports[at]}` : `${ports[at]}-${ports[end]}`);
    at = end + 1;
  }
  return parts.join(",");
}
