/** Both ends of TCP connections, played by an input: wrong in any way, now and then right. */
import { FLOW_WORDS } from "../../src/flow/table.ts";
import { TcpWord } from "../../src/flow/tcp/layout.ts";
import { ip, OUR_MAC } from "../support/flow_config.ts";
import { NET_HEADER } from "../support/mock_driver.ts";
import type { Script } from "./engine/target.ts";
import { onesSum, sealed } from "./frames.ts";
import { host } from "./host/install.ts";
import { type HostSocket, streamByte } from "./host/made_up.ts";
import type { FuzzWorld } from "./world.ts";

const GUEST4 = ip("192.0.2.10");
const GUEST6 = ip("2001:db8::10");
const PEERS = ["192.0.2.1", "fe80::1", "198.51.100.7", "2001:db8:1::7"].map(ip);
const GUEST_MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);
/** How far numbers are from those that are right: mostly not at all. */
const DISTANCES = [
  ...[0, 0, 0, 0, 0, 0, 1, -1, 2, 100, -100, 1400, -1400, 0x4000, -0x4000],
  ...[0xffff, -0xffff, 0x10000, 0x7fff_ffff, -0x8000_0000, 0x4000_0000, -0x2000_0000],
];
const WINDOWS = [65535, 65535, 0, 1, 100, 1460, 32768, 255];
const MSS_OPTIONS = [1460, 1460, 0, 1, 65535, 9000, 536];
const LENGTHS = [0, 0, 1, 10, 100, 536, 1400, 1460, 3000, 9000];
const NO_HEADER = new Uint8Array(NET_HEADER);
const FORWARDED_PORT = 80;
/** struct sockaddr_in and sockaddr_in6. */
const ADDRESS4 = 16;
const ADDRESS6 = 28;
const FIN = 1;
const SYN = 2;
const ACK = 16;
const IDLE_MS = 7_200_000;
const TIMES = [1, 8, 50, 250, 1000, 3000, 30_000, IDLE_MS];
const ERRORS = [104, 32, 110, 111, 113, 101, 13, 105, 12];
/** What may fail once, and how. */
const FAILURES: readonly (readonly [string, number])[] = [
  ...[["connect", 111], ["connect", 101], ["connect", 13], ["connect", 110]] as const,
  ...[["socket", 24], ["socket", 12], ["epoll_ctl", 28], ["setsockopt", 12]] as const,
  ...[["sendmsg", 4], ["sendmsg", 105], ["sendmsg", 32], ["sendmsg", 11]] as const,
  ...[["recvmsg", 4], ["recvmsg", 12], ["recvmsg", 11], ["recv", 4]] as const,
  ...[["shutdown", 107], ["ioctl", 22], ["getsockopt", 105], ["accept4", 24]] as const,
  ...[["accept4", 11], ["accept4", 103], ["bind", 98], ["connect", 115]] as const,
];

/** A byte of the guest's streams, by its sequence number. */
function guestByte(sequence: number): number {
  return (sequence * 7 ^ sequence >>> 8) & 255;
}

/** One connection as its guest sees it. */
interface Connection {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly fromPort: number;
  readonly toPort: number;
  /** Next sequence number of the guest. */
  next: number;
  /** The peer's first sequence number, and the one after the last that came in order. */
  first: number;
  expected: number;
}

function connection(i: number): Connection {
  const four = i % 2 === 0;
  const inward = i >= 4;
  return {
    from: four ? GUEST4 : GUEST6,
    to: PEERS[i % 4],
    fromPort: inward ? FORWARDED_PORT : 40_000 + i,
    toPort: inward ? 5000 + i : 443,
    next: (0xffff_f000 + i * 0x2000_0000) >>> 0,
    first: 0,
    expected: 0,
  };
}

interface SegmentFields {
  readonly ack: number;
  readonly window: number;
  readonly options: Uint8Array;
}

/** What SYN and FIN add to sequence numbers. */
function counted(flags: number): number {
  return ((flags & SYN) !== 0 ? 1 : 0) + ((flags & FIN) !== 0 ? 1 : 0);
}

