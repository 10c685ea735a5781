/**
 * Datagrams of the guest: those of one flow that follow each other in a batch go out by
 * one sendmmsg(), straight from guest memory.
 */
import { Arena } from "../../ffi/arena.ts";
import { Errno, errno } from "../../ffi/errno.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import {
  IP_PKTINFO,
  IP_TTL,
  IPV6_PKTINFO,
  IPV6_UNICAST_HOPS,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  PMTUDISC_DONT,
  sendmmsg,
  setOption,
  SOL_IP,
  SOL_IPV6,
  writeAddress,
} from "../../ffi/socket.ts";
import { isIPv4, isUnspecified } from "../wire/address.ts";
import { UDP_HEADER_SIZE, udpLength } from "../wire/udp.ts";
import { isFlow4 } from "./frame_head.ts";
import { mayFragment, setDiscovery } from "./outbound.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowWord } from "./table.ts";
import { UdpFlag, UdpWord } from "./udp_layout.ts";
import type { UdpShared } from "./udp_shared.ts";

const MESSAGES = 128;
const IOVECS = 2048;
/** Times that a datagram is sent again after errors that others met. */
const RETRIES = 4;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const NAME_SIZE = 32;
const CONTROL_SIZE = 48;
const CMSG_HEADER = 16;

export class UdpSend {
  readonly #u: UdpShared;
  readonly #view: DataView;
  readonly #base: number;
  readonly #iovecs: IovecArray;
  readonly #messages: MessageArray;
  readonly #nameAt: number;
  readonly #controlAt: number;
  #nameLength = 0;
  #controlLength = 0;
  /** The flow that what is gathered belongs to, or -1; how many datagrams. */
  #flow = -1;
  #count = 0;
  /** Nobody but the guest may cut this datagram up. */
  readonly #whole = new Uint8Array(MESSAGES);

  constructor(u: UdpShared) {
    this.#u = u;
    const arena = new Arena(IOVECS * 16 + MESSAGES * 64 + 4096);
    this.#view = arena.view;
    this.#base = arena.base;
    this.#iovecs = new IovecArray(arena, IOVECS);
    this.#messages = new MessageArray(arena, MESSAGES);
    this.#nameAt = arena.take(NAME_SIZE);
    this.#controlAt = arena.take(CONTROL_SIZE);
  }

  /** Gathers the current packet, a datagram of `flow`. */
  add(flow: number): void {
    const u = this.#u;
    const { source, packet, drops } = u.context;
    const at = packet.transportAt;
    const length = udpLength(source.head, at, packet.transportLength);
    if (length < 0) {
      drops.malformed++;
      return;
    }
    const iovecs = this.#iovecs;
    if (
      flow !== this.#flow || this.#count === MESSAGES ||
      iovecs.count + source.pieces > iovecs.capacity ||
      packet.ttl !== u.words[flow * FLOW_WORDS + UdpWord.ttl]
    ) {
      this.flush();
      this.#begin(flow);
    }
    const first = iovecs.count;
    source.appendPayload(at + UDP_HEADER_SIZE, length - UDP_HEADER_SIZE, iovecs);
    const i = this.#count++;
    this.#whole[i] = mayFragment(u.context) ? 0 : 1;
    this.#messages.setIovecs(i, iovecs.addressOf(first), iovecs.count - first);
    const name = this.#nameLength === 0 ? 0 : this.#base + this.#nameAt;
    const control = this.#controlLength === 0 ? 0 : this.#base + this.#controlAt;
    this.#messages.setName(i, name, this.#nameLength);
    this.#messages.setControl(i, control, this.#controlLength);
  }

