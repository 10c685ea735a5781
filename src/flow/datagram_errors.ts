/**
 * ICMP errors that reached the host's sockets, told to the guest as if they had reached
 * it: the packet they quote is rebuilt with the addresses and ports of the guest's side.
 */
import {
  ErrorOrigin,
  IP_MTU,
  IPV6_MTU,
  lastError,
  readError,
} from "../../ffi/error_queue.ts";
import { getOption, SO_ERROR, SOL_IP, SOL_IPV6, SOL_SOCKET } from "../../ffi/socket.ts";
import { packetTooBig, timeExceeded, unreachable } from "../services/icmp_error.ts";
import { isUnspecified, sameAddress } from "../wire/address.ts";
import { EtherType, writeEthernet } from "../wire/ethernet.ts";
import { IcmpV4Type, IcmpV4Unreachable } from "../wire/icmpv4.ts";
import { ICMPV6_IDENTIFIER_AT, IcmpV6Type } from "../wire/icmpv6.ts";
import { DEFAULT_TTL, Protocol } from "../wire/ip.ts";
import { IPV4_HEADER_SIZE, writeIPv4 } from "../wire/ipv4.ts";
import { writeIPv6 } from "../wire/ipv6.ts";
import { UDP_HEADER_SIZE, writeUdp } from "../wire/udp.ts";
import type { FlowContext } from "./context.ts";
import { HEAD4, HEAD6, isFlow4 } from "./frame_head.ts";
import { unreachableCode } from "./outbound.ts";
import {
  FLOW_SIZE,
  FLOW_WORDS,
  FlowKind,
  FlowWord,
  KEY_ENDPOINT_AT,
  KEY_OUR_AT,
  Side,
} from "./table.ts";

/** Errors taken from one queue at once. */
const ERRORS_PER_TURN = 64;
/** Of the packet in question, as much as any ICMP error quotes. */
const QUOTED = 1280;
const REPLY = 2048;

/** A queue was emptied of `taken` errors: the next call shall not fail of the last. */
function settled(fd: number, taken: number): number {
  if (taken > 0) getOption(fd, SOL_SOCKET, SO_ERROR, 0);
  return taken;
}

/** Takes what a socket's error queue holds (ip(7), IP_RECVERR) to the guest as ICMP. */
export class DatagramErrors {
  readonly #context: FlowContext;
  readonly #original = new DataView(new ArrayBuffer(QUOTED));
  readonly #reply = new DataView(new ArrayBuffer(REPLY));
  readonly #source = new Uint8Array(16);
  readonly #host = new Uint8Array(16);
  /** Errors that the guest was told of. */
  reported = 0;

  constructor(context: FlowContext) {
    this.#context = context;
  }

  /**
   * Tells the guest of what waits in the error queue of a flow's socket.
   *
   * @returns how many errors were taken; if more are left, the next call on the socket
   *   fails with the first of them
   */
  drain(flow: number, fd: number): number {
    for (let i = 0; i < ERRORS_PER_TURN; i++) {
      if (!readError(fd)) return settled(fd, i);
      this.#tell(flow, fd);
    }
    return ERRORS_PER_TURN;
  }

  /** As {@link drain}, of a forwarded port's socket: many flows send through it. */
  drainListener(fd: number, port: number): number {
    for (let i = 0; i < ERRORS_PER_TURN; i++) {
      if (!readError(fd)) return settled(fd, i);
      const flow = this.#flowOfPeer(port);
      if (flow >= 0) this.#tell(flow, fd);
    }
    return ERRORS_PER_TURN;
  }