/** The frame of a segment, whose data follows from its number; nobody sums it up. */
function frameOf(
  { from, to, fromPort, toPort }: Connection,
  flags: number,
  seq: number,
  length: number,
  { ack, window, options }: SegmentFields,
): Uint8Array<ArrayBuffer> {
  const four = from === GUEST4;
  const at = four ? 34 : 54;
  const head = 20 + (options.length + 3 & ~3);
  const frame = new Uint8Array(at + head + length);
  const view = new DataView(frame.buffer);
  frame.set(OUR_MAC);
  frame.set(GUEST_MAC, 6);
  view.setUint16(12, four ? 0x0800 : 0x86dd);
  if (four) {
    view.setUint32(14, 0x4500_0000 | frame.length - 14);
    view.setUint32(20, 0x4000_4006);
    frame.set(from.subarray(12), 26);
    frame.set(to.subarray(12), 30);
    view.setUint16(24, ~onesSum(frame.subarray(14, 34)));
  } else {
    view.setUint32(14, 0x6000_0000);
    view.setUint32(18, head + length << 16 | 0x0640);
    frame.set(from, 22);
    frame.set(to, 38);
  }
  view.setUint16(at, fromPort);
  view.setUint16(at + 2, toPort);
  view.setUint32(at + 4, seq);
  view.setUint32(at + 8, flags & ACK ? ack : 0);
  view.setUint16(at + 12, head / 4 << 12 | flags);
  view.setUint16(at + 14, window);
  frame.set(options, at + 20);
  const first = seq + ((flags & SYN) !== 0 ? 1 : 0);
  for (let i = 0; i < length; i++) frame[at + head + i] = guestByte(first + i >>> 0);
  return frame;
}

/** Steps of seeds: each as {@link Connections.step} reads it. */
type Step = readonly number[];
const handshake = (one: number, scale: number): Step => [15, one, scale, 0, 0];
const segment = (one: number, flags: number, length: number, off = 0, more = 0): Step => [
  ...[0, one, flags, off, 0, 0, 200, length, more << 6],
  ...new Array<number>(more + 1).fill(0),
  1,
];
const data = (socket: number, length: number, kind: number): Step => [
  ...[9, socket, length >> 8, length & 255, kind],
];
const acknowledged = (socket: number, bytes: number): Step => [
  ...[10, socket, 0, 0, 2, bytes >> 8, bytes & 255],
];
const wait = (time: number): Step => [6, time];
const PSH_ACK = 0x18;
const FIN_ACK = 0x11;

/** Connections that live as they should, or nearly. */
export const TCP_STEPS: readonly (readonly Step[])[] = [
  // Opened by the guest: data both ways, FIN of both sides.
  [
    handshake(0, 7),
    segment(0, PSH_ACK, 4),
    segment(0, PSH_ACK, 7, 0, 2),
    acknowledged(0, 5000),
    data(0, 4000, 4),
    segment(0, ACK, 0),
    segment(0, FIN_ACK, 5),
    data(0, 100, 5),
    segment(0, ACK, 0),
    acknowledged(0, 5000),
    wait(4),
  ],
  // Opened by a peer, which ends first.
  [
    handshake(4, 2).slice(0, 4),
    data(0, 3000, 4),
    segment(4, PSH_ACK, 8),
    data(0, 0, 5),
    segment(4, ACK, 0),
    segment(4, FIN_ACK, 0),
    acknowledged(0, 4000),
  ],
  // What is lost is sent again, both ways.
  [
    handshake(1, 0),
    segment(1, PSH_ACK, 6, 11),
    segment(1, PSH_ACK, 6),
    segment(1, PSH_ACK, 6),
    data(0, 6000, 4),
    [0, 1, ACK, 0, 10, 0, 200, 0, 0, 0, 1],
    [0, 1, ACK, 0, 10, 0, 200, 0, 0, 0, 1],
    wait(3),
    segment(1, ACK, 0),
  ],
  // A socket without room, a window that closes, time that passes.
  [
    handshake(2, 7),
    [10, 0, 0, 200, 1, 0, 0],
    segment(2, PSH_ACK, 8),
    acknowledged(0, 200),
    segment(2, PSH_ACK, 8),
    data(0, 8000, 4),
    [0, 2, ACK, 0, 0, 2, 200, 0, 0, 0, 1],
    wait(6),
    wait(7),
  ],
  // Refused, reset, begun anew.
  [
    [12, 0],
    handshake(3, 1),
    handshake(3, 1),
    segment(3, 4, 0),
    handshake(5, 1).slice(0, 4),
    [7, 0, 0xc8, 0],
    handshake(6, 3).slice(0, 4),
    [4, 0, 47, 0x12, 255, 7, 0],
  ],
];

/** The script's steps. */
export class Connections {
  readonly #world: FuzzWorld;
  readonly #script: Script;
  readonly #all = Array.from({ length: 8 }, (_, i) => connection(i));
  #listening: HostSocket[] = [];
  /** The guest's sequence number after all that a socket took. */
  readonly #sent = new Map<number, number>();
  /** No frame was damaged so far: what is in streams is known. */
  #pure = true;
  #last: Uint8Array<ArrayBuffer> = new Uint8Array(60);
  /** Net header of the frames that follow. */
  header: Uint8Array = NO_HEADER;

