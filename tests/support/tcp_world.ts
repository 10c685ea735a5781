/**
 * TCP between a script and real sockets: the script is the guest's TCP, segment by
 * segment, the data path is the real one with a clock that the test moves.
 */
import { Epoll } from "../../ffi/event.ts";
import type { Config } from "../../src/config.ts";
import { DataPath } from "../../src/flow/datapath.ts";
import { FlowKind, KEY_ENDPOINT_AT, KEY_OUR_AT, Side } from "../../src/flow/table.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig, ip } from "./flow_config.ts";
import { HostListener, HostTcp, LOOPBACK4, LOOPBACK6 } from "./host_tcp.ts";
import { GuestRam, MockDriver, NET_HEADER } from "./mock_driver.ts";
import { readSegment, type Segment, synOptions, tcpFrame } from "./tcp_segment.ts";

const guestMemory = new GuestMemory(2 ** 36);
const RAM = [{ address: 0x10_0000, size: 0x1000_0000 }];

const NO_FD = -1;
/** What a turn takes, as the clock of the data path sees it. */
const LONGEST_TURN_MS = 5;
const PATIENCE_MS = 10_000;

export interface TcpWorldOptions {
  readonly config?: Partial<Config>;
  readonly flows?: number;
  readonly mergeable?: boolean;
  readonly large?: boolean;
  readonly mtu?: number;
  /** Receive buffers at the start, of 2048 bytes. */
  readonly buffers?: number;
  readonly ringSize?: number;
  /** For a world beside another one. */
  readonly memory?: GuestMemory;
}

export class TcpWorld {
  readonly ram: GuestRam;
  readonly driver: MockDriver;
  readonly path: DataPath;
  readonly epoll = new Epoll();
  readonly listeners: (HostListener | HostTcp)[] = [];
  /** When the last turn was. */
  #turnAt = performance.now();
  #forwards = new Map<number, [fd: number, port: number]>();
  #guests: ScriptedGuest[] = [];
  readonly #sockets = new Map<string, string>();
  /** Buffers posted again for each one that comes back used. */
  refill = true;
  /** Frames that are no TCP segment of a guest here. */
  readonly others: Uint8Array[] = [];

  constructor(options: TcpWorldOptions = {}) {
    const { mergeable = true, buffers = 200, large = false, ringSize = 256 } = options;
    const memory = options.memory ?? guestMemory;
    this.ram = new GuestRam(memory, RAM);
    this.driver = new MockDriver(this.ram, mergeable, ringSize);
    const config = flowConfig({ mtu: options.mtu ?? 1500, ...options.config });
    this.path = new DataPath(config, memory, this.epoll, options.flows ?? 64);
    this.path.setOffloads({
      mergeable,
      guestChecksum: false,
      largeReceive4: large,
      largeReceive6: large,
      eventIdx: false,
    });
    const none = { kickFd: NO_FD, callFd: NO_FD, errFd: NO_FD, enabled: true };
    this.path.startQueue({ index: 0, ...this.driver.rx.layout, ...none });
    this.path.startQueue({ index: 1, ...this.driver.tx.layout, ...none });
    this.post(buffers);
    this.settle();
    this.others.length = 0;
  }

  /** Posts receive buffers and tells the device. */
  post(count: number, size = 2048): void {
    if (count === 0) return;
    this.driver.post(count, size);
    this.path.kicked(0);
  }

  /** One round of the service's loop. */
  turn(waitMs = 0): number {
    const count = this.epoll.wait(waitMs);
    const now = performance.now();
    // A machine that lets a test wait makes no time-out of it.
    this.path.now += Math.min(now - this.#turnAt, LONGEST_TURN_MS);
    this.#turnAt = now;
    for (let i = 0; i < count; i++) this.#event(i);
    this.path.turn();
    this.#note();
    this.#collect();
    return count;
  }

  #event(i: number): void {
    const data = this.epoll.data(i);
    const forward = this.#forwards.get(data);
    if (forward !== undefined) this.path.tcp.onListener(...forward);
    else {
      const high = this.epoll.high(i);
      this.path.onSocket(data >>> 24, data & 0xffffff, high, this.epoll.events(i));
    }
  }

