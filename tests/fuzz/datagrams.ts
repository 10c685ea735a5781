/** Datagrams and pings of the guest, and what a host says to them: replies and errors. */
import { ip, OUR_MAC } from "../support/flow_config.ts";
import { NET_HEADER } from "../support/mock_driver.ts";
import type { Script } from "./engine/target.ts";
import { onesSum, sealed } from "./frames.ts";
import { host } from "./host/install.ts";
import type { Datagram, HostSocket } from "./host/made_up.ts";
import type { FuzzWorld } from "./world.ts";

const GUEST = [ip("192.0.2.10"), ip("2001:db8::10")];
const PEERS = [
  ...["192.0.2.1", "fe80::1", "198.51.100.7", "2001:db8:1::7"],
  ...["198.51.100.255", "2001:db8::10", "127.0.0.1", "::1", "0.0.0.0", "::"],
].map(ip);
const GUEST_MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
const UDP = 17;
const ICMP = 1;
const ICMPV6 = 58;
const PORTS = [53, 4000, 4001, 0, 65535];
const LENGTHS = [0, 1, 8, 100, 512, 1472, 1473, 9000, 65507];
const TIMES = [1, 8, 50, 1000, 30_000, 60_000, 180_000, 600_000];
const FAILURES: readonly (readonly [string, number])[] = [
  ...[["socket", 24], ["connect", 101], ["connect", 13], ["epoll_ctl", 28]] as const,
  ...[["sendmmsg", 4], ["sendmmsg", 90], ["sendmmsg", 111], ["sendmmsg", 5]] as const,
  ...[["sendmmsg", 22], ["sendmmsg", 105], ["sendmmsg", 1], ["sendmmsg", 113]] as const,
  ...[["recvmmsg", 4], ["recvmmsg", 111], ["recvmmsg", 12], ["sendmsg", 90]] as const,
  ...[["sendmsg", 111], ["sendmsg", 11], ["setsockopt", 92], ["getsockopt", 92]] as const,
];
const GUEST_PORT = 7;
const EPOLLIN = 1;
const EPOLLERR = 8;
/** IP_PKTINFO, IPV6_PKTINFO, UDP_GRO, IP_RECVERR, IPV6_RECVERR: level, type, bytes. */
const CONTROLS = [[0, 8, 12], [41, 50, 20], [17, 104, 4], [0, 11, 32], [41, 25, 44]];

/** One frame's fixed parts; the IP header's checksum is right, the others nobody sums. */
function frameOf(
  from: Uint8Array,
  to: Uint8Array,
  protocol: number,
  ttl: number,
  upper: Uint8Array,
  fragment: number,
): Uint8Array<ArrayBuffer> {
  const four = from === GUEST[0];
  const at = four ? 34 : 54;
  const frame = new Uint8Array(at + upper.length);
  const view = new DataView(frame.buffer);
  frame.set(OUR_MAC);
  frame.set(GUEST_MAC, 6);
  view.setUint16(12, four ? 0x0800 : 0x86dd);
  if (four) {
    view.setUint32(14, 0x4500_0000 | frame.length - 14);
    view.setUint32(20, fragment << 16 | ttl << 8 | protocol);
    frame.set(from.subarray(12), 26);
    frame.set(to.subarray(12), 30);
    view.setUint16(24, ~onesSum(frame.subarray(14, 34)));
  } else {
    view.setUint32(14, 0x6000_0000);
    view.setUint32(18, upper.length << 16 | protocol << 8 | ttl);
    frame.set(from, 22);
    frame.set(to, 38);
  }
  frame.set(upper, at);
  return frame;
}

/** struct sockaddr_in or sockaddr_in6. */
function socketAddress(address: Uint8Array, port: number): Uint8Array {
  const four = address.subarray(0, 12).every((byte, i) => byte === (i < 10 ? 0 : 0xff));
  const bytes = new Uint8Array(four ? 16 : 28);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, four ? 2 : 10, true);
  view.setUint16(2, port);
  if (four) bytes.set(address.subarray(12), 4);
  else bytes.set(address, 8);
  return bytes;
}

