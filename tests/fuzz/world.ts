/** A whole data path over the made-up host, and what frames to its guest must be like. */
import "./host/install.ts";
import { Epoll } from "../../ffi/event.ts";
import { type Config, limitsOf } from "../../src/config.ts";
import { Bound } from "../../src/flow/bounds.ts";
import type { Offloads } from "../../src/flow/context.ts";
import { DataPath } from "../../src/flow/datapath.ts";
import { FlowKind } from "../../src/flow/table.ts";
import { log } from "../../src/log.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig } from "../support/flow_config.ts";
import { GuestRam, MockDriver, NET_HEADER } from "../support/mock_driver.ts";
import { checkFrame, onesSum } from "./frames.ts";
import { host } from "./host/install.ts";
import type { HostSocket } from "./host/made_up.ts";

const FLOWS = 24;
const RING = 64;
const BASE = 0x10_0000;
const RAM = 0x200_0000;
/** Rings lie here, and must be as fresh for each input. */
const RING_BYTES = 0x2000;
/** Of guest memory, left for what one step may need. */
const RESERVE = 0x30_0000;
/** Turns in which everything that is due is done. */
const TURNS = 4;
/** Timers' slots have the same place for each input if it begins at a multiple of this. */
const ALIGN_MS = 2 ** 14;
const LARGEST_BUFFER = 0x1_0000;

const NEEDS_CSUM = 1;
const NO_FD = -1;
const none = { kickFd: NO_FD, callFd: NO_FD, errFd: NO_FD, enabled: true };

/** Runs with numbers that are always the same instead of random ones. */
function unrandom<T>(body: () => T): T {
  const { getRandomValues } = crypto;
  crypto.getRandomValues = (array) => {
    if (array instanceof Uint32Array) {
      array.set(array.map((_, i) => 0x9e3779b9 * (i + 1)));
    }
    return array;
  };
  try {
    return body();
  } finally {
    crypto.getRandomValues = getRandomValues;
  }
}

/** One for all inputs of a target; {@link run} makes it new. */
export class FuzzWorld {
  readonly #memory = new GuestMemory(2 ** 32);
  readonly #ram = new GuestRam(this.#memory, [{ address: BASE, size: RAM }]);
  readonly #epoll = new Epoll();
  /** Another one after an input that failed. */
  path: DataPath;
  readonly #config: Config;
  #driver!: MockDriver;
  #offloads!: Offloads;
  /** Is told of each frame that came to the guest, and was found to be right. */
  onFrame: (frame: Uint8Array) => void = () => {};

  constructor(config: Partial<Config> = {}) {
    log.configure({ level: "error", size: 0 });
    const limits = limitsOf(FLOWS, { halfOpen: 6, pendingTcp: 4, pendingUdp: 4 });
    this.#config = flowConfig({ ra: false, limits, ...config });
    this.path = this.#make();
  }

  #make(): DataPath {
    const { now } = this.path ?? { now: 0 };
    return unrandom(() => {
      const path = new DataPath(this.#config, this.#memory, this.#epoll, FLOWS);
      path.now = Math.max(now, path.now);
      return path;
    });
  }

  /** Runs the body with a new guest; then nothing may be left. */
  run(offloads: Offloads, body: () => void): void {
    host.reset();
    host.active = true;
    try {
      this.#start(offloads);
      body();
      this.#end();
    } catch (error) {
      this.#recover();
      throw error;
    } finally {
      host.active = false;
    }
  }

