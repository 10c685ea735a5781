/**
 * A service as src/app.ts puts it together, but for its loop, which a test turns: a
 * frontend that asks for moves in whatever order, a guest that talks, a repair helper that
 * comes and goes.
 */
import { close, Epoll, eventfdWrite } from "../../ffi/event.ts";
import { Errno } from "../../ffi/errno.ts";
import { memfdCreate, setNonBlocking } from "../../ffi/memory.ts";
import { createPipe, readSome, writeSome } from "../../ffi/pipe.ts";
import type { Config } from "../../src/config.ts";
import { NetDevice } from "../../src/device.ts";
import { eventData, EventKind } from "../../src/flow/context.ts";
import { KICK_INDEX } from "../../src/flow/datapath.ts";
import { Forwarder } from "../../src/flow/forward.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import { Migration } from "../../src/migrate/migration.ts";
import { OwnRepair, type RepairSwitch } from "../../src/repair/switch.ts";
import type { Session } from "../../src/vhost_user/session.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig } from "./flow_config.ts";
import {
  Ask,
  asU64,
  Descriptors,
  type Frontend,
  memoryTable,
  payload,
  region,
  type Reply,
  state,
  u64,
  vringAddress,
} from "./frontend.ts";
import { GuestRam, type GuestRing, MockDriver } from "./mock_driver.ts";
import { connectSession, LogLines } from "./vhost_session.ts";

const RAM = { address: 0x10_0000, size: 0x100_0000 };
const USER = 0x7f00_0000_0000;
/** REPLY_ACK, RESET_DEVICE, STATUS, DEVICE_STATE. */
const PROTOCOL = 2 ** 3 + 2 ** 13 + 2 ** 16 + 2 ** 19;
const FEATURES = 2 ** 30 + 2 ** 15;
const TRANSFER = 3;
const NO_DESCRIPTOR = 0x100;

/** A helper that may be missing, or die after half of what it was asked to. */
export class FickleHelper implements RepairSwitch {
  readonly #own = new OwnRepair();
  available = true;
  /** Calls that it lives through. */
  lives = Infinity;

  switchSockets(fds: ArrayLike<number>, on: boolean): number {
    if (!this.available) return Errno.ENOTCONN;
    if (this.lives-- > 0) return this.#own.switchSockets(fds, on);
    this.#own.switchSockets(Array.from(fds).slice(0, fds.length >> 1), on);
    this.available = false;
    return Errno.ECONNRESET;
  }
  describe(): string {
    return "a fickle helper";
  }
}

/** Descriptors that a frontend may give for a transfer. */
export type TransferKind =
  | "pipe"
  | "wrong end"
  | "file"
  | "shared"
  | "broken pipe";

let device: NetDevice | undefined;
let memory: GuestMemory | undefined;
const epoll = new Epoll();

export class MovingHost {
  readonly device: NetDevice;
  readonly forwarder: Forwarder;
  readonly helper = new FickleHelper();
  readonly log = new LogLines();
  readonly #move: GuestMove;
  readonly #migration: Migration;
  readonly #ram: GuestRam;
  readonly driver: MockDriver;
  readonly #fds = new Descriptors();
  readonly #kicks: readonly number[];
  #frontend: Frontend | undefined;
  #session: Session | undefined;
  /** The frontend's end of a transfer, and whether it reads; what it has read. */
  #end = -1;
  #shared = -1;
  #reads = false;
  stream: number[] = [];

