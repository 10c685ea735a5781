/**
 * Datagrams of the guest: those of one flow that follow each other in a batch go out by
 * one sendmmsg(), straight from guest memory. Runs of the same length are one message of
 * it each, which the kernel takes through its stack as one packet and cuts up at the end
 * (UDP_SEGMENT, udp(7)).
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
  SOL_UDP,
  UDP_SEGMENT,
  writeAddress,
} from "../../ffi/socket.ts";
import { GsoType, NET_GSO_SIZE_AT, NET_GSO_TYPE_AT } from "../virtio/net_header.ts";
import { isIPv4, isUnspecified } from "../wire/address.ts";
import { UDP_HEADER_SIZE, udpLength } from "../wire/udp.ts";
import { isFlow4 } from "./frame_head.ts";
import { mayFragment, setDiscovery } from "./outbound.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowWord } from "./table.ts";
import { UdpFlag, UdpWord } from "./udp_layout.ts";
import type { UdpShared } from "./udp_shared.ts";

/** Datagrams gathered at most: all that the guest may send in one turn. */
const DATAGRAMS = 256;
/** Datagrams in one frame of the guest: UDP_MAX_SEGMENTS of Linux. */
const FRAME_SEGMENTS = 128;
/** As many pieces as a frame can have, and one more for each place where it is cut. */
const IOVECS = 2048 + FRAME_SEGMENTS;
/** Datagrams in one message: UDP_MAX_SEGMENTS of Linux before 6.9. */
const SEGMENTS = 64;
/** Payload of one message: it travels as one IP packet (65535 bytes, IPv4 header). */
const SEGMENTED_PAYLOAD = 65_507;
/** Times that a message is sent again after errors that others met. */
const RETRIES = 4;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const NAME_SIZE = 32;
const CMSG_HEADER = 16;
/** struct in6_pktinfo is the longest. */
const PKTINFO_SIZE = CMSG_HEADER + 24;
/** A 16-bit length, padded. */
const SEGMENT_SIZE = CMSG_HEADER + 8;
const CONTROL_SIZE = PKTINFO_SIZE + SEGMENT_SIZE;

/**
 * Payload bytes of each datagram in the guest's current frame, which is to be cut into
 * several (VIRTIO_NET_HDR_GSO_UDP_L4) or is one. All else that the net header says of its
 * headers and checksum is for devices that cut, and complete checksums, themselves.
 *
 * @returns 0 if the guest says so, though there is something to be cut
 */
function datagramSize(netHeader: DataView, payload: number): number {
  if ((netHeader.getUint8(NET_GSO_TYPE_AT) & ~GsoType.ecn) !== GsoType.udpL4) {
    return payload;
  }
  const size = netHeader.getUint16(NET_GSO_SIZE_AT, true);
  return size < payload ? size : payload;
}

/** Datagrams of the guest on their way to sockets. */
export class UdpSend {
  readonly #u: UdpShared;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  readonly #base: number;
  readonly #iovecs: IovecArray;
  readonly #messages: MessageArray;
  readonly #nameAt: number;
  /** One of {@link CONTROL_SIZE} for each message; the first part is the flow's. */
  readonly #controlAt: number;
  #nameLength = 0;
  #pktinfoLength = 0;
  /** The flow that what is gathered belongs to, or -1; how many datagrams. */
  #flow = -1;
  #count = 0;
  /** The kernel knows UDP_SEGMENT: 1, 0, or -1 while nobody asked. */
  #segments = -1;
  /** Of each datagram: payload bytes, and its first iovec; one more is where they end. */
  readonly #length = new Int32Array(DATAGRAMS);
  readonly #first = new Int32Array(DATAGRAMS + 1);
  /** Nobody but the guest may cut this datagram up. */
  readonly #whole = new Uint8Array(DATAGRAMS);
  /** The first datagram of each message; one more is where they end. */
  readonly #start = new Int32Array(DATAGRAMS + 1);

  constructor(u: UdpShared) {
    this.#u = u;
    const each = 64 + CONTROL_SIZE;
    const arena = new Arena(IOVECS * 16 + DATAGRAMS * each + 4096);
    this.#view = arena.view;
    this.#base = arena.base;
    this.#iovecs = new IovecArray(arena, IOVECS);
    this.#messages = new MessageArray(arena, DATAGRAMS);
    this.#nameAt = arena.take(NAME_SIZE);
    this.#controlAt = arena.take(CONTROL_SIZE * DATAGRAMS);
    this.#words = new Uint32Array(arena.buffer);
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
    const payload = length - UDP_HEADER_SIZE;
    const size = datagramSize(source.netHeader, payload);
    const segments = size < payload ? Math.ceil(payload / size) : 1;
    if (!(segments <= FRAME_SEGMENTS)) {
      drops.malformed++;
      return;
    }
    const iovecs = this.#iovecs;
    if (
      flow !== this.#flow || this.#count + segments > DATAGRAMS ||
      iovecs.count + source.pieces + segments > iovecs.capacity ||
      packet.ttl !== u.words[flow * FLOW_WORDS + UdpWord.ttl]
    ) {
      this.flush();
      this.#begin(flow);
    }
    const whole = mayFragment(u.context, UDP_HEADER_SIZE + size) ? 0 : 1;
    const start = at + UDP_HEADER_SIZE;
    for (let done = 0, left = segments; left > 0; left--, done += size) {
      const piece = left === 1 ? payload - done : size;
      source.appendPayload(start + done, piece, iovecs);
      const i = this.#count++;
      this.#length[i] = piece;
      this.#first[i + 1] = iovecs.count;
      this.#whole[i] = whole;
    }
  }

