/** The sockets of forwarded ports, and what to say where one cannot be had. */
import { Errno, errno, errnoName } from "../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  bindToDevice,
  closeFd,
  interfaceIndex,
  IP_PKTINFO,
  IP_RECVERR,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_RECVERR,
  IPV6_RECVPKTINFO,
  IPV6_V6ONLY,
  listenSocket,
  openSocket,
  setOption,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
  supportsFamily,
} from "../../ffi/socket.ts";
import type { Config, ForwardRule } from "../config.ts";
import { StartError } from "../errors.ts";
import { log } from "../log.ts";
import { formatAddress, isIPv4, isLinkLocal, parseAddress } from "../wire/address.ts";
import { RECEIVE_BUFFER } from "./udp_layout.ts";

/** The kernel bounds it by net.core.somaxconn. */
export const BACKLOG = 4096;
/** Port ranges that the line about ports passed over names. */
const RANGES_NAMED = 16;

const ANY4 = parseAddress("0.0.0.0") as Uint8Array;
const ANY6 = parseAddress("::") as Uint8Array;

/** Ports of `all` that could not be had, in the order of the rules. */
export interface Skipped {
  readonly ports: number[];
  had: number;
}

/** What a rule without an address listens on. */
export const AnyAddress = { four: 0, six: 1, both: 2 } as const;
/** One of the values above. */
export type AnyAddress = typeof AnyAddress[keyof typeof AnyAddress];

/** What sockets of rules without an address are to be, by the families served. */
export function anyAddress({ ip4, ip6 }: Pick<Config, "ip4" | "ip6">): AnyAddress {
  if (ip6 === undefined) return AnyAddress.four;
  if (ip4 === undefined) return AnyAddress.six;
  return supportsFamily(AF_INET6) ? AnyAddress.both : AnyAddress.four;
}

/** What a port of a rule listens on, to tell whether it is open already. */
export function nameOf(rule: ForwardRule, port: number): string {
  const address = rule.address === undefined ? "*" : formatAddress(rule.address);
  return `${rule.protocol} ${address}%${rule.interface ?? ""} ${port}`;
}

/** Makes one socket; its descriptor, or the error number negated. */
export function listen(rule: ForwardRule, port: number, any: AnyAddress): number {
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
  // ICMP errors that the guest's answers meet are the guest's to hear of.
  setOption(fd, SOL_IP, IP_RECVERR, 1);
  if (!four) setOption(fd, SOL_IPV6, IPV6_RECVERR, 1);
  return information === 0 &&
    bindSocket(fd, address, 0, port, scopeOf(address, rule)) === 0 &&
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1) === 0 &&
    (setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER) === 0 ||
      setOption(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER) === 0);
}

/** The option that asked for a rule of this protocol. */
function optionOf(protocol: ForwardRule["protocol"]): string {
  return protocol === "tcp" ? "-t" : "-u";
}

/**
 * Why a port cannot be forwarded, from the error number `number` of bind() or listen().
 */
export function refusal(rule: ForwardRule, port: number, number: number): string {
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
export function report(protocol: ForwardRule["protocol"], { ports, had }: Skipped): void {
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
export function ranges(ports: readonly number[]): string {
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