  /** After an input that failed the next one finds all as if it had not been. */
  #recover(): void {
    const { path } = this;
    host.lenient = true;
    try {
      path.stopQueue(0);
      path.stopQueue(1);
      path.flushFlows();
      path.dropAll();
      path.udp.forgetListener(0);
      for (let i = 0; i < 3; i++) path.turn();
      path.tcp.setPeekOffset(true);
    } catch {
      // It is found by the count.
    }
    host.lenient = host.active = false;
    if (path.table.count > 0) this.path = this.#make();
  }

  #start(offloads: Offloads): void {
    const { path } = this;
    path.now = Math.ceil((path.now + 1) / ALIGN_MS) * ALIGN_MS;
    path.mtu = path.config.mtu;
    path.forgetGuest();
    this.listening.clear();
    this.#ram.bytes(BASE, RING_BYTES).fill(0);
    this.#ram.seek(BASE);
    const { eventIdx } = offloads;
    this.#driver = new MockDriver(this.#ram, offloads.mergeable, RING, { eventIdx });
    this.#offloads = offloads;
    path.setOffloads(offloads);
    path.tcp.setPeekOffset(true);
    path.startQueue({ index: 0, ...this.#driver.rx.layout, ...none });
    path.startQueue({ index: 1, ...this.#driver.tx.layout, ...none });
  }

  /** The guest is reset: its flows end, and with them their sockets. */
  #end(): void {
    const { path } = this;
    path.dropAll();
    path.udp.forgetListener(0);
    path.turn();
    path.turn();
    path.tcp.setPeekOffset(true); // closes what was kept for later
    if (path.table.count !== 0) throw new Error(`${path.table.count} flows are left`);
    for (const [name, bound] of Object.entries(Bound)) {
      const count = path.bounds.count(bound);
      if (count !== 0) throw new Error(`${count} are counted still: ${name}`);
    }
    for (let flow = 0; flow < FLOWS; flow++) {
      if (path.timers.isSet(flow)) throw new Error("a timer of a flow that has ended");
    }
    for (const { fd } of host.sockets.values()) {
      if (!this.listening.has(fd)) throw new Error("a socket is left");
    }
    this.#collect();
    path.stopQueue(1);
    path.stopQueue(0);
  }

  /** Sockets that are not flows'. */
  readonly listening: Set<number> = new Set<number>();

  /** A socket that listens for peers or datagrams. */
  listen(stream: boolean, four: boolean, port: number): HostSocket {
    const socket = host.open(stream, four, port);
    this.listening.add(socket.fd);
    return socket;
  }

  /** The guest offers receive buffers, as far as there is room. */
  post(count: number, size: number): void {
    const length = Math.min(Math.max(1, size), LARGEST_BUFFER);
    const most = Math.min(count, this.#driver.rx.free, Math.floor(this.#left / length));
    this.#driver.post(most, length);
    this.path.kicked(0);
  }

  get #left(): number {
    return BASE + RAM - RESERVE - this.#ram.take(0, 1);
  }

  /** The guest transmits a frame; the device has not been told of it yet. */
  send(frame: Uint8Array, header: Uint8Array, cuts: readonly number[]): void {
    if (this.#driver.tx.free < 8 || this.#left < frame.length + NET_HEADER) return;
    this.#driver.send(frame, cuts, header);
  }

  /** The loop goes round, and the guest takes what has come. */
  turn(): void {
    const { path } = this;
    path.kicked(1);
    for (let i = 0; i < TURNS; i++) {
      path.turn();
      this.#collect();
      if (path.timeout() !== 0) break;
    }
  }

  advance(ms: number): void {
    this.path.now += ms;
    this.turn();
  }

  /** Sockets that epoll watches, the oldest first. */
  watched(): HostSocket[] {
    return [...host.sockets.values()].filter(({ watched }) => watched !== undefined);
  }

  /** Events of a socket, as epoll would tell of them. */
  event(socket: HostSocket, events: number): void {
    if (socket.watched === undefined) return;
    const { data, generation } = socket.watched;
    this.path.onSocket(data >>> 24, data & 0xffffff, generation, events);
  }

  /** The flow that has a socket, or -1. */
  flowOf(fd: number): number {
    const { table } = this.path;
    for (let flow = 0; flow < table.limit; flow++) {
      if (table.kind(flow) !== FlowKind.free && table.fd(flow) === fd) return flow;
    }
    return -1;
  }

  #collect(): void {
    this.#driver.tx.reap();
    for (const { header, frame } of this.#driver.receive()) {
      this.#complete(header, frame);
      checkFrame(frame);
      this.onFrame(frame);
    }
  }

  /** Checks a net header, and completes the checksum that it leaves to the guest. */
  #complete(header: Uint8Array, frame: Uint8Array): void {
    const view = new DataView(header.buffer, header.byteOffset, NET_HEADER);
    const [flags, gso] = header;
    const size = view.getUint16(4, true);
    if (gso !== 0) {
      const allowed = { 1: "largeReceive4", 4: "largeReceive6", 5: "largeDatagrams" };
      const name = allowed[gso as keyof typeof allowed] as keyof Offloads | undefined;
      if (name === undefined || this.#offloads[name] !== true) {
        throw new Error(`GSO of type ${gso}`);
      }
      const headers = view.getUint16(2, true);
      if (size === 0 || headers < 42 || headers + size > frame.length) {
        throw new Error(`${frame.length} bytes to cut after ${headers} by ${size}`);
      }
    } else if (frame.length > 14 + this.path.mtu) {
      throw new Error(`a frame of ${frame.length} bytes`);
    }
    if ((flags & ~NEEDS_CSUM) !== 0) throw new Error(`flags ${flags}`);
    if (flags === 0) {
      if (gso !== 0) throw new Error("to be cut, but not to be summed");
      return;
    }
    if (!this.#offloads.guestChecksum) throw new Error("a partial checksum");
    const start = view.getUint16(6, true);
    const field = start + view.getUint16(8, true);
    if (start < 34 || field + 2 > frame.length) throw new Error("a checksum outside");
    const sum = ~onesSum(frame.subarray(start)) & 0xffff || 0xffff;
    frame[field] = sum >> 8;
    frame[field + 1] = sum;
  }

  close(): void {
    this.#epoll.close();
    this.#ram.close();
  }
}