  constructor(changes: Partial<Config> = {}) {
    memory ??= new GuestMemory(2 ** 32);
    device ??= new NetDevice(flowConfig(), epoll);
    this.device = device;
    const { path } = device;
    Object.assign(path.config, { forwards: [], ...changes });
    this.forwarder = new Forwarder(path);
    this.#move = new GuestMove(path, this.forwarder, () => ({
      featuresLo: this.device.features.lo,
      featuresHi: this.device.features.hi,
    }));
    this.#move.repair = this.helper;
    const data = eventData(EventKind.control, TRANSFER);
    this.#migration = new Migration(this.#move, "vuelo", epoll, data, this.log);
    device.migration = this.#migration;
    device.onReceiving = (on) => on ? this.forwarder.resume() : this.forwarder.pause();
    device.onGone = () => this.#move.forget();
    this.forwarder.open();
    this.#ram = new GuestRam(memory, [RAM]);
    this.driver = new MockDriver(this.#ram, true, 256);
    this.#kicks = this.#fds.events(2);
    this.driver.post(100, 2048);
    this.connect();
  }

  get connected(): boolean {
    return this.#session !== undefined && !this.#session.over;
  }

  connect(): void {
    if (this.connected) return;
    this.#frontend?.close();
    const { frontend, session } = connectSession(this.device, this.log);
    this.#frontend = frontend;
    this.#session = session;
    this.ask(Ask.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    this.ask(Ask.SET_FEATURES, u64(FEATURES));
    this.setMemory();
  }

  disconnect(): void {
    this.#frontend?.close();
    this.#frontend = undefined;
    if (this.connected) this.#session!.readable();
    this.#session = undefined;
    this.endTransfer();
  }

  /** Sends a request; its reply, if there is one. */
  ask(request: number, bytes?: Uint8Array, fds: readonly number[] = []): Reply | null {
    if (!this.connected) return null;
    this.#frontend!.send(request, bytes, { needReply: true, fds });
    this.#session!.readable();
    return this.#frontend!.receive();
  }

  setMemory(): void {
    const { address, size } = RAM;
    const table = memoryTable(region(address, size, USER + address, 0));
    this.ask(Ask.SET_MEM_TABLE, table, [this.#ram.fd]);
  }

  start(index: number): void {
    const ring = this.#ring(index);
    const place = (view: DataView) =>
      USER + RAM.address + view.byteOffset - this.#ram.memory.translate(RAM.address, 1);
    this.ask(Ask.SET_VRING_NUM, state(index, ring.size));
    this.ask(Ask.SET_VRING_BASE, state(index, ring.used.getUint16(2, true)));
    const { descriptors, available, used } = ring;
    this.ask(
      Ask.SET_VRING_ADDR,
      vringAddress(index, place(descriptors), place(used), place(available)),
    );
    this.ask(Ask.SET_VRING_KICK, u64(index), [this.#kicks[index]]);
  }
  stop(index: number): void {
    this.ask(Ask.GET_VRING_BASE, state(index, 0));
  }
  enable(index: number, on: boolean): void {
    this.ask(Ask.SET_VRING_ENABLE, state(index, on ? 1 : 0));
  }
  /** Both rings, as QEMU does it. */
  run(on: boolean): void {
    for (const index of [0, 1]) {
      if (on) this.start(index);
      else this.stop(index);
      this.enable(index, on);
    }
  }

  #ring(index: number): GuestRing {
    return index === 0 ? this.driver.rx : this.driver.tx;
  }

  /** SET_DEVICE_STATE_FD; whether it was accepted. */
  begin(save: boolean, kind: TransferKind = "pipe"): boolean {
    const [reading, writing] = createPipe();
    let [ours, theirs] = save ? [writing, reading] : [reading, writing];
    if (kind === "wrong end") [ours, theirs] = [theirs, ours];
    if (kind === "file") ours = this.#replace(ours, memfdCreate("state", 4096));
    if (kind === "broken pipe") {
      close(theirs);
      theirs = -1;
    }
    const reply = this.ask(
      Ask.SET_DEVICE_STATE_FD,
      payload(["u32", save ? 0 : 1], ["u32", 0]),
      [ours],
    );
    const answer = reply === null ? 1 : asU64(reply.payload);
    const accepted = (answer & 0xff) === 0;
    if (kind === "shared" && accepted) this.#share(ours);
    else close(ours);
    if (accepted && (answer & NO_DESCRIPTOR) === 0) {
      if (theirs !== -1) close(theirs);
      [theirs] = reply!.fds;
    }
    if (!accepted) {
      if (theirs !== -1) close(theirs);
      return false;
    }
    this.#dropEnd();
    this.#end = theirs;
    this.#reads = save;
    if (theirs !== -1) setNonBlocking(theirs);
    if (save) this.stream = [];
    return true;
  }

  #replace(old: number, fresh: number): number {
    close(old);
    return fresh;
  }
  /** The frontend keeps a copy of what it gave: closing does not end it. */
  #share(fd: number): void {
    if (this.#shared !== -1) close(this.#shared);
    this.#shared = fd;
  }

  /** Reads or writes as far as that goes; `bytes` are of a stream. */
  transfer(bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0)): void {
    if (this.#end === -1) return;
    if (!this.#reads) {
      for (let at = 0; at < bytes.length;) {
        const count = writeSome(this.#end, bytes.subarray(at));
        if (count > 0) at += count;
        else if (!this.turn()) return;
      }
      return;
    }
    const buffer = new Uint8Array(1 << 16);
    for (;;) {
      const count = readSome(this.#end, buffer);
      if (count === 0) return;
      if (count > 0) {
        for (const byte of buffer.subarray(0, count)) this.stream.push(byte);
      } else if (!this.turn()) return;
    }
  }

  /** Closes the frontend's end of a transfer. */
  endTransfer(): void {
    this.#dropEnd();
    if (this.#shared !== -1) close(this.#shared);
    this.#shared = -1;
  }
  #dropEnd(): void {
    if (this.#end !== -1) close(this.#end);
    this.#end = -1;
  }

  /** CHECK_DEVICE_STATE: 0 or an error number. */
  check(): number {
    if (!this.#reads) this.endTransfer();
    const reply = this.ask(Ask.CHECK_DEVICE_STATE);
    return reply === null ? -1 : asU64(reply.payload);
  }

  /** A repair helper has come. */
  helperCame(): void {
    this.helper.available = true;
    this.helper.lives = Infinity;
    this.#migration.helperCame();
  }

  /** One round of the loop; false if nothing happened. */
  turn(): boolean {
    const { path } = this.device;
    const count = epoll.wait(0);
    path.now = performance.now();
    for (let i = 0; i < count; i++) this.#event(i);
    this.device.settle();
    this.forwarder.turn();
    this.#migration.tick();
    path.turn();
    return count > 0;
  }

  #event(i: number): void {
    const data = epoll.data(i);
    const [kind, index, events] = [data >>> 24, data & 0xffffff, epoll.events(i)];
    const { path } = this.device;
    if (kind === EventKind.tcpListener || kind === EventKind.udpListener) {
      this.forwarder.onEvent(kind, index, events);
    } else if (kind !== EventKind.control) {
      path.onSocket(kind, index, epoll.high(i), events);
    } else if (index >= KICK_INDEX) path.kicked(index - KICK_INDEX);
    else this.#migration.onEvent(events, epoll.high(i));
  }

  /** The guest's frames go out, and what else there is to do is done. */
  settle(): void {
    for (const fd of this.#kicks) eventfdWrite(fd);
    for (let quiet = 0, i = 0; quiet < 3; i++) {
      const busy = this.turn() || this.device.path.timeout() === 0;
      quiet = busy ? 0 : quiet + 1;
      if (i > 10_000) throw new Error("the loop never comes to rest");
    }
    this.driver.sent();
    const frames = this.driver.receive();
    if (frames.length > 0) this.driver.post(frames.length, 2048);
  }

  close(): void {
    this.disconnect();
    this.forwarder.close();
    this.#ram.close();
    this.#fds[Symbol.dispose]();
  }
}