  /** The flow of a forwarded port that the last error concerns, or -1. */
  #flowOfPeer(port: number): number {
    const { table } = this.#context;
    table.keyBytes.set(lastError.local, KEY_OUR_AT);
    table.keyBytes.set(lastError.peer, KEY_ENDPOINT_AT);
    table.key[1] = (port << 16) | lastError.peerPort;
    return table.find(FlowKind.udp, Side.host);
  }

  #tell(flow: number, fd: number): void {
    const { origin, type, code, info } = lastError;
    // What the host itself refuses was told when the call for it failed.
    if (origin !== ErrorOrigin.icmp && origin !== ErrorOrigin.icmp6) return;
    const { config, guest, table } = this.#context;
    const source = this.#offender(flow);
    const length = this.#quote(flow, lastError.quotedLength);
    const original = this.#original;
    const reply = this.#reply;
    const four = origin === ErrorOrigin.icmp;
    if (four !== isFlow4(table.words, flow)) return;
    let size = 0;
    if (
      four
        ? type === IcmpV4Type.unreachable &&
          code === IcmpV4Unreachable.fragmentationNeeded
        : type === IcmpV6Type.packetTooBig
    ) {
      const mtu = info > 0 ? info : this.#pathMtu(fd, four);
      size = packetTooBig(config, guest, original, length, mtu, reply, source);
    } else if (type === (four ? IcmpV4Type.unreachable : IcmpV6Type.unreachable)) {
      size = unreachable(config, guest, original, length, code, reply, source);
    } else if (type === (four ? IcmpV4Type.timeExceeded : IcmpV6Type.timeExceeded)) {
      size = timeExceeded(config, guest, original, length, code, reply, source);
    }
    this.#send(size);
  }

  /** Tells the guest that a packet of `payload` transport bytes exceeds the path's MTU. */
  tellTooBig(flow: number, fd: number): void {
    const { config, guest, table } = this.#context;
    const mtu = this.#pathMtu(fd, isFlow4(table.words, flow));
    lastError.quotedLength = 0;
    const length = this.#quote(flow, 0);
    this.#send(packetTooBig(config, guest, this.#original, length, mtu, this.#reply));
  }

  /** Tells the guest that the host could not send: {@link unreachableCode}. */
  tellUnreachable(flow: number, number: number): void {
    const { config, guest, table } = this.#context;
    const code = unreachableCode(number, isFlow4(table.words, flow));
    if (code < 0) return;
    const length = this.#quote(flow, 0);
    this.#send(unreachable(config, guest, this.#original, length, code, this.#reply));
  }

  #send(length: number): void {
    if (length <= 0) return;
    if (this.#context.sink.send(this.#reply, length)) this.reported++;
    else this.#context.drops.noBuffer++;
  }

  #pathMtu(fd: number, four: boolean): number {
    const mtu = four
      ? getOption(fd, SOL_IP, IP_MTU, 0)
      : getOption(fd, SOL_IPV6, IPV6_MTU, 0);
    return mtu > 0 ? mtu : four ? 576 : 1280;
  }

  /** Who the error is from, as the guest knows it; undefined for vuelo itself. */
  #offender(flow: number): Uint8Array | undefined {
    const { table, map } = this.#context;
    const { offender } = lastError;
    if (isUnspecified(offender)) return undefined;
    const entry = flow * FLOW_SIZE;
    const host = entry + FlowWord.hostEndpoint * 4;
    for (let i = 0; i < 16; i++) this.#host[i] = table.bytes[host + i];
    if (!sameAddress(offender, this.#host)) {
      return map.inward(offender, 0, this.#source) ? this.#source : undefined;
    }
    const our = entry + FlowWord.guestOur * 4;
    for (let i = 0; i < 16; i++) this.#source[i] = table.bytes[our + i];
    return this.#source;
  }

  /** Rebuilds the guest's packet with `quoted` known bytes of payload; its length. */
  #quote(flow: number, quoted: number): number {
    const { config, guest, table } = this.#context;
    const out = this.#original;
    const words = table.words;
    const four = isFlow4(words, flow);
    const udp = table.kind(flow) === FlowKind.udp;
    const start = four ? HEAD4 : HEAD6;
    const most = QUOTED - start - UDP_HEADER_SIZE;
    const known = quoted < most ? quoted : most;
    const size = udp ? UDP_HEADER_SIZE + known : Math.max(known, UDP_HEADER_SIZE);
    const entry = flow * FLOW_SIZE;
    const from = entry + FlowWord.guestEndpoint * 4;
    const to = entry + FlowWord.guestOur * 4;
    const type = four ? EtherType.ipv4 : EtherType.ipv6;
    const upper = udp ? Protocol.udp : four ? Protocol.icmp : Protocol.icmpv6;
    const view = table.view;
    writeEthernet(out, 0, config.ourMac, guest.mac, type);
    if (four) {
      const total = IPV4_HEADER_SIZE + size;
      writeIPv4(out, 14, total, upper, DEFAULT_TTL, view, from, view, to);
    } else writeIPv6(out, 14, size, upper, DEFAULT_TTL, view, from, view, to);
    const ports = words[flow * FLOW_WORDS + FlowWord.guestPorts];
    if (udp) writeUdp(out, start, ports & 0xffff, ports >>> 16, size);
    const at = udp ? start + UDP_HEADER_SIZE : start;
    for (let i = 0; i < known; i++) out.setUint8(at + i, lastError.quoted.getUint8(i));
    if (!udp) this.#restoreEcho(start, known, four, ports & 0xffff);
    return start + size;
  }

  /** The kernel's echo identifier becomes the guest's again. */
  #restoreEcho(at: number, known: number, four: boolean, identifier: number): void {
    const out = this.#original;
    if (known < 8) {
      out.setUint32(at, 0);
      out.setUint32(at + 4, 0);
      out.setUint8(at, four ? IcmpV4Type.echo : IcmpV6Type.echo);
    }
    out.setUint16(at + ICMPV6_IDENTIFIER_AT, identifier);
  }
}
