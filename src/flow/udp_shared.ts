/** What the parts of UDP share: state beside the table, opening and ending flows. */
import { errno } from "../../ffi/errno.ts";
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import {
  AF_INET,
  AF_INET6,
  closeFd,
  connectSocket,
  IP_MTU_DISCOVER,
  IP_RECVERR,
  IPPROTO_UDP,
  IPV6_MTU_DISCOVER,
  IPV6_RECVERR,
  openSocket,
  PMTUDISC_DO,
  setOption,
  SO_RCVBUF,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
} from "../../ffi/socket.ts";
import { isIPv4, isLinkLocal } from "../wire/address.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import { Bound } from "./bounds.ts";
import { eventData, EventKind, type FlowContext } from "./context.ts";
import { DatagramErrors } from "./datagram_errors.ts";
import { noteExhausted } from "./exhausted.ts";
import { bindOutbound, unreachableCode } from "./outbound.ts";
import { PacedSockets } from "./paced_sockets.ts";
import { PendingRing } from "./pending.ts";
import { ReceiveBatch } from "./receive_batch.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, KEY_OUR_AT, Side } from "./table.ts";
import {
  DNS_PORT,
  ETHERNET_PAYLOAD,
  IDLE_MS,
  RECEIVE_BUFFER,
  SHORT_IDLE_MS,
  UdpFlag,
  UdpWord,
} from "./udp_layout.ts";

/** Listening sockets at most: every port of both protocols and families would fit. */
export const MAX_LISTENERS = 1 << 18;

/** A forwarded port's socket, as the forwarder hands it in. */
export interface UdpListener {
  fd: number;
  guestPort: number;
  /** Address of the guest that is meant, undefined for the one it uses. */
  guestAddress: Uint8Array | undefined;
  /** Local port. */
  port: number;
  /** Family of the last datagram, which the next is expected to be of. */
  four: boolean;
  hint: number;
  /** Bytes of payload, and of a longer header, to make room for in the next receive. */
  size: number;
}

/** Counters for the log and for tests. */
export interface UdpCounters {
  opened: number;
  accepted: number;
  sent: number;
  received: number;
}

const outward = new Uint8Array(16);

/** What all UDP flows of one data path share. */
export class UdpShared {
  /** Those of FlowTable.words. */
  readonly words: Int32Array;
  /** Datagrams on their way to the guest. */
  readonly batch: ReceiveBatch;
  /** Errors on their way to the guest. */
  readonly errors: DatagramErrors;
  /** When a flow last carried something either way. */
  readonly activeAt: Float64Array;
  /** Flows whose sockets have more than one turn's share. */
  readonly pending: PendingRing;
  /** Sockets that are looked into without events. */
  readonly paced: PacedSockets;
  /** Datagrams of one socket before others have their turn. */
  readonly turn: number;
  /** Datagrams that the last receive brought. */
  taken = 0;
  /** Flows whose datagrams the kernel would not cut up for the route they take. */
  readonly #unsegmented: Uint8Array;
  /** The guest takes datagrams of one length joined into one frame, of both families. */
  joined = false;
  /** Sockets of forwarded ports; a flow's word names one by its index plus 1. */
  readonly listeners: (UdpListener | undefined)[] = [];
  /** What has happened so far. */
  readonly counters: UdpCounters = { opened: 0, accepted: 0, sent: 0, received: 0 };

  constructor(readonly context: FlowContext) {
    const { capacity, bounds } = context.table;
    this.turn = bounds.limits.budget;
    this.words = context.table.words;
    this.batch = new ReceiveBatch(context);
    this.errors = new DatagramErrors(context);
    this.activeAt = new Float64Array(capacity);
    this.pending = new PendingRing(capacity);
    this.paced = new PacedSockets(context.epoll);
    this.#unsegmented = new Uint8Array(capacity);
  }

  /** Whether one of a flow's flags (UdpFlag) is set. */
  has(flow: number, flag: number): boolean {
    return (this.words[flow * FLOW_WORDS] & flag) !== 0;
  }
  /** Sets flags of a flow. */
  mark(flow: number, flag: number): void {
    this.words[flow * FLOW_WORDS] |= flag;
  }

  /** The socket a flow sends through, -1 if its listener is gone. */
  fd(flow: number): number {
    const listener = this.words[flow * FLOW_WORDS + UdpWord.listener];
    if (listener === 0) return this.words[flow * FLOW_WORDS + FlowWord.fd];
    return this.listeners[listener - 1]?.fd ?? -1;
  }

  /** Whether each datagram of the flow is to be a message of its own. */
  unsegmented(flow: number): boolean {
    return this.#unsegmented[flow] !== 0;
  }
  /** Sets {@link unsegmented}. */
  setUnsegmented(flow: number, unsegmented: boolean): void {
    this.#unsegmented[flow] = unsegmented ? 1 : 0;
  }

  /** Whether what a socket receives may be joined: all that it has must be told apart. */
  setJoined(fd: number): void {
    setOption(fd, SOL_UDP, UDP_GRO, this.joined ? 1 : 0);
  }

  /** Notes the time; the timer itself is set again only when it expires. */
  touch(flow: number): void {
    this.activeAt[flow] = this.context.now;
  }

