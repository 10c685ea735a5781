/**
 * A device behind its real socket, whose frontend logs dirty pages as QEMU does: guest
 * memory of several regions is compared with the log after each thing the device did.
 */
import { assertEquals } from "@std/assert";
import { Epoll, eventfdWrite } from "../../ffi/event.ts";
import type { Config } from "../../src/config.ts";
import { NetDevice } from "../../src/device.ts";
import { EventKind } from "../../src/flow/context.ts";
import { KICK_INDEX } from "../../src/flow/datapath.ts";
import { Forwarder } from "../../src/flow/forward.ts";
import type { Session } from "../../src/vhost_user/session.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig } from "./flow_config.ts";
import {
  Ask,
  asU64,
  Descriptors,
  type Frontend,
  GuestRam as LogFile,
  memoryTable,
  payload,
  region,
  type SendOptions,
  state,
  u64,
  vringAddress,
} from "./frontend.ts";
import { GuestRam, type GuestRing, MockDriver, type RamRegion } from "./mock_driver.ts";
import { connectSession, LogLines } from "./vhost_session.ts";

const PAGE = 4096;
const LOG_ALL = 2 ** 26;
/** MQ, LOG_SHMFD, REPLY_ACK. */
const PROTOCOL = 1 + 2 + 8;
const VRING_F_LOG = 1;
/** Two regions that meet, and one far off; places in the file are others. */
export const REGIONS: readonly RamRegion[] = [
  { address: 0x10_0000, size: 0x40_0000 },
  { address: 0x50_0000, size: 0x30_0000 },
  { address: 0x1_4000_0000, size: 0x40_0000 },
];
/** Bytes around the place where the first two regions meet, given out to nobody. */
const SEAM = 0x2000;
const END = Math.max(...REGIONS.map(({ address, size }) => address + size));
const LOG_SIZE = END / PAGE / 8;

