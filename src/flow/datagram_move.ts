/**
 * UDP and ping flows that move with their guest: a socket with the same local port where
 * the host has it free. What neither side has read is lost, as datagrams may be.
 */
import { errno } from "../../ffi/errno.ts";
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
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
import { isIPv4, isLinkLocal, isUnspecified } from "../wire/address.ts";
import { DEFAULT_TTL } from "../wire/ip.ts";
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
  const scope = isLinkLocal(peer) ? map.scope : 0;
  if (!bindLocal(context, flow, fd, scope)) {
    if (!bindOutbound(fd, peer, four ? config.ip4 : config.ip6)) return errno();
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
  scope: number,
): boolean {
  const at = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const our = table.bytes.slice(at, at + 16);
  if (isUnspecified(our)) return false;
  const port = table.words[flow * FLOW_WORDS + FlowWord.hostPorts] >>> 16;
  return bindSocket(fd, our, 0, port, scope) === 0 ||
    bindSocket(fd, our, 0, 0, scope) === 0;
}