  /** Remembers the sockets of flows, to see that they are closed in the end. */
  #note(): void {
    const { table } = this.path;
    for (let flow = 0; flow < table.limit; flow++) {
      const name = `${flow}.${table.generation(flow)}`;
      if (table.kind(flow) === FlowKind.free || this.#sockets.has(name)) continue;
      const link = socketName(table.fd(flow));
      if (link !== undefined) this.#sockets.set(name, link);
    }
  }

  /** Sockets of flows that are no more, which are open all the same. */
  leaks(): string[] {
    const { table } = this.path;
    const used = new Set<string | undefined>();
    for (let flow = 0; flow < table.limit; flow++) {
      if (table.kind(flow) !== FlowKind.free) used.add(socketName(table.fd(flow)));
    }
    const open = new Set<string | undefined>();
    for (const { name } of Deno.readDirSync("/proc/self/fd")) open.add(socketName(+name));
    return [...this.#sockets.values()].filter((s) => open.has(s) && !used.has(s));
  }

  /** The flow of a script's connection, or -1. */
  flowOf({ from, to, fromPort, toPort }: ScriptedGuest): number {
    const { table } = this.path;
    table.key[1] = (toPort << 16) | fromPort;
    table.keyBytes.set(to, KEY_OUR_AT);
    table.keyBytes.set(from, KEY_ENDPOINT_AT);
    return table.find(FlowKind.tcp, Side.guest);
  }

  #collect(): void {
    const frames = this.driver.receive();
    for (const { frame } of frames) {
      const guest = this.#guests.find((guest) => guest.take(frame));
      if (guest === undefined) this.others.push(frame);
    }
    if (this.refill && frames.length > 0) {
      this.post(Math.max(0, this.driver.rx.free - 56));
    }
    this.driver.sent();
  }

  /** Handles what is there until nothing more happens. */
  settle(): void {
    this.path.kicked(1);
    for (let quiet = 0, i = 0; quiet < 3; i++) {
      if (i > 100_000) throw new Error("the data path never comes to rest");
      const before = this.path.sink.committed;
      const count = this.turn();
      const busy = count > 0 || this.path.sink.committed > before;
      quiet = busy || this.path.timeout() === 0 ? 0 : quiet + 1;
      if (i > 50_000 && !busy) throw new Error("timeout() stays 0 and nothing happens");
    }
  }

  /** Turns until the condition holds. @throws {Error} after ten seconds */
  until(what: string, condition: () => boolean): void {
    const end = performance.now() + PATIENCE_MS;
    this.settle();
    while (!condition()) {
      if (performance.now() > end) throw new Error(`waited in vain: ${what}`);
      this.turn(1);
    }
    this.settle();
  }

  /** Moves the clock on, and does what is due. */
  advance(ms: number): void {
    this.path.now += ms;
    this.settle();
  }

  get flows(): number {
    return this.path.table.count;
  }

  listen(address = LOOPBACK4, receiveBuffer = 0): HostListener {
    const listener = new HostListener(address, receiveBuffer);
    this.listeners.push(listener);
    return listener;
  }

  /** A listening socket of the data path's that forwards to a port of the guest. */
  forward(guestPort: number, address = LOOPBACK4): HostListener {
    const listener = this.listen(address);
    const data = 0x0400_0000 + this.#forwards.size;
    this.#forwards.set(data, [listener.fd, guestPort]);
    this.epoll.add(listener.fd, 1, data);
    return listener;
  }

  /** A socket that is closed with the world. */
  keep(socket: HostTcp | undefined): HostTcp {
    if (socket === undefined) throw new Error("no connection was waiting");
    this.listeners.push(socket);
    return socket;
  }

  /** A script for one connection of the guest to the host's loopback. */
  guest(toPort: number, options: GuestOptions = {}): ScriptedGuest {
    const guest = new ScriptedGuest(this, toPort, options);
    this.#guests.unshift(guest); // ports may be used again
    return guest;
  }

  /** A script goes on here: its guest has moved. */
  adopt(guest: ScriptedGuest): void {
    this.#guests.unshift(guest);
    guest.goOn(this);
  }

