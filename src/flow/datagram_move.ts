/**
 * UDP and ping flows that move with their guest: a socket with the same local port where
 * the host has it free. What neither side has read is lost, as datagrams may be.
 */
import { Errno, errno } from "../../ffi/errno.ts";
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  bindToDevice,
  closeFd,
  connectSocket,
  IP_RECVERR,
  IP_TTL,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPPROTO_UDP,
  IPV6_RECVERR,
  IPV6_UNICAST_HOPS,
  lastAddress,
  localAddress,
  openSocket,
  PMTUDISC_DO,
  PMTUDISC_DONT,
  setOption,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
} from "../../ffi/socket.ts";
import { deafen, undeafen } from "../../ffi/socket_filter.ts";
import {
  isBroadcast,
  isIPv4,
  isLinkLocal,
  isLoopback,
  isMulticast,
  isUnspecified,
  sameAddress,
} from "../wire/address.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import { eventData, EventKind, type FlowContext } from "./context.ts";
import { bindOutbound, setDiscovery } from "./outbound.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord } from "./table.ts";
import { UdpFlag, UdpWord } from "./udp_layout.ts";

/** Sockets of datagram flows drop what comes in, or take it again. */
export function setDeaf(context: FlowContext, deaf: boolean): void {
  const { table } = context;
  for (let flow = 0; flow < table.limit; flow++) {
    const kind = table.kind(flow);
    if (kind === FlowKind.free || kind === FlowKind.tcp) continue;
    const fd = table.fd(flow);
    if (fd === -1) continue;
    if (deaf) deafen(fd);
    else undeafen(fd);
  }
}

/** Notes a socket's own address and port in the entry `words` at `at`. */
export function noteLocal(words: Int32Array<ArrayBuffer>, at: number, fd: number): void {
  if (fd === -1 || !localAddress(fd)) return;
  const bytes = new Uint8Array(words.buffer, words.byteOffset + at * 4, FLOW_SIZE);
  bytes.set(lastAddress.bytes, FlowWord.hostOur * 4);
  const ports = at + FlowWord.hostPorts;
  words[ports] = (words[ports] & 0xffff) | (lastAddress.port << 16);
}

const outward = new Uint8Array(16);

/**
 * Whether a flow that was moved here is one that the guest might have opened here: an
 * entry is taken at its word no more than the guest is. A flow with a socket of its own
 * goes where the guest's packets would go now, to the DNS server of this host, say.
 *
 * @param forwarded it came through a forwarded port that this host has as well
 * @returns 0, or an error number
 */
export function admit(context: FlowContext, flow: number, forwarded: boolean): number {
  const { config, table, map } = context;
  const { bytes, words } = table;
  const kind = table.kind(flow);
  const start = flow * FLOW_SIZE;
  const peerAt = start + FlowWord.hostEndpoint * 4;
  const ourAt = start + FlowWord.guestOur * 4;
  const localAt = start + FlowWord.hostOur * 4;
  const four = isIPv4(bytes, ourAt);
  const udp = kind === FlowKind.udp;
  if (!(udp ? config.udp : config.icmp)) return Errno.EACCES;
  if (
    isIPv4(bytes, start + FlowWord.guestEndpoint * 4) !== four ||
    isIPv4(bytes, peerAt) !== four || !udp && (kind === FlowKind.ping4) !== four
  ) return Errno.EAFNOSUPPORT;
  const family = four ? config.ip4 : config.ip6;
  if (family === undefined) return Errno.EAFNOSUPPORT;
  if (forwarded) {
    // The source host itself was the peer, which this one is not.
    const own = isLoopback(bytes, peerAt) || isLoopback(bytes, localAt) ||
      sameAddress(family.address, bytes, 0, peerAt);
    const group = isMulticast(bytes, peerAt) || isBroadcast(bytes, peerAt);
    return own || group ? Errno.EADDRNOTAVAIL : 0;
  }
  const at = flow * FLOW_WORDS;
  const protocol = udp ? Protocol.udp : four ? Protocol.icmp : Protocol.icmpv6;
  const remote = udp ? words[at + FlowWord.guestPorts] >>> 16 : 0;
  const port = map.outward(bytes, ourAt, remote, protocol, outward);
  if (port < 0) return Errno.EACCES;
  bytes.set(outward, peerAt);
  const ports = at + FlowWord.hostPorts;
  words[ports] = (words[ports] & ~0xffff) | port;
  return 0;
}