  #begin(flow: number): void {
    const u = this.#u;
    const at = flow * FLOW_WORDS;
    this.#flow = flow;
    this.#nameLength = this.#controlLength = 0;
    u.touch(flow);
    u.mark(flow, UdpFlag.answered);
    const { ttl } = u.context.packet;
    if (ttl !== u.words[at + UdpWord.ttl]) {
      u.words[at + UdpWord.ttl] = ttl;
      // A listener's socket serves many flows: those keep the host's TTL.
      if (u.words[at + UdpWord.listener] === 0) this.#setTtl(flow, ttl);
    }
    if (u.words[at + UdpWord.listener] !== 0) this.#address(flow);
  }

  #setTtl(flow: number, ttl: number): void {
    const fd = this.#u.fd(flow);
    if (isFlow4(this.#u.words, flow)) setOption(fd, SOL_IP, IP_TTL, ttl);
    else setOption(fd, SOL_IPV6, IPV6_UNICAST_HOPS, ttl);
  }

  /** Peer and local address of a flow that sends through a listener's socket. */
  #address(flow: number): void {
    const { words, context } = this.#u;
    const { bytes } = context.table;
    const at = flow * FLOW_WORDS;
    const entry = flow * FLOW_SIZE;
    const scope = words[at + UdpWord.scope];
    const peer = entry + FlowWord.hostEndpoint * 4;
    const port = words[at + FlowWord.hostPorts] & 0xffff;
    this.#nameLength = writeAddress(this.#view, this.#nameAt, bytes, peer, port, scope);
    const our = entry + FlowWord.hostOur * 4;
    if (!isUnspecified(bytes, our)) this.#control(bytes, our, scope);
  }

  /** struct in_pktinfo or in6_pktinfo: where the datagram is to come from. */
  #control(bytes: Uint8Array, our: number, scope: number): void {
    const view = this.#view;
    const at = this.#controlAt;
    const data = at + CMSG_HEADER;
    const four = isIPv4(bytes, our);
    const size = four ? 12 : 20;
    view.setUint32(at, CMSG_HEADER + size, true);
    view.setUint32(at + 4, 0);
    view.setInt32(at + 8, four ? SOL_IP : SOL_IPV6, true);
    view.setInt32(at + 12, four ? IP_PKTINFO : IPV6_PKTINFO, true);
    if (four) {
      view.setInt32(data, scope, true);
      for (let i = 0; i < 4; i++) view.setUint8(data + 4 + i, bytes[our + 12 + i]);
      view.setUint32(data + 8, 0);
    } else {
      for (let i = 0; i < 16; i++) view.setUint8(data + i, bytes[our + i]);
      view.setInt32(data + 16, scope, true);
    }
    this.#controlLength = CMSG_HEADER + ((size + 7) & ~7);
  }

  /** Sends what is gathered. */
  flush(): void {
    const flow = this.#flow;
    if (flow >= 0 && this.#count > 0) this.#sendAll(flow, this.#u.fd(flow));
    this.#flow = -1;
    this.#count = 0;
    this.#iovecs.count = 0;
  }

  #sendAll(flow: number, fd: number): void {
    const u = this.#u;
    const { drops } = u.context;
    let retries = 0;
    for (let done = 0; done < this.#count;) {
      const from = done === 0 ? this.#messages.pointer : this.#messages.pointerTo(done);
      const sent = fd < 0 ? -1 : sendmmsg(fd, from, this.#count - done, SEND_FLAGS);
      if (sent > 0) {
        done += sent;
        retries = 0;
        u.counters.sent += sent;
        continue;
      }
      if (fd >= 0 && this.#again(flow, fd, done, errno()) && ++retries <= RETRIES) {
        continue;
      }
      drops.socket++;
      done++;
      retries = 0;
    }
  }

  /** Whether datagram `i` may be sent once more after this error. */
  #again(flow: number, fd: number, i: number, number: number): boolean {
    const u = this.#u;
    switch (number) {
      case Errno.EAGAIN:
      case Errno.ENOBUFS:
        return false; // the path is full: as on any link, the datagram is lost
      case Errno.EINTR:
        return true;
      case Errno.EMSGSIZE:
        return this.#tooBig(flow, fd, i);
    }
    // An error that an earlier datagram met is reported to this one instead.
    const { [u.words[flow * FLOW_WORDS + UdpWord.listener] - 1]: listener } = u.listeners;
    const taken = listener === undefined
      ? u.errors.drain(flow, fd)
      : u.errors.drainListener(fd, listener.port);
    if (number === Errno.ECONNREFUSED || taken > 0) return true;
    u.errors.tellUnreachable(flow, number);
    return false;
  }

  /** The path's MTU is exceeded: the host cuts the datagram up, or the guest is told. */
  #tooBig(flow: number, fd: number, i: number): boolean {
    const u = this.#u;
    if (u.words[flow * FLOW_WORDS + UdpWord.listener] !== 0) return false;
    if (this.#whole[i] === 0 && !u.has(flow, UdpFlag.fragments)) {
      u.mark(flow, UdpFlag.fragments);
      return setDiscovery(fd, isFlow4(u.words, flow), PMTUDISC_DONT) === 0;
    }
    u.errors.tellTooBig(flow, fd);
    u.errors.drain(flow, fd);
    return false;
  }
}