  constructor(world: FuzzWorld, script: Script) {
    this.#world = world;
    this.#script = script;
    world.onFrame = (frame) => this.#take(frame);
    host.onSent = (fd, pieces, taken) => this.#checkSent(fd, pieces, taken);
  }

  step(): void {
    const script = this.#script;
    const world = this.#world;
    switch (script.below(16)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return this.#segment();
      case 4:
        return this.#damaged();
      case 5:
        return world.turn();
      case 6:
        return world.advance(TIMES[script.below(TIMES.length)]);
      case 7:
      case 8:
        return this.#events();
      case 9:
        return this.#data();
      case 10:
        return this.#acknowledged();
      case 11:
        return this.#accept();
      case 12: {
        const [name, number] = FAILURES[script.below(FAILURES.length)];
        return host.fail(name, number);
      }
      case 13:
        return world.post(script.below(64), script.u8() * 16);
      case 14:
        host.sendBuffer = script.u16() * 16;
        return;
      default:
        return this.#handshake();
    }
  }

  #pick(): Connection {
    return this.#all[this.#script.below(this.#all.length)];
  }

  #distance(): number {
    return DISTANCES[this.#script.below(DISTANCES.length)];
  }

  /** A segment of the guest, and perhaps more of the kind. */
  #segment(): void {
    const script = this.#script;
    const one = this.#pick();
    const bits = script.u8();
    const off = this.#distance();
    const fields = {
      ack: (one.expected + this.#distance()) >>> 0,
      window: WINDOWS[script.below(WINDOWS.length)],
      options: this.#options((bits & SYN) !== 0),
    };
    const length = LENGTHS[script.below(LENGTHS.length)];
    for (let more = script.u8() >> 6; more >= 0; more--) {
      this.#emit(one, bits, off, length, fields);
    }
    if (script.u8() & 1) this.#world.turn();
  }

  #options(syn: boolean): Uint8Array {
    const script = this.#script;
    const kind = script.u8();
    if (kind < 64) return script.bytes(kind % 41);
    if (!syn) return new Uint8Array(0);
    const mss = MSS_OPTIONS[kind % MSS_OPTIONS.length];
    return Uint8Array.of(2, 4, mss >> 8, mss, 1, 3, 3, kind >> 4);
  }

  #emit(
    one: Connection,
    flags: number,
    off: number,
    length: number,
    fields: SegmentFields,
  ): void {
    const seq = (one.next + off) >>> 0;
    this.#last = frameOf(one, flags, seq, length, fields);
    this.#world.send(this.#last, this.header, this.#cuts());
    if (off === 0) one.next = (seq + length + counted(flags)) >>> 0;
  }

  #cuts(): readonly number[] {
    const kind = this.#script.u8();
    if (kind < 128) return [NET_HEADER];
    return [kind & 31, NET_HEADER + (kind >> 1 & 63), 100];
  }

  /** The last frame again, with bytes changed. */
  #damaged(): void {
    const script = this.#script;
    const frame = this.#last.slice();
    for (let more = script.below(4); more >= 0; more--) {
      frame[script.u8() % frame.length] = script.u8();
    }
    const cut = script.u8();
    const whole = cut < 64 ? frame.subarray(0, Math.max(14, frame.length - cut)) : frame;
    this.#pure = false;
    const input = new Uint8Array(1 + whole.length);
    input[0] = script.u8();
    input.set(whole, 1);
    this.#world.send(sealed(input), this.header, this.#cuts());
  }

  /** All that opens a connection, in order, so that what comes then has one. */
  #handshake(): void {
    const one = this.#pick();
    const world = this.#world;
    const fields = {
      ack: 0,
      window: 65535,
      options: Uint8Array.of(2, 4, 5, 180, 1, 3, 3, this.#script.below(16)),
    };
    if (one.fromPort === FORWARDED_PORT) {
      this.#wait(one, one.to);
      world.turn();
      this.#emit(one, SYN | ACK, 0, 0, { ...fields, ack: one.expected });
    } else {
      this.#emit(one, SYN, 0, 0, fields);
      world.turn();
      const socket = world.watched().at(-1);
      if (socket !== undefined) world.event(socket, 4);
      world.turn();
      this.#emit(one, ACK, 0, 0, { ...fields, ack: one.expected });
    }
    world.turn();
  }

  #socket(): HostSocket | undefined {
    const sockets = this.#world.watched();
    return sockets[this.#script.u8() % Math.max(1, sockets.length)];
  }

  /** Events of a socket, true or not. */
  #events(): void {
    const script = this.#script;
    const socket = this.#socket();
    const bits = script.u8();
    const events = (bits & 0x1f) | (bits & 0x20 ? 0x2000 : 0);
    if (socket === undefined) return;
    if (bits & 0x40) socket.error = ERRORS[script.below(ERRORS.length)];
    this.#world.event(socket, events);
    if (bits & 0x80) this.#world.turn();
  }

  /** The peer sends something, and perhaps ends its stream. */
  #data(): void {
    const script = this.#script;
    const socket = this.#socket();
    const length = script.u16() & 0x1fff;
    const kind = script.u8();
    if (socket === undefined) return;
    if (!socket.fin) socket.came += length;
    if (kind & 1) socket.fin = true;
    const events = length > 0 || kind & 1 ? 1 : 0;
    this.#world.event(socket, events | (kind & 1 ? 0x2000 : 0) | (kind & 2 ? 2 : 0));
    if (kind & 4) this.#world.turn();
  }

  /** The peer acknowledges, or has no room. */
  #acknowledged(): void {
    const script = this.#script;
    const socket = this.#socket();
    const [room, kind] = [script.u16(), script.u8()];
    if (socket === undefined) return;
    socket.queued = Math.max(0, socket.queued - script.u16());
    if (kind & 1) socket.room = room;
    if (kind & 2) this.#world.event(socket, 4);
  }

  /** A peer at a forwarded port: one of those that the script knows, or any. */
  #accept(): void {
    const script = this.#script;
    const kind = script.u8();
    if (kind & 1) return this.#wait(this.#pick(), undefined);
    this.#wait(this.#all[4 + kind % 4], script.bytes(16));
  }

  #wait(one: Connection, peer: Uint8Array | undefined): void {
    const address = peer === undefined || peer.length < 16 ? one.to : peer;
    const four = one.from === GUEST4;
    const name = new Uint8Array(four ? ADDRESS4 : ADDRESS6);
    const view = new DataView(name.buffer);
    view.setUint16(0, four ? 2 : 10, true);
    view.setUint16(2, one.toPort);
    if (four) name.set(address.subarray(12), 4);
    else name.set(address, 8);
    const i = four ? 0 : 1;
    this.#listening[i] ??= this.#world.listen(true, four, 8080);
    this.#listening[i].waiting.push(name);
    this.#world.path.tcp.onListener(this.#listening[i].fd, FORWARDED_PORT);
  }

  /** A frame for the guest: it is of a connection, and its data is what the peer sent. */
  #take(frame: Uint8Array): void {
    const four = frame[12] === 8;
    if (frame[four ? 23 : 20] !== 6) return;
    const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
    const at = four ? 34 : 54;
    const one = this.#all.find(({ from, to, fromPort, toPort }) => {
      if (view.getUint16(at) !== toPort || view.getUint16(at + 2) !== fromPort) return;
      const [source, destination] = four ? [26, 30] : [22, 38];
      return to.subarray(four ? 12 : 0).every((byte, i) => byte === frame[source + i]) &&
        from.subarray(four ? 12 : 0).every((byte, i) => byte === frame[destination + i]);
    });
    if (one === undefined) return;
    const head = frame[at + 12] >> 4 << 2;
    const flags = frame[at + 13];
    const length = frame.length - at - head;
    const seq = view.getUint32(at + 4);
    if (head < 20 || length < 0) throw new Error("data offset");
    if (flags & SYN) one.first = one.expected = (seq + 1) >>> 0;
    if (length === 0) {
      if (flags & 1 && seq === one.expected) one.expected = (seq + 1) >>> 0;
      return;
    }
    const from = (seq - one.first) >>> 0;
    for (let i = 0; this.#pure && i < length; i++) {
      if (frame[at + head + i] !== streamByte(from + i)) throw new Error("other data");
    }
    if (seq !== one.expected) return;
    one.expected = (seq + length + (flags & 1)) >>> 0;
  }

  /** What a socket takes is the guest's stream, from where it began on. */
  #checkSent(fd: number, pieces: readonly Uint8Array[], taken: number): void {
    const { path } = this.#world;
    const flow = this.#world.flowOf(fd);
    if (flow < 0 || !this.#pure) return;
    const at = flow * FLOW_WORDS + TcpWord.seqFromGuest;
    let sequence = this.#sent.get(fd) ?? path.table.words[at] >>> 0;
    let left = taken;
    for (const piece of pieces) {
      for (let i = 0; i < piece.length && left > 0; i++, left--) {
        if (piece[i] !== guestByte(sequence)) throw new Error("not the guest's data");
        sequence = (sequence + 1) >>> 0;
      }
    }
    this.#sent.set(fd, sequence);
  }
}
