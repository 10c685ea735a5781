/**
 * Echo requests of the guest (RFC 792, RFC 4443 section 4) through ping sockets, which
 * need no privilege. The kernel puts an identifier of its own into each request; replies
 * get the guest's back. A flow is one identifier of the guest towards one address.
 */
import { Arena } from "../../ffi/arena.ts";
import { Errno, errno } from "../../ffi/errno.ts";
import { EPOLLERR, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import {
  AF_INET,
  AF_INET6,
  closeFd,
  connectSocket,
  IP_RECVERR,
  IP_TTL,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  IPV6_RECVERR,
  IPV6_UNICAST_HOPS,
  lastAddress,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  openSocket,
  PMTUDISC_DO,
  PMTUDISC_DONT,
  readAddress,
  sendmsg,
  setOption,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
} from "../../ffi/socket.ts";
import { log } from "../log.ts";
import { isIPv4, isLinkLocal, sameAddress } from "../wire/address.ts";
import {
  ICMPV4_CHECKSUM_AT,
  ICMPV4_CODE_AT,
  ICMPV4_HEADER_SIZE,
  ICMPV4_IDENTIFIER_AT,
  ICMPV4_SEQUENCE_AT,
  IcmpV4Type,
} from "../wire/icmpv4.ts";
import { IcmpV6Type } from "../wire/icmpv6.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import { IPV4_HEADER_SIZE } from "../wire/ipv4.ts";
import { IPV6_HEADER_SIZE } from "../wire/ipv6.ts";
import { PingWord } from "../wire/state/flow_entry.ts";
import { eventData, EventKind, type FlowContext, type FlowHandler } from "./context.ts";
import { DatagramErrors } from "./datagram_errors.ts";
import { admit, reopen } from "./datagram_move.ts";
import { noteExhausted } from "./exhausted.ts";
import { flowPseudoSum, HEAD4, HEAD6, writeFlowHead } from "./frame_head.ts";
import { bindOutbound, mayFragment, setDiscovery, unreachableCode } from "./outbound.ts";
import { PendingRing } from "./pending.ts";
import { NO_BUFFER, ReceiveBatch, TOO_BIG } from "./receive_batch.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, KEY_OUR_AT, Side } from "./table.ts";
import { joinThread, leaveThread } from "./thread_change.ts";

// ICMP and ICMPv6 echo have the same layout; the names of one stand for both.
const HEADER = ICMPV4_HEADER_SIZE;

/** RFC 5508, REQ-2: not below a minute. */
const IDLE_MS = 60_000;
/** Replies taken at once, and their share of the frames in a turn. */
const REPLIES = 8;
const TURN_SHARE = 4;
const IOVECS = 1025;
/** Bytes of a reply that room is made for at first. */
const EXPECTED = 1400;

const outward = new Uint8Array(16);

/** All pings of one data path. */
export class Ping implements FlowHandler {
  readonly #context: FlowContext;
  readonly #words: Int32Array;
  readonly #batch: ReceiveBatch;
  readonly #errors: DatagramErrors;
  readonly #pending: PendingRing;
  readonly #activeAt: Float64Array;
  readonly #iovecs: IovecArray;
  readonly #message: MessageArray;
  readonly #header: DataView;
  readonly #headerAddress: number;
  /** Replies of one flow before others have their turn. */
  readonly #turn: number;
  #refusalLogged = false;

  constructor(context: FlowContext) {
    const { capacity, words, bounds } = context.table;
    this.#turn = Math.ceil(bounds.limits.budget / TURN_SHARE);
    this.#context = context;
    this.#words = words;
    this.#batch = new ReceiveBatch(context);
    this.#batch.prefix = HEADER;
    this.#batch.names = true;
    this.#errors = new DatagramErrors(context);
    this.#pending = new PendingRing(capacity);
    this.#activeAt = new Float64Array(capacity);
    const arena = new Arena(IOVECS * 16 + 4096);
    this.#iovecs = new IovecArray(arena, IOVECS);
    this.#message = new MessageArray(arena, 1);
    const at = arena.take(HEADER);
    this.#header = new DataView(arena.buffer, at, HEADER);
    this.#headerAddress = arena.base + at;
  }

  fromGuest(): void {
    const { source, packet, table, drops } = this.#context;
    const at = packet.transportAt;
    const four = packet.protocol === Protocol.icmp;
    const request = four ? IcmpV4Type.echo : IcmpV6Type.echo;
    const { head } = source;
    if (head.getUint8(at) !== request || head.getUint8(at + ICMPV4_CODE_AT) !== 0) {
      drops.protocol++;
      return;
    }
    table.key[1] = head.getUint16(at + ICMPV4_IDENTIFIER_AT);
    let flow = table.find(four ? FlowKind.ping4 : FlowKind.ping6, Side.guest);
    if (flow < 0) {
      if (this.#context.elsewhere()) return;
      flow = this.#open(four);
      if (flow < 0) return;
    }
    this.#activeAt[flow] = this.#context.now;
    this.#send(flow, four);
  }

  /** Opens a flow for the current request, whose key is set; -1 if that cannot be. */
  #open(four: boolean): number {
    const { table, source, map, drops, timers, now } = this.#context;
    const protocol = four ? Protocol.icmp : Protocol.icmpv6;
    if (map.outward(table.keyBytes, KEY_OUR_AT, 0, protocol, outward) < 0) {
      const code = four ? 13 : 1;
      this.#context.sendUnreachable(source.head, source.headLength, code);
      return -1;
    }
    const flow = table.admit(four ? FlowKind.ping4 : FlowKind.ping6, true);
    if (flow < 0) {
      table.bounds.note(table.bounds.met);
      drops.flows++;
      return -1;
    }
    const at = flow * FLOW_WORDS;
    for (let i = 0; i < 9; i++) {
      this.#words[at + FlowWord.guestPorts + i] = table.key[1 + i];
    }
    table.bytes.set(outward, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
    this.#words[at + PingWord.ttl] = DEFAULT_TTL;
    const number = this.#connect(flow, four);
    if (number !== 0) {
      drops.socket++;
      this.#tellRefusal(number, four);
      const fd = this.#words[at + FlowWord.fd];
      if (fd !== -1) closeFd(fd);
      table.release(flow);
      return -1;
    }
    table.insert(flow, Side.guest);
    timers.set(flow, now + IDLE_MS);
    return flow;
  }

  /** Makes the flow's socket; 0, or the error number. */
  #connect(flow: number, four: boolean): number {
    const { config, map, epoll, table } = this.#context;
    const family = isIPv4(outward) ? AF_INET : AF_INET6;
    if ((family === AF_INET) !== four) return Errno.EAFNOSUPPORT;
    const fd = openSocket(family, SOCK_DGRAM, four ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    if (fd === -1) return noteExhausted(errno());
    this.#words[flow * FLOW_WORDS + FlowWord.fd] = fd;
    if (!bindOutbound(fd, outward, four ? config.ip4 : config.ip6)) return errno();
    setOption(fd, four ? SOL_IP : SOL_IPV6, four ? IP_RECVERR : IPV6_RECVERR, 1);
    this.#discover(flow, fd, four, PMTUDISC_DO);
    const scope = isLinkLocal(outward) ? map.scope : 0;
    if (connectSocket(fd, outward, 0, 0, scope) === -1) return errno();
    const data = eventData(EventKind.ping, flow);
    const generation = table.generation(flow);
    return epoll.tryAdd(fd, EPOLLIN + EPOLLET, data, generation) ? 0 : errno();
  }

  #tellRefusal(number: number, four: boolean): void {
    const { source } = this.#context;
    const refused = number === Errno.EACCES || number === Errno.EPERM;
    if (refused && !this.#refusalLogged) {
      this.#refusalLogged = true;
      log.warn(
        "ping does not work: the host allows this group no ping sockets, see " +
          "net.ipv4.ping_group_range",
      );
    }
    const code = refused ? -1 : unreachableCode(number, four);
    if (code >= 0) {
      this.#context.sendUnreachable(source.head, source.headLength, code);
    }
  }

  /** Milliseconds since a flow's last request. */
  idle(flow: number): number {
    return this.#context.now - this.#activeAt[flow];
  }

  /** As UdpFlows.adopt(). */
  adopt(flow: number, idle: number): number {
    const { table, timers, now } = this.#context;
    const at = flow * FLOW_WORDS;
    this.#words[at + FlowWord.fd] = -1;
    this.#words[at + PingWord.discover] = PMTUDISC_DO;
    const number = admit(this.#context, flow, false) || reopen(this.#context, flow);
    if (number !== 0) {
      table.release(flow);
      return number;
    }
    table.insert(flow, Side.guest);
    this.#activeAt[flow] = now - idle;
    timers.set(flow, Math.max(now, now - idle + IDLE_MS));
    return 0;
  }

  /** A ping may change threads at any time. */
  canHandOver(_flow: number): boolean {
    return true;
  }
  /** As UdpFlows.write(). */
  write(flow: number, to: Float64Array): number {
    to[0] = this.#activeAt[flow];
    return 1;
  }
  /** As UdpFlows.leave(). */
  leave(flow: number): void {
    leaveThread(this.#context, flow);
  }
  /** As UdpFlows.join(). */
  join(flow: number, from: Float64Array): boolean {
    this.#activeAt[flow] = from[0];
    return joinThread(this.#context, flow, EventKind.ping, EPOLLIN + EPOLLET);
  }

  /** Sets whether the host may fragment, which the guest decides packet by packet. */
  #discover(flow: number, fd: number, four: boolean, mode: number): void {
    this.#words[flow * FLOW_WORDS + PingWord.discover] = mode;
    setDiscovery(fd, four, mode);
  }

  /** Sends the current request: header from here, the rest from guest memory. */
  #send(flow: number, four: boolean): void {
    const { source, packet, drops } = this.#context;
    const word = flow * FLOW_WORDS;
    const fd = this.#words[word + FlowWord.fd];
    const at = packet.transportAt;
    if (packet.ttl !== this.#words[word + PingWord.ttl]) {
      this.#words[word + PingWord.ttl] = packet.ttl;
      if (four) setOption(fd, SOL_IP, IP_TTL, packet.ttl);
      else setOption(fd, SOL_IPV6, IPV6_UNICAST_HOPS, packet.ttl);
    }
    const mode = mayFragment(this.#context) ? PMTUDISC_DONT : PMTUDISC_DO;
    if (mode !== this.#words[word + PingWord.discover]) {
      this.#discover(flow, fd, four, mode);
    }
    const iovecs = this.#iovecs;
    iovecs.count = 0;
    if (source.pieces + 1 > iovecs.capacity) {
      drops.malformed++;
      return;
    }
    const header = this.#header;
    header.setUint32(0, 0);
    header.setUint32(4, 0);
    header.setUint8(0, four ? IcmpV4Type.echo : IcmpV6Type.echo);
    header.setUint16(
      ICMPV4_SEQUENCE_AT,
      source.head.getUint16(at + ICMPV4_SEQUENCE_AT),
    );
    iovecs.add(this.#headerAddress, HEADER);
    source.appendPayload(at + HEADER, packet.transportLength - HEADER, iovecs);
    this.#message.setIovecs(0, iovecs.address, iovecs.count);
    if (!this.#sendMessage(flow, fd)) drops.socket++;
  }

  #sendMessage(flow: number, fd: number): boolean {
    for (let attempt = 0; attempt < 2; attempt++) {
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      if (sendmsg(fd, this.#message.pointer, flags) >= 0) return true;
      const number = errno();
      if (number === Errno.EAGAIN || number === Errno.ENOBUFS) return false;
      if (number === Errno.EMSGSIZE) {
        this.#errors.tellTooBig(flow, fd);
        this.#errors.drain(flow, fd);
        return false;
      }
      // It may be an error that an earlier request met: once more.
      const before = this.#errors.reported;
      this.#errors.drain(flow, fd);
      if (this.#errors.reported === before && attempt > 0) {
        this.#errors.tellUnreachable(flow, number);
      }
    }
    return false;
  }

  flush(): void {} // requests are sent as they come

  onSocket(flow: number, events: number): void {
    if ((events & EPOLLERR) !== 0) {
      this.#errors.drain(flow, this.#context.table.fd(flow));
    }
    if ((events & EPOLLIN) !== 0) this.#receive(flow);
  }

  /** Takes the replies that wait; what has no buffer yet is taken in {@link resume}. */
  #receive(flow: number): void {
    const { sink, table, mtu } = this.#context;
    const batch = this.#batch;
    const four = table.kind(flow) === FlowKind.ping4;
    const fd = table.fd(flow);
    const head = (four ? HEAD4 : HEAD6) + HEADER;
    const payload = mtu - (four ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE) - HEADER;
    let failures = 0;
    for (let total = 0; total < this.#turn;) {
      const reserved = batch.reserve(REPLIES, head, payload, EXPECTED);
      const got = reserved === 0 ? 0 : batch.receive(fd);
      const failed = got < 0 && errno() !== Errno.EAGAIN;
      for (let i = 0; i < got; i++) this.#reply(flow, four, i, head);
      sink.end();
      if (reserved === 0) break;
      if (failed && ++failures <= REPLIES) this.#errors.drain(flow, fd);
      else if (got < reserved) return;
      if (got > 0) total += got;
    }
    this.#pending.push(flow);
  }

  /** Commits reply `i` of the batch. */
  #reply(flow: number, four: boolean, i: number, head: number): void {
    const batch = this.#batch;
    const { sink, drops } = this.#context;
    const type = four ? IcmpV4Type.echoReply : IcmpV6Type.echoReply;
    const payload = batch.length(i);
    if (payload < 0 || batch.view.getUint8(batch.prefixAt(i)) !== type) return;
    if (!this.#isPeer(flow, i)) return;
    const frame = batch.truncated(i) ? TOO_BIG : batch.frameFor(i);
    if (frame < 0) {
      if (frame === NO_BUFFER) drops.noBuffer++;
      else drops.tooBig++;
      return;
    }
    const protocol = four ? Protocol.icmp : Protocol.icmpv6;
    const length = HEADER + payload;
    const at = writeFlowHead(this.#context, flow, protocol, length);
    const out = sink.head;
    const identifier = this.#words[flow * FLOW_WORDS + FlowWord.guestPorts] & 0xffff;
    out.setUint16(at, type << 8);
    // ICMP has no pseudo-header (RFC 792), ICMPv6 has (RFC 4443, section 2.3).
    const partial = four ? 0 : flowPseudoSum(out, at, protocol, length);
    out.setUint16(at + ICMPV4_CHECKSUM_AT, partial);
    out.setUint16(at + ICMPV4_IDENTIFIER_AT, identifier);
    const sequence = batch.view.getUint16(batch.prefixAt(i) + ICMPV4_SEQUENCE_AT);
    out.setUint16(at + ICMPV4_SEQUENCE_AT, sequence);
    sink.commit(frame, head, payload, at, ICMPV4_CHECKSUM_AT, 0, 0);
  }

  /** Ping sockets take replies from anybody: only the flow's peer is meant. */
  #isPeer(flow: number, i: number): boolean {
    const { bytes } = this.#context.table;
    if (!readAddress(this.#batch.view, this.#batch.nameAt(i))) return false;
    const at = flow * FLOW_SIZE + FlowWord.hostEndpoint * 4;
    return sameAddress(lastAddress.bytes, bytes, 0, at);
  }

  onTimer(flow: number): void {
    const due = this.#activeAt[flow] + IDLE_MS;
    if (due <= this.#context.now) this.drop(flow);
    else this.#context.timers.set(flow, due);
  }

  /** Flows wait for {@link resume}. */
  get waiting(): number {
    return this.#pending.count;
  }

  resume(): void {
    const { table, sink } = this.#context;
    for (let left = this.#pending.count; left > 0 && !sink.starved; left--) {
      const flow = this.#pending.take();
      if (table.kind(flow) >= FlowKind.ping4) this.#receive(flow);
    }
  }

  drop(flow: number): void {
    const { table, timers } = this.#context;
    const fd = table.fd(flow);
    if (fd !== -1) closeFd(fd);
    timers.clear(flow);
    table.remove(flow, Side.guest);
    table.release(flow);
  }
}