  /** Opens a connection of the guest's. */
  connect(options: ConnectOptions = {}): { guest: ScriptedGuest; host: HostTcp } {
    const address = options.six ? LOOPBACK6 : LOOPBACK4;
    const listener = options.listener ?? this.listen(address, options.receiveBuffer);
    const guest = this.guest(listener.port, options);
    guest.in("S", { options: synOptions(options.mss ?? 1460, options.scale ?? 0) });
    this.until("SYN and ACK", () => guest.peerIsn !== undefined);
    guest.sent.length = 0;
    guest.in("A");
    return { guest, host: this.keep(listener.accept()) };
  }

  /** Lets a peer connect to the guest, whose script accepts. */
  accept(options: ConnectOptions = {}): { guest: ScriptedGuest; host: HostTcp } {
    const port = options.fromPort ?? 80;
    const address = options.six ? LOOPBACK6 : LOOPBACK4;
    const listener = this.forward(port, address);
    const host = this.keep(HostTcp.connect(address, listener.port));
    const guest = this.guest(host.port, { ...options, fromPort: port });
    this.until("SYN", () => guest.peerIsn !== undefined);
    guest.sent.length = 0;
    guest.in("SA", { options: synOptions(options.mss ?? 1460, options.scale ?? 0) });
    guest.sent.length = 0;
    return { guest, host };
  }

  /** Ends all; what is left of flows or their sockets is an error. */
  close(): void {
    this.path.dropAll();
    const left = this.flows;
    const leaks = this.leaks();
    this.path.stopQueue(0);
    this.path.stopQueue(1);
    for (const socket of this.listeners) socket.close();
    this.epoll.close();
    this.ram.close();
    if (left > 0) throw new Error(`${left} flows are left`);
    if (leaks.length > 0) throw new Error(`sockets are left: ${leaks.join(" ")}`);
  }
}

/** Names the socket that a descriptor stands for, whatever its number. */
function socketName(fd: number): string | undefined {
  if (fd < 0) return undefined;
  try {
    const link = Deno.readLinkSync(`/proc/self/fd/${fd}`);
    return link.startsWith("socket:") ? link : undefined;
  } catch {
    return undefined;
  }
}

/** Runs a test in a world of its own, and looks for what it left behind. */
export function inWorld(
  name: string,
  body: (world: TcpWorld) => void,
  options: TcpWorldOptions = {},
): void {
  Deno.test(name, () => {
    const world = new TcpWorld(options);
    try {
      body(world);
    } catch (error) {
      try {
        world.close();
      } catch { /* the first error says more */ }
      throw error;
    }
    world.close();
  });
}

export interface GuestOptions {
  readonly fromPort?: number;
  readonly isn?: number;
  readonly six?: boolean;
  /** Window in the header of every segment. */
  readonly window?: number;
  /** Peer other than the host itself: 16 bytes. */
  readonly to?: Uint8Array;
}
export interface ConnectOptions extends GuestOptions {
  readonly listener?: HostListener;
  readonly mss?: number;
  readonly scale?: number;
  readonly receiveBuffer?: number;
}

let nextPort = 40_000;

/** One connection of the guest's, spoken by the test in numbers relative to the ISNs. */
export class ScriptedGuest {
  #world: TcpWorld;
  /** Addresses, 16 bytes. */
  readonly from: Uint8Array;
  readonly to: Uint8Array;
  readonly fromPort: number;
  readonly toPort: number;
  isn: number;
  window: number;
  /** The peer's initial sequence number, from its first SYN. */
  peerIsn: number | undefined;
  /** Next sequence number of the script, relative; the peer's as far as it is in order. */
  next = 0;
  expected = 0;
  /** Segments that came, as {@link text} shows them, until {@link out} takes them. */
  readonly sent: string[] = [];
  /** Payload in order, holes and repetitions left out. */
  readonly received: number[] = [];
  /** The segment that came last. */
  last: Segment | undefined;
  /** FIN has come, in order. */
  ended = false;
  /** Where frames are cut into descriptors, see {@link MockDriver.send}. */
  cuts: readonly number[] = [NET_HEADER];

  constructor(world: TcpWorld, toPort: number, options: GuestOptions) {
    this.#world = world;
    this.toPort = toPort;
    this.fromPort = options.fromPort ?? nextPort++;
    this.isn = options.isn ?? 1000;
    this.window = options.window ?? 65535;
    this.from = ip(options.six ? "2001:db8::10" : "192.0.2.10");
    this.to = options.to ?? ip(options.six ? "fe80::1" : "192.0.2.1");
  }