/** Steps of seeds: each as {@link Datagrams.step} reads it. */
type Step = readonly number[];
const send = (kind: number, peer: number, length: number, more = 0, ports = 0): Step => [
  ...[0, kind | 16, peer, length, ...(kind & 4 ? [33] : []), more << 5],
  ...new Array<readonly number[]>(more + 1).fill([ports, 0]).flat(),
];
/** Bytes of a datagram that comes: how long, from whom, with which control messages. */
const came = (length: number, peer: number, ...control: readonly Step[]): Step => [
  ...[0, length, 33, peer, control.length, ...control.flat()],
];
const reply = (what: Step, more = 0): Step => [6, 0, ...what, more << 4];
const inward = (what: Step, more = 0): Step => [7, ...what, more << 4, 0];
const error = (what: Step): Step => [8, 0, ...what, 0, 0];
/** Control messages by their kind's number, with eight bytes that are given. */
const control = (kind: number, ...bytes: readonly number[]): Step => [
  ...[kind + (bytes.length > 0 ? 64 : 0), ...bytes],
];
const TURN: Step = [4];

/** Flows that live as they should, or nearly. */
export const DATAGRAM_STEPS: readonly (readonly Step[])[] = [
  // A datagram each way, in both families; several at once.
  [send(0, 2, 3), reply(came(4, 2)), TURN, send(0, 3, 3, 3), reply(came(4, 3), 5), TURN],
  [send(4, 2, 4, 7), reply(came(5, 2, control(3, 0x40, 0, 0, 0)), 3), TURN],
  // Echo requests.
  [send(1, 2, 3), reply([8, 0, 0, 0, 0, 0, 1, 0, 1, 3, 33, 2, 0], 1), TURN],
  [send(1, 3, 3), reply([8, 129, 0, 0, 0, 0, 1, 0, 1, 3, 33, 3, 0]), TURN],
  // Through a forwarded port, and answered.
  [inward(came(3, 2, control(10)), 3), TURN, send(0, 2, 3, 0, 16), TURN],
  [inward(came(7, 3, control(1)), 1), inward(came(3, 2, control(0)), 1), TURN],
  // Too long for the path, unreachable, out of time.
  [
    send(0, 2, 5),
    error(came(3, 2, control(129, 90, 0, 0, 0, 2, 3, 4, 0, 4))),
    error(came(3, 2, control(129, 111, 0, 0, 0, 2, 3, 3, 0, 4))),
    send(1, 3, 4),
    error(came(3, 3, control(130, 113, 0, 0, 0, 3, 3, 0, 0, 5))),
    TURN,
  ],
  [[9, 5], send(8, 2, 7), TURN, [9, 8], send(0, 2, 3, 7), TURN, [5, 6], [5, 7]],
];

/** The script's steps. */
export class Datagrams {
  readonly #world: FuzzWorld;
  readonly #script: Script;
  #listening: HostSocket | undefined;
  #last: Uint8Array<ArrayBuffer> = new Uint8Array(60);
  /** Net header of the frames that follow. */
  header: Uint8Array = new Uint8Array(NET_HEADER);

  constructor(world: FuzzWorld, script: Script) {
    this.#world = world;
    this.#script = script;
  }

  step(): void {
    const script = this.#script;
    const world = this.#world;
    switch (script.below(12)) {
      case 0:
      case 1:
      case 2:
        return this.#send();
      case 3:
        return this.#damaged();
      case 4:
        return world.turn();
      case 5:
        return world.advance(TIMES[script.below(TIMES.length)]);
      case 6:
        return this.#reply();
      case 7:
        return this.#inward();
      case 8:
        return this.#errors();
      case 9: {
        const [name, number] = FAILURES[script.below(FAILURES.length)];
        return host.fail(name, number);
      }
      case 10:
        return world.post(script.below(64), script.u8() * 16);
      default:
        host.pathMtu = script.u16();
        for (const socket of world.watched()) socket.room = script.u8();
    }
  }

  #peer(): Uint8Array {
    return PEERS[this.#script.below(PEERS.length)];
  }