/** Index of this host's interface towards a flow's peer, if that is in fe80::/10. */
export function scopeHere({ table, map }: FlowContext, flow: number): number {
  const at = flow * FLOW_SIZE + FlowWord.hostEndpoint * 4;
  if (isIPv4(table.bytes, at) || !isLinkLocal(table.bytes, at)) return 0;
  // Without anything better it is what it was at the source.
  return map.scope !== 0 ? map.scope : table.words[flow * FLOW_WORDS + UdpWord.scope];
}

/**
 * Makes the socket of a flow whose entry was moved here, and watches it.
 *
 * @returns 0, or an error number; no socket is left then
 */
export function reopen(context: FlowContext, flow: number): number {
  const { table } = context;
  const kind = table.kind(flow);
  const entry = table.bytes.subarray(flow * FLOW_SIZE, (flow + 1) * FLOW_SIZE);
  const peer = entry.slice(FlowWord.hostEndpoint * 4, FlowWord.hostEndpoint * 4 + 16);
  const four = isIPv4(peer);
  const protocol = kind === FlowKind.udp
    ? IPPROTO_UDP
    : four
    ? IPPROTO_ICMP
    : IPPROTO_ICMPV6;
  const fd = openSocket(four ? AF_INET : AF_INET6, SOCK_DGRAM, protocol);
  if (fd === -1) return errno();
  const number = setUp(context, flow, fd, peer, four);
  if (number !== 0) {
    closeFd(fd);
    return number;
  }
  table.words[flow * FLOW_WORDS + FlowWord.fd] = fd;
  table.ownSocket(flow);
  return 0;
}

function setUp(
  context: FlowContext,
  flow: number,
  fd: number,
  peer: Uint8Array,
  four: boolean,
): number {
  const { table, map, epoll, config } = context;
  const { words } = table;
  const at = flow * FLOW_WORDS;
  const udp = table.kind(flow) === FlowKind.udp;
  const scope = udp ? scopeHere(context, flow) : isLinkLocal(peer) ? map.scope : 0;
  const family = four ? config.ip4 : config.ip6;
  const device = isLoopback(peer) ? undefined : family?.outboundInterface;
  if (device !== undefined && bindToDevice(fd, device) === -1) return errno();
  if (!bindLocal(context, flow, fd, peer, scope)) {
    if (!bindOutbound(fd, peer, family)) return errno();
  }
  setOption(fd, four ? SOL_IP : SOL_IPV6, four ? IP_RECVERR : IPV6_RECVERR, 1);
  const fragments = udp && (words[at] & UdpFlag.fragments) !== 0;
  setDiscovery(fd, four, fragments ? PMTUDISC_DONT : PMTUDISC_DO);
  const ttl = words[at + UdpWord.ttl]; // the same word for ping
  if (ttl !== DEFAULT_TTL) {
    if (four) setOption(fd, SOL_IP, IP_TTL, ttl);
    else setOption(fd, SOL_IPV6, IPV6_UNICAST_HOPS, ttl);
  }
  const port = udp ? words[at + FlowWord.hostPorts] & 0xffff : 0;
  if (connectSocket(fd, peer, 0, port, scope) === -1) return errno();
  const data = eventData(udp ? EventKind.udp : EventKind.ping, flow);
  return epoll.tryAdd(fd, EPOLLIN + EPOLLET, data, table.generation(flow)) ? 0 : errno();
}

/** Binds to the port the flow had, and to its address; to another if need be. */
function bindLocal(
  { table }: FlowContext,
  flow: number,
  fd: number,
  peer: Uint8Array,
  scope: number,
): boolean {
  const at = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const our = table.bytes.slice(at, at + 16);
  // Other services of this host would take the guest for one of its own programs.
  if (isUnspecified(our) || isLoopback(our) && !isLoopback(peer)) return false;
  const port = table.words[flow * FLOW_WORDS + FlowWord.hostPorts] >>> 16;
  return bindSocket(fd, our, 0, port, scope) === 0 ||
    bindSocket(fd, our, 0, 0, scope) === 0;
}