/** Numbers of a seed, below `n` (mulberry32). */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0;
  }
  below(n: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** Gives out places all over the regions, aligned no better than asked for. */
class ScatteredRam extends GuestRam {
  readonly #random: Random;
  readonly #cursors = REGIONS.map(({ address }) => address);
  /** Pages that the device may write to. */
  readonly writable = new Set<number>();
  recording = false;

  constructor(memory: GuestMemory, random: Random) {
    super(memory, REGIONS);
    this.#random = random;
    this.#cursors[1] += SEAM;
  }

  /** Used only after the constructor of the base class. */
  override take(size: number, align = 16): number {
    for (let tries = 0; tries < 20; tries++) {
      const i = this.#random.below(REGIONS.length);
      const gap = align * this.#random.below(Math.ceil(3000 / align));
      const at = Math.ceil(this.#cursors[i] / align) * align + gap;
      const { address, size: all } = REGIONS[i];
      if (at + size > address + all - SEAM) continue;
      this.#cursors[i] = at + size;
      if (this.recording) this.allow(at, size);
      return at;
    }
    throw new RangeError("guest memory is used up");
  }

  allow(address: number, size: number): void {
    for (let p = Math.floor(address / PAGE); p * PAGE < address + size; p++) {
      this.writable.add(p);
    }
  }
}

export interface Shape {
  readonly features: number;
  readonly mergeable: boolean;
  readonly eventIdx: boolean;
  readonly ringSize: number;
  readonly packed: boolean;
}

let frontendMemory: GuestMemory | undefined;
let device: NetDevice | undefined;
const epoll = new Epoll();

export class DirtyWorld {
  readonly ram: ScatteredRam;
  readonly driver: MockDriver;
  readonly device: NetDevice;
  /** Frames of the guest's that came since they were last looked at. */
  frames: Uint8Array[] = [];
  /** What comes is not looked at: its buffers were not posted by {@link post}. */
  unread = false;
  /** Frames that came, and pages that changed or were marked, over all. */
  readonly totals = { frames: 0, changed: 0, marked: 0 };
  readonly #forwarder: Forwarder;
  readonly #fds = new Descriptors();
  readonly #frontend: Frontend;
  readonly #session: Session;
  readonly #lines = new LogLines();
  readonly #kicks: number[];
  readonly #before: Int32Array[];
  #log: LogFile | undefined;
  #logging = false;

  constructor(readonly random: Random, readonly shape: Shape, changes: Partial<Config>) {
    frontendMemory ??= new GuestMemory(2 ** 33);
    // One device for all tests, since its addresses are never given back.
    device ??= new NetDevice(flowConfig(changes), epoll);
    this.device = device;
    this.#forwarder = new Forwarder(device.path);
    device.onReceiving = (on) => on ? this.#forwarder.resume() : this.#forwarder.pause();
    this.#forwarder.open();
    this.ram = new ScatteredRam(frontendMemory, random);
    const { mergeable, eventIdx, ringSize, packed } = shape;
    const start = random.chance(50) ? 65536 - random.below(100) - 1 : 0;
    this.driver = new MockDriver(this.ram, mergeable, ringSize, {
      eventIdx,
      start,
      packed,
    });
    this.#before = REGIONS.map(({ size }) => new Int32Array(size / 4));
    this.#kicks = this.#fds.events(2);
    const { frontend, session } = connectSession(device, this.#lines);
    this.#frontend = frontend;
    this.#session = session;
    this.#setUp();
  }

  #ask(request: number, bytes?: Uint8Array, options?: SendOptions): Uint8Array {
    this.#frontend.send(request, bytes, { needReply: true, ...options });
    this.#session.readable();
    const reply = this.#frontend.receive();
    if (reply === null) throw new Error(`no reply: ${this.#lines.lines.join("; ")}`);
    return reply.payload;
  }

  /** A request that must succeed. */
  #must(request: number, bytes?: Uint8Array, fds: readonly number[] = []): void {
    assertEquals(asU64(this.#ask(request, bytes, { fds })), 0, this.#lines.lines.join());
  }

  #setUp(): void {
    this.#frontend.send(Ask.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    this.#must(Ask.SET_FEATURES, u64(this.shape.features));
    let offset = 0;
    const regions = REGIONS.map(({ address, size }) => {
      offset += size;
      return region(address, size, 0x7f00_0000_0000 + address, offset - size);
    });
    this.#must(
      Ask.SET_MEM_TABLE,
      memoryTable(...regions),
      regions.map(() => this.ram.fd),
    );
    for (const [index, ring] of this.#rings.entries()) {
      this.#must(Ask.SET_VRING_NUM, state(index, ring.size));
      this.#must(Ask.SET_VRING_BASE, state(index, ring.layout.baseIndex));
      this.#setAddress(index, 0);
      this.#must(Ask.SET_VRING_KICK, u64(index), [this.#kicks[index]]);
      this.#must(Ask.SET_VRING_CALL, u64(index), [this.#fds.event()]);
      this.#must(Ask.SET_VRING_ENABLE, state(index, 1));
    }
  }

  /** The receive ring is the first. */
  get #rings(): GuestRing[] {
    return [this.driver.rx, this.driver.tx];
  }

  #setAddress(index: number, flags: number): void {
    const { descriptors, available, used, layout } = this.#rings[index];
    const user = (view: DataView) => {
      const offset = view.byteOffset;
      const memory = this.ram.memory;
      const found = REGIONS.find(({ address, size }) => {
        const at = offset - memory.translate(address, 1);
        return at >= 0 && at < size;
      });
      if (found === undefined) throw new Error("a ring outside guest memory");
      const inside = offset - memory.translate(found.address, 1);
      return 0x7f00_0000_0000 + found.address + inside;
    };
    const log = layout.usedLogAddress;
    this.ram.allow(log, used.byteLength);
    if (this.shape.packed) {
      this.ram.allow(user(descriptors) - 0x7f00_0000_0000, descriptors.byteLength);
    }
    this.#must(
      Ask.SET_VRING_ADDR,
      vringAddress(index, user(descriptors), user(used), user(available), flags, log),
    );
  }

  /** Switches logging as QEMU does while the rings run; each time with a new log. */
  setLogging(on: boolean): void {
    if (on) {
      const offset = PAGE * this.random.below(2);
      const size = Math.ceil((offset + LOG_SIZE) / PAGE) * PAGE;
      const log = new LogFile(size);
      this.#fds.keep(log.fd);
      const bytes = payload(["u64", LOG_SIZE], ["u64", offset]);
      const reply = this.#ask(Ask.SET_LOG_BASE, bytes, { fds: [log.fd] });
      assertEquals(asU64(reply), 0);
      this.#log = log;
      this.#logAt = offset;
    }
    this.#must(Ask.SET_FEATURES, u64(this.shape.features + (on ? LOG_ALL : 0)));
    for (const index of [0, 1]) this.#setAddress(index, on ? VRING_F_LOG : 0);
    this.#logging = on;
  }
  #logAt = 0;

  /** Posts receive buffers; each of pieces of these lengths. */
  post(count: number, ...lengths: readonly number[]): void {
    const most = Math.floor(this.driver.rx.free / lengths.length);
    this.ram.recording = true;
    this.driver.post(Math.min(count, most), ...lengths);
    this.ram.recording = false;
  }

  /** Has the device do what there is to do, then looks at what it did to memory. */
  run(what: string): void {
    if (this.shape.eventIdx) {
      for (const ring of this.#rings) ring.setUsedEvent(this.random.below(65536));
    }
    this.#remember();
    for (const fd of this.#kicks) eventfdWrite(fd);
    this.#settle();
    this.#compare(what);
    if (this.unread) this.driver.rx.reap();
    else this.frames = this.driver.receive().map(({ frame }) => frame);
    this.totals.frames += this.frames.length;
    this.driver.sent();
  }

  /** Stops both rings; the last that is written to memory is logged, too. */
  stop(): void {
    this.#remember();
    for (const index of [0, 1]) this.#ask(Ask.GET_VRING_BASE, state(index, 0));
    this.#compare("stop");
  }

  #settle(): void {
    const { path } = this.device;
    for (let quiet = 0; quiet < 3;) {
      const count = epoll.wait(0);
      path.now = performance.now();
      for (let i = 0; i < count; i++) this.#event(i);
      path.turn();
      quiet = count > 0 || path.timeout() === 0 ? 0 : quiet + 1;
    }
  }

  #event(i: number): void {
    const data = epoll.data(i);
    const [kind, index] = [data >>> 24, data & 0xffffff];
    const { path } = this.device;
    if (kind === EventKind.control) path.kicked(index - KICK_INDEX);
    else if (kind === EventKind.tcpListener || kind === EventKind.udpListener) {
      this.#forwarder.onEvent(kind, index, epoll.events(i));
    } else path.onSocket(kind, index, epoll.high(i), epoll.events(i));
  }

  #words(index: number): Int32Array<ArrayBuffer> {
    const { address, size } = REGIONS[index];
    const { memory } = this.ram;
    return new Int32Array(memory.buffer, memory.translate(address, size), size / 4);
  }

  /** Notes what memory holds, and clears the log: atomically, as its writer goes on. */
  #remember(): void {
    for (const [i, words] of this.#before.entries()) words.set(this.#words(i));
    this.#takeLog();
  }

  #takeLog(): Set<number> {
    const pages = new Set<number>();
    if (this.#log === undefined) return pages;
    const bytes = new Uint8Array(this.#log.view.buffer, this.#logAt, LOG_SIZE);
    for (const { address, size } of REGIONS) {
      for (let at = address / PAGE / 8; at < (address + size) / PAGE / 8; at++) {
        const bits = Atomics.exchange(bytes, at, 0);
        for (let bit = 0; bit < 8; bit++) if (bits & 1 << bit) pages.add(at * 8 + bit);
      }
    }
    return pages;
  }

  #compare(what: string): void {
    const marked = this.#takeLog();
    const changed = this.#changed();
    if (!this.#logging) {
      assertEquals(marked.size, 0, `${what}: marked while logging is off`);
      return;
    }
    const missing = changed.filter((page) => !marked.has(page));
    const wrong = [...marked].filter((page) => !this.ram.writable.has(page));
    const list = (pages: number[]) => pages.map((p) => (p * PAGE).toString(16)).join();
    assertEquals(list(missing), "", `${what}: written and not marked`);
    assertEquals(list(wrong), "", `${what}: marked, though nothing can be written there`);
    this.totals.changed += changed.length;
    this.totals.marked += marked.size;
  }

  #changed(): number[] {
    const pages: number[] = [];
    for (const [i, { address }] of REGIONS.entries()) {
      const [now, before] = [this.#words(i), this.#before[i]];
      for (let at = 0; at < now.length; at++) {
        if (now[at] === before[at]) continue;
        const page = at * 4 / PAGE | 0;
        pages.push(address / PAGE + page);
        at = (page + 1) * PAGE / 4 - 1;
      }
    }
    return pages;
  }

  close(): void {
    this.#forwarder.close();
    this.#session.close();
    this.#frontend.close();
    this.device.onReceiving = () => {};
    this.ram.close();
    this.#fds[Symbol.dispose]();
  }
}