  /** Milliseconds without a datagram after which a flow ends. */
  idleLimit(flow: number): number {
    const at = flow * FLOW_WORDS;
    if (!this.has(flow, UdpFlag.answered)) return SHORT_IDLE_MS;
    const port = this.words[at + FlowWord.guestPorts] >>> 16;
    return port === DNS_PORT ? SHORT_IDLE_MS : IDLE_MS;
  }

  /** Sets a new flow's first timer. */
  start(flow: number): void {
    const at = flow * FLOW_WORDS;
    this.words[at + UdpWord.ttl] = DEFAULT_TTL;
    this.words[at + UdpWord.hint] = 1;
    this.words[at + UdpWord.size] = ETHERNET_PAYLOAD;
    this.setUnsegmented(flow, false);
    this.touch(flow);
    this.context.timers.set(flow, this.context.now + this.idleLimit(flow));
  }
}

/**
 * An entry for a flow, counted as dropped if there is no room for it. The oldest of those
 * whose datagrams the guest has not answered makes room.
 *
 * @param socket it is to have a socket of its own
 */
export function admitDatagrams(u: UdpShared, socket: boolean): number {
  const { table, drops } = u.context;
  const { bounds } = table;
  if (!socket && bounds.full(Bound.pendingUdp)) {
    bounds.note(Bound.pendingUdp);
    if (!giveUpOldest(u)) return -1;
  }
  let flow = table.admit(FlowKind.udp, socket);
  if (flow >= 0) return flow;
  bounds.note(bounds.met);
  if (giveUpOldest(u)) flow = table.admit(FlowKind.udp, socket);
  if (flow < 0) drops.flows++;
  return flow;
}

function giveUpOldest(u: UdpShared): boolean {
  const oldest = u.context.table.waiting.oldest(Bound.pendingUdp);
  if (oldest < 0) return false;
  u.context.drops.evicted++;
  release(u, oldest);
  return true;
}

/**
 * Opens a flow for the guest's current packet, whose key is set: a socket connected to
 * where the packet is to go.
 *
 * @returns the flow, or -1; the guest was told why where ICMP has a word for it
 */
export function openFromGuest(u: UdpShared): number {
  const { context } = u;
  const { table, source, map, drops } = context;
  const remotePort = table.key[1] >>> 16;
  const port = map.outward(
    table.keyBytes,
    KEY_OUR_AT,
    remotePort,
    Protocol.udp,
    outward,
  );
  if (port < 0) {
    const code = context.packet.version === 4 ? 13 : 1;
    context.sendUnreachable(source.head, source.headLength, code);
    return -1;
  }
  const flow = admitDatagrams(u, true);
  if (flow < 0) return -1;
  const at = flow * FLOW_WORDS;
  for (let i = 0; i < 9; i++) u.words[at + FlowWord.guestPorts + i] = table.key[1 + i];
  table.bytes.set(outward, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  u.words[at + FlowWord.hostPorts] = port;
  const number = connect(u, flow, port);
  if (number !== 0) {
    drops.socket++;
    const code = unreachableCode(number, isIPv4(outward));
    if (code >= 0) context.sendUnreachable(source.head, source.headLength, code);
    const fd = u.words[at + FlowWord.fd];
    if (fd !== -1) closeFd(fd);
    table.release(flow);
    return -1;
  }
  u.mark(flow, UdpFlag.answered);
  u.start(flow);
  table.insert(flow, Side.guest);
  u.counters.opened++;
  return flow;
}

/** Makes the flow's socket; 0, or the error number. */
function connect(u: UdpShared, flow: number, port: number): number {
  const { config, map, epoll, table } = u.context;
  const four = isIPv4(outward);
  const fd = openSocket(four ? AF_INET : AF_INET6, SOCK_DGRAM, IPPROTO_UDP);
  if (fd === -1) return noteExhausted(errno());
  u.words[flow * FLOW_WORDS + FlowWord.fd] = fd;
  if (!bindOutbound(fd, outward, four ? config.ip4 : config.ip6)) return errno();
  askForErrors(fd, four);
  if (u.joined) u.setJoined(fd);
  setOption(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
  const scope = isLinkLocal(outward) ? map.scope : 0;
  u.words[flow * FLOW_WORDS + UdpWord.scope] = scope;
  if (connectSocket(fd, outward, 0, port, scope) === -1) return errno();
  const data = eventData(EventKind.udp, flow);
  const generation = table.generation(flow);
  return epoll.tryAdd(fd, EPOLLIN + EPOLLET, data, generation) ? 0 : errno();
}

/** ICMP errors are queued to be read, and the guest hears of path MTUs. */
export function askForErrors(fd: number, four: boolean): void {
  if (four) {
    setOption(fd, SOL_IP, IP_RECVERR, 1);
    setOption(fd, SOL_IP, IP_MTU_DISCOVER, PMTUDISC_DO);
  } else {
    setOption(fd, SOL_IPV6, IPV6_RECVERR, 1);
    setOption(fd, SOL_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO);
  }
}

/** Closes the flow's socket, if it has one of its own, and frees the entry. */
export function release(u: UdpShared, flow: number): void {
  const { table, timers } = u.context;
  const at = flow * FLOW_WORDS;
  const fd = u.words[at + FlowWord.fd];
  if (fd !== -1) {
    u.paced.forget(fd);
    closeFd(fd);
  }
  timers.clear(flow);
  table.remove(flow, Side.guest);
  if (u.words[at + UdpWord.listener] !== 0) table.remove(flow, Side.host);
  table.release(flow);
}