  #begin(flow: number): void {
    const u = this.#u;
    const at = flow * FLOW_WORDS;
    this.#flow = flow;
    this.#nameLength = this.#pktinfoLength = 0;
    u.touch(flow);
    u.mark(flow, UdpFlag.answered);
    u.context.table.waiting.leave(flow);
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
    if (!isUnspecified(bytes, our)) this.#pktinfo(bytes, our, scope);
  }

  /** struct in_pktinfo or in6_pktinfo: where the datagram is to come from. */
  #pktinfo(bytes: Uint8Array, our: number, scope: number): void {
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
    this.#pktinfoLength = CMSG_HEADER + ((size + 7) & ~7);
  }

  /** Sends what is gathered. */
  flush(): void {
    const flow = this.#flow;
    if (flow >= 0 && this.#count > 0) this.#sendAll(flow, this.#u.fd(flow));
    this.#flow = -1;
    this.#count = 0;
    this.#iovecs.count = 0;
  }

  /**
   * Makes messages of the datagrams from `first` on.
   *
   * @param joined whether runs of the same length are to be one message
   * @returns how many messages there are
   */
  #compose(first: number, joined: boolean): number {
    let messages = 0;
    for (let i = first; i < this.#count;) {
      const end = joined ? this.#runFrom(i) : i + 1;
      this.#start[messages] = i;
      this.#setMessage(messages++, i, end);
      i = end;
    }
    this.#start[messages] = this.#count;
    return messages;
  }

  /** Where the run of datagrams ends that starts at `i`: only its last may be shorter. */
  #runFrom(i: number): number {
    const length = this.#length[i];
    if (length === 0) return i + 1;
    let left = SEGMENTED_PAYLOAD - length;
    const most = i + SEGMENTS < this.#count ? i + SEGMENTS : this.#count;
    for (let end = i + 1; end < most; end++) {
      const next = this.#length[end];
      if (next === 0 || next > length || next > left) return end;
      if (next < length) return end + 1;
      left -= next;
    }
    return most;
  }

  /** Message `m` carries the datagrams from `first` to before `end`. */
  #setMessage(m: number, first: number, end: number): void {
    const messages = this.#messages;
    const iovec = this.#first[first];
    const count = this.#first[end] - iovec;
    messages.setIovecs(m, this.#iovecs.addressOf(iovec), count);
    const name = this.#nameLength === 0 ? 0 : this.#base + this.#nameAt;
    messages.setName(m, name, this.#nameLength);
    let at = this.#controlAt;
    let length = this.#pktinfoLength;
    if (end - first > 1) {
      at += m * CONTROL_SIZE;
      length += this.#segment(m, this.#length[first]);
    }
    messages.setControl(m, length === 0 ? 0 : this.#base + at, length);
  }

  /** Ancillary data of message `m`: the flow's, and where to cut. */
  #segment(m: number, size: number): number {
    const words = this.#words;
    const from = this.#controlAt >>> 2;
    const to = from + m * (CONTROL_SIZE / 4);
    const shared = this.#pktinfoLength >>> 2;
    for (let i = 0; i < shared; i++) words[to + i] = words[from + i];
    const at = to + shared;
    words[at] = CMSG_HEADER + 2;
    words[at + 1] = 0;
    words[at + 2] = SOL_UDP;
    words[at + 3] = UDP_SEGMENT;
    words[at + 4] = size;
    return SEGMENT_SIZE;
  }

  #sendAll(flow: number, fd: number): void {
    const u = this.#u;
    const { drops } = u.context;
    let messages = this.#compose(0, this.#count > 1 && this.#mayJoin(flow, fd));
    let retries = 0;
    for (let done = 0; done < messages;) {
      const from = done === 0 ? this.#messages.pointer : this.#messages.pointerTo(done);
      const sent = fd < 0 ? -1 : sendmmsg(fd, from, messages - done, SEND_FLAGS);
      if (sent > 0) {
        u.counters.sent += this.#start[done + sent] - this.#start[done];
        done += sent;
        retries = 0;
        continue;
      }
      const first = this.#start[done];
      const count = this.#start[done + 1] - first;
      const number = fd < 0 ? Errno.EBADF : errno();
      if (count > 1 && this.#refused(flow, number)) {
        messages = this.#compose(first, false);
        done = 0;
        continue;
      }
      if (fd >= 0 && this.#again(flow, fd, first, number) && ++retries <= RETRIES) {
        continue;
      }
      drops.socket += count;
      done++;
      retries = 0;
    }
  }

  /** Whether runs of the flow's datagrams may be one message each. */
  #mayJoin(flow: number, fd: number): boolean {
    const u = this.#u;
    if (this.#segments < 0 && fd >= 0) {
      // Kernels without it (before Linux 4.18) would send what is joined as it is.
      this.#segments = setOption(fd, SOL_UDP, UDP_SEGMENT, 0) === 0 ? 1 : 0;
    }
    return this.#segments > 0 && !u.has(flow, UdpFlag.fragments) && !u.unsegmented(flow);
  }

  /**
   * Whether datagrams that were joined are to be sent one by one: they exceed the path's
   * MTU, or the kernel does not cut up on this route (EIO, with IPsec and, before Linux
   * 6.11, devices without checksum offload). Older kernels say EINVAL to both.
   */
  #refused(flow: number, number: number): boolean {
    if (number === Errno.EMSGSIZE) return true;
    if (number !== Errno.EIO && number !== Errno.EINVAL) return false;
    this.#u.setUnsegmented(flow, true); // unless it turns out that one was too big
    return true;
  }

  /** Whether the message of datagram `i` may be sent once more after this error. */
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
    u.setUnsegmented(flow, false);
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