  /** Speaks through another world from now on: see {@link TcpWorld.adopt}. */
  goOn(world: TcpWorld): void {
    this.#world = world;
  }

  /**
   * Sends a segment and settles. Without `seq` and `ack`: what comes next.
   *
   * @param flags letters, see {@link Segment}
   */
  in(flags: string, fields: Partial<Segment> = {}): this {
    this.queue(flags, fields);
    this.#world.settle();
    return this;
  }

  /** As {@link in}, without settling: several segments make one batch. */
  queue(flags: string, fields: Partial<Segment> = {}): this {
    this.#world.driver.send(this.#frame(flags, fields), this.cuts);
    return this;
  }

  /** As {@link queue}, with one byte of the frame changed. */
  queueDamaged(flags: string, fields: Partial<Segment>, at: number, to: number): this {
    const frame = this.#frame(flags, fields);
    if (at < frame.length) frame[at] = to;
    this.#world.driver.send(frame, this.cuts);
    return this;
  }

  #frame(flags: string, fields: Partial<Segment>): Uint8Array {
    const data = fields.data ?? new Uint8Array(0);
    const seq = fields.seq ?? this.next;
    if (fields.seq === undefined) {
      this.next += data.length + (flags.match(/[SF]/g)?.length ?? 0);
    }
    const ack = fields.ack ?? this.expected;
    const segment = {
      flags,
      seq: this.isn + seq >>> 0,
      ack: flags.includes("A") ? (this.peerIsn ?? 0) + ack >>> 0 : 0,
      window: fields.window ?? this.window,
      data,
      options: fields.options ?? new Uint8Array(0),
      urgent: fields.urgent,
    };
    return tcpFrame(this, this.fromPort, this.toPort, segment);
  }

  /** A frame of the device's; false if it is of another connection. */
  take(frame: Uint8Array): boolean {
    if (frame[frame[12] === 8 ? 23 : 20] !== 6) return false;
    const segment = readSegment(frame);
    if (segment.fromPort !== this.toPort || segment.toPort !== this.fromPort) {
      return false;
    }
    this.last = segment;
    if (segment.flags.includes("S")) this.peerIsn = segment.seq;
    const seq = segment.seq - (this.peerIsn ?? segment.seq) | 0;
    this.#store(segment, seq);
    this.sent.push(this.text(segment));
    return true;
  }

  #store({ flags, data }: Segment, seq: number): void {
    const skip = this.expected - seq;
    if (skip < 0 || flags.includes("R")) return;
    const fresh = data.subarray(Math.max(0, skip));
    this.received.push(...fresh);
    this.expected += fresh.length;
    const ends = flags.includes("S") || flags.includes("F");
    if (ends && seq + data.length === this.expected) {
      this.expected++;
      if (flags.includes("F")) this.ended = true;
    }
  }

  /** A segment as `FLAGS seq+length ack`, numbers relative to the ISNs. */
  text({ flags, seq, ack, data }: Segment): string {
    const relative = this.peerIsn === undefined ? seq : seq - this.peerIsn | 0;
    const head = `${flags} ${relative}+${data.length}`;
    return flags.includes("A") ? `${head} ${ack - this.isn | 0}` : head;
  }

  /** The segments that came since the last call. */
  out(): string[] {
    return this.sent.splice(0);
  }

  /** The right edge of the window that was offered last, relative. */
  edge(scale = 0): number {
    const { ack = 0, window = 0 } = this.last ?? {};
    return (ack - this.isn | 0) + (window << scale);
  }

  /** Acknowledges all that is in order, until the peer has no more to send. */
  drain(): this {
    for (let before = -1; before !== this.expected;) {
      before = this.expected;
      this.in("A");
    }
    return this;
  }

  /** Closes in good order, the host first. */
  finish(host: HostTcp): void {
    host.shutdown();
    this.#world.until("FIN", () => (this.drain(), this.ended));
    this.in("FA");
    this.#world.until("the flow's end", () => this.#world.flowOf(this) < 0);
  }
}

/** Bytes that differ from their neighbours and from those 251 before. */
export function pattern(length: number, from = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (from + i) * 7 % 251);
}