  /** One or several datagrams of one flow. */
  #send(): void {
    const script = this.#script;
    const kind = script.u8();
    const to = this.#peer();
    const four = PEERS.indexOf(to) % 2 === 0;
    const length = LENGTHS[script.below(LENGTHS.length)] + (kind >> 6);
    const ttl = kind & 4 ? script.u8() : 64;
    for (let more = script.u8() >> 5; more >= 0; more--) {
      const upper = kind & 1 ? this.#echo(four, length) : this.#udp(length);
      const protocol = kind & 1 ? (four ? ICMP : ICMPV6) : UDP;
      const fragment = kind & 8 ? 0 : 0x4000;
      this.#last = frameOf(GUEST[four ? 0 : 1], to, protocol, ttl, upper, fragment);
      this.#emit(this.#last);
    }
    if (kind & 16) this.#world.turn();
  }

  #emit(frame: Uint8Array): void {
    const cut = this.#script.u8();
    const cuts = cut < 128 ? [NET_HEADER] : [cut & 31, NET_HEADER + (cut & 63), 100];
    this.#world.send(frame, this.header, cuts);
  }

  #udp(length: number): Uint8Array {
    const upper = new Uint8Array(8 + length);
    const view = new DataView(upper.buffer);
    const ports = this.#script.u8();
    view.setUint16(0, 30_000 + (ports & 3));
    view.setUint16(2, PORTS[(ports >> 2) % PORTS.length]);
    view.setUint16(4, upper.length);
    return upper;
  }

  #echo(four: boolean, length: number): Uint8Array {
    const upper = new Uint8Array(8 + length);
    upper[0] = four ? 8 : 128;
    upper[5] = this.#script.below(4);
    return upper;
  }

  /** The last frame again, with bytes changed. */
  #damaged(): void {
    const script = this.#script;
    const frame = new Uint8Array(1 + this.#last.length);
    frame.set(this.#last, 1);
    for (let more = script.below(4); more >= 0; more--) {
      frame[1 + script.u8() % this.#last.length] = script.u8();
    }
    frame[0] = script.u8();
    this.#emit(sealed(frame));
  }

  #name(): Uint8Array {
    const script = this.#script;
    const kind = script.u8();
    if (kind < 32) return script.bytes(kind);
    const port = kind & 1 ? PORTS[(kind >> 1) % PORTS.length] : script.u16();
    return socketAddress(this.#peer(), port);
  }

  /** Control messages, some of them cut or of other kinds. */
  #control(): Uint8Array {
    const script = this.#script;
    const parts: number[] = [];
    for (let more = script.below(4); more > 0; more--) {
      const kind = script.u8();
      if (kind >= 240) {
        parts.push(...script.bytes(kind & 31));
        continue;
      }
      const [level, type, size] = CONTROLS[kind % CONTROLS.length];
      const data = new Uint8Array(size);
      if (kind & 64) data.set(script.bytes(kind & 8 ? size : Math.min(8, size)));
      if (kind & 128 && size > 16) {
        data.set(socketAddress(this.#peer(), 0).subarray(0, size - 16), 16);
      }
      const header = new Uint8Array(16);
      const view = new DataView(header.buffer);
      view.setUint32(0, 16 + size + (kind & 32 ? script.u8() - 128 : 0), true);
      view.setInt32(8, level, true);
      view.setInt32(12, type, true);
      parts.push(...header, ...data, ...new Uint8Array(-size & 7));
    }
    return Uint8Array.from(parts);
  }

  #datagram(): Datagram {
    const script = this.#script;
    const start = script.bytes(script.below(24));
    const kind = script.u8();
    const most = kind & 0x80 ? script.u16() : LENGTHS[kind % LENGTHS.length];
    const length = Math.max(start.length, most);
    return { start, length, name: this.#name(), control: this.#control() };
  }

  #fill(into: Datagram[]): void {
    const one = this.#datagram();
    for (let more = this.#script.u8() >> 4; more >= 0; more--) into.push(one);
  }

  #socket(): HostSocket | undefined {
    const sockets = this.#world.watched().filter(({ stream }) => !stream);
    return sockets[this.#script.u8() % Math.max(1, sockets.length)];
  }

  /** The peer answers. */
  #reply(): void {
    const socket = this.#socket();
    if (socket === undefined) return;
    this.#fill(socket.datagrams);
    this.#world.event(socket, EPOLLIN);
  }

  /** Datagrams come to a forwarded port. */
  #inward(): void {
    this.#listening ??= this.#world.listen(false, false, 5353);
    const { fd, datagrams, errors } = this.#listening;
    this.#fill(datagrams);
    const events = this.#script.u8() & 1 ? EPOLLIN | EPOLLERR : EPOLLIN;
    if (events !== EPOLLIN) errors.push(this.#datagram());
    this.#world.path.udp.onListener(0, fd, GUEST_PORT, undefined, events);
  }

  /** ICMP errors wait in a socket's error queue. */
  #errors(): void {
    const socket = this.#socket();
    if (socket === undefined) return;
    this.#fill(socket.errors);
    this.#world.event(socket, EPOLLERR | this.#script.u8() & EPOLLIN);
  }
}
