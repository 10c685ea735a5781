/**
 * vuelo as a process has it, but turned by the test; its frontend and guest, the servers
 * they talk to, and a clock that runs ahead while nothing happens.
 */
import { close, eventfdCreate, eventfdWrite } from "../../ffi/event.ts";
import { Service, starting } from "../../src/app.ts";
import type { Config } from "../../src/config.ts";
import { defaultUser } from "../../src/host/privileges.ts";
import type { Rehearsal } from "../../src/rehearsal/rehearsal.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { flowConfig, ip, IP4, IP6 } from "../support/flow_config.ts";
import { freePorts } from "../support/free_ports.ts";
import { asU64, payload, region, state, u64, vringAddress } from "../support/frontend.ts";
import { GuestRam, type GuestRing, MockDriver } from "../support/mock_driver.ts";
import { asUser } from "../support/other_user.ts";
import type { Addresses } from "../support/guest_packets.ts";
import { GuestTcp, segmentOf } from "./guest_tcp.ts";
import type { HelperThread } from "./helper_thread.ts";
import type { Injector } from "./injector.ts";
import { Gone, Peer } from "./peer.ts";

const RAM = { address: 0x10_0000, size: 0x200_0000 };
const USER = 0x7f00_0000_0000;
/** REPLY_ACK, BACKEND_REQ, RESET_DEVICE, STATUS, DEVICE_STATE. */
const PROTOCOL = 2 ** 3 + 2 ** 5 + 2 ** 13 + 2 ** 16 + 2 ** 19;
/** MRG_RXBUF, protocol features, VERSION_1. */
const FEATURES = 2 ** 15 + 2 ** 30 + 2 ** 32;
const CHECK = 43;
const STEP_MS = 200;
const ASKING_MS = 20;
/** Rounds without anything that happens after which what is waited for never comes. */
const PATIENCE = 800;
/** So often in that time the guest sends again what has had no answer. */
const AGAIN = 40;

/** Who root becomes, by name: the sockets are given away, too. An ordinary user stays. */
const RUN_AS = defaultUser() && { uid: 65534, gid: 65534 };

const RING_PACKED = 2 ** 34;
/** Both places of a packed ring that is new: index 0, wrap counter 1. */
const NEW_PACKED = 0x8000_8000;

/** How a world differs from the plainest. */
export interface Ways {
  /** Of the service's configuration. */
  readonly changes?: Partial<Config>;
  /** The guest talks IPv6. */
  readonly six?: boolean;
  readonly packed?: boolean;
  /**
   * The host has the addresses {@link AWAY}, which vuelo's sockets are bound to, and so to
   * their interface.
   */
  readonly away?: boolean;
  /** Moves need this, as vuelo itself has no right to repair. */
  readonly helper?: HelperThread;
  /** What is done while nothing else happens. */
  readonly rehearsal?: (config: Config) => Pick<Rehearsal, "wants" | "round">;
}

/** Addresses of loopback that are not those of loopback; they may be there or not. */
export const AWAY: readonly [four: string, six: string] = [
  "198.51.100.7",
  "2001:db8:7::7",
];
const LO = "lo";
/** A user that is nobody else. */
const OTHER = 12345;

/** A request of the frontend was answered with an error. */
export class Refused extends Error {
  override readonly name = "Refused";
}

// Addresses of guest memory are never given back: all worlds use the same.
let ours: GuestMemory | undefined;
let theirs: GuestMemory | undefined;
const realNow = performance.now.bind(performance);
let ahead = 0;
performance.now = () => realNow() + ahead;

export class FaultWorld {
  readonly service: Service;
  readonly #rehearsal: Pick<Rehearsal, "wants" | "round">;
  readonly forwardedTcp: number;
  readonly forwardedUdp: number;
  readonly #folder = Deno.makeTempDirSync({ prefix: "vuelo-faults-" });
  readonly #path = `${this.#folder}/socket`;
  readonly #repairPath = `${this.#folder}/socket.repair`;
  readonly #ram: GuestRam;
  readonly #fds: number[] = [];
  #driver: MockDriver;
  #kicks: number[] = [];
  /** Where rings stopped that are to go on. */
  #bases: number[] = [];
  peer: Peer | undefined;
  readonly tcp = new Map<number, GuestTcp>();
  /** Frames that are not of these connections. */
  other: (frame: Uint8Array) => void = () => {};

  /** The guest's address, and that at which it finds the host. */
  readonly ends: Addresses;
  /** The host's own. */
  readonly loopback: Uint8Array;

  constructor(readonly injector: Injector, private readonly ways: Ways = {}) {
    const { changes, six = false, away = false, rehearsal, helper } = ways;
    injector.denies = helper !== undefined;
    const { address, gateway } = six ? IP6 : IP4;
    this.loopback = ip(away ? AWAY[six ? 1 : 0] : six ? "::1" : "127.0.0.1");
    this.ends = { from: address, to: away ? this.loopback : gateway };
    [this.forwardedTcp, this.forwardedUdp] = [freePorts(1), freePorts(1)];
    const rule = {
      address: this.loopback,
      weak: false,
      ...away ? { interface: LO } : {},
    };
    const out = {
      outbound: this.loopback,
      outboundInterface: LO,
      gateway: this.loopback,
    };
    const [tcp, udp] = [this.forwardedTcp, this.forwardedUdp];
    const config = flowConfig({
      socketPath: this.#path,
      repairPath: helper === undefined ? "none" : this.#repairPath,
      runAs: RUN_AS,
      ra: false,
      forwards: [
        { ...rule, protocol: "tcp", first: tcp, last: tcp, guestFirst: 8080 },
        { ...rule, protocol: "udp", first: udp, last: udp, guestFirst: 8080 },
      ],
      ...away ? six ? { ip6: { ...IP6, ...out } } : { ip4: { ...IP4, ...out } } : {},
      ...changes,
    });
    ours ??= new GuestMemory(2 ** 30);
    theirs ??= new GuestMemory(2 ** 30);
    const memory = ours;
    this.#ram = new GuestRam(theirs, [RAM]);
    this.#driver = this.#newDriver();
    const idle = rehearsal?.(config) ?? { wants: () => false, round() {} };
    const options = { memory, flows: 64, loopback: true };
    this.#rehearsal = idle;
    this.service = injector.within(() =>
      starting(() => new Service(config, options, idle))
    );
  }

  #newDriver(): MockDriver {
    return new MockDriver(this.#ram, true, 256, { packed: this.ways.packed === true });
  }

  open(): void {
    this.injector.within(() => starting(() => this.service.open()));
  }

  turn(): void {
    this.injector.within(() => this.service.turn());
    this.#receive();
  }

  turns(count: number): void {
    for (let i = 0; i < count; i++) this.turn();
  }

  /** Turns until `done`; the guest asks again now and then, and time passes. */
  until(what: string, done: () => boolean, again: () => void = () => {}): void {
    for (let i = 1; !done(); i++) {
      this.turn();
      if (i > 20) ahead += STEP_MS;
      if (i % AGAIN === 0) {
        for (const flow of this.tcp.values()) flow.again();
        again();
      }
      if (i > PATIENCE) throw new Error(`hang: ${what} does not come`);
    }
  }

  /** Lets time pass. */
  wait(ms: number): void {
    for (const end = performance.now() + ms; performance.now() < end; ahead += STEP_MS) {
      this.turn();
    }
  }

  /** Connects, negotiates and starts the rings. @throws {Gone | Refused} */
  connect(): void {
    const peer = new Peer(this.#path, () => {
      this.turn();
      ahead += ASKING_MS;
    });
    // One that is there yet has not been noticed to go.
    this.peer?.close();
    this.peer = peer;
    this.#kicks = [];
    this.do(16, u64(PROTOCOL));
    this.do(2, u64(FEATURES + (this.ways.packed === true ? RING_PACKED : 0)));
    const { address, size } = RAM;
    const table = payload(["u64", 1], region(address, size, USER + address, 0));
    this.do(5, table, [this.#ram.fd]);
  }

  /** A request that must succeed. @throws {Gone | Refused} */
  do(request: number, bytes: Uint8Array, fds: readonly number[] = []): void {
    const answer = this.peer!.do(request, new Uint8Array(bytes), fds);
    if (answer !== 0) throw new Refused(`request ${request}`);
  }

  /** The guest's driver begins anew. */
  renew(): void {
    this.#ram.seek(RAM.address);
    this.#ram.bytes(RAM.address, 0x2_0000).fill(0);
    this.#driver = this.#newDriver();
    this.#bases = [];
    this.#driver.post(200, 2048);
    // Connections of a guest that has rebooted are gone.
    for (const flow of this.tcp.values()) flow.reset = true;
    this.tcp.clear();
  }

  start(): void {
    for (const [index, ring] of [this.#driver.rx, this.#driver.tx].entries()) {
      this.#startRing(index, ring);
    }
    for (const fd of this.#kicks) eventfdWrite(fd);
  }

  #startRing(index: number, ring: GuestRing): void {
    const place = (view: DataView) =>
      USER + RAM.address + view.byteOffset - this.#ram.memory.translate(RAM.address, 1);
    this.do(8, state(index, ring.size));
    this.do(10, state(index, this.#base(index, ring)));
    const { descriptors, available, used } = ring;
    this.do(9, vringAddress(index, place(descriptors), place(used), place(available)));
    this.do(13, u64(index), [this.#event()]);
    this.#kicks[index] = this.#event();
    this.do(12, u64(index), [this.#kicks[index]]);
    this.do(18, state(index, 1));
  }

  /** Where the device begins: behind what it has used. */
  #base(index: number, ring: GuestRing): number {
    if (this.ways.packed !== true) return ring.used.getUint16(2, true);
    return this.#bases[index] ?? NEW_PACKED;
  }

  #event(): number {
    const fd = eventfdCreate();
    this.#fds.push(fd);
    return fd;
  }

  /** GET_VRING_BASE of both rings. */
  stop(): void {
    for (const index of [0, 1]) {
      const { payload } = this.peer!.ask(11, new Uint8Array(state(index, 0)));
      // Rings that did not run since the last stop are where they were then.
      if (this.#kicks[index] === undefined) continue;
      this.#bases[index] = new DataView(payload.buffer, payload.byteOffset).getUint32(
        4,
        true,
      );
    }
    this.#kicks = [];
  }

  /** SET_DEVICE_STATE_FD; `instead` is a descriptor that came with the answer. */
  transfer(
    direction: number,
    fd: number,
  ): { readonly accepted: boolean; readonly instead?: number } {
    const words = new Uint8Array(payload(["u32", direction], ["u32", 0]));
    const { payload: answer, fds: [instead, ...more] } = this.peer!.ask(42, words, [fd]);
    for (const other of more) close(other);
    return { accepted: (asU64(answer) & 0xff) === 0, instead };
  }

  /** CHECK_DEVICE_STATE: 0 or an error. */
  check(): number {
    return this.peer!.do(CHECK);
  }
  /** As {@link check}, but the answer is waited for by {@link checked}. */
  askCheck(): void {
    this.peer!.tell(CHECK);
    for (let i = 0; i < 3; i++) this.turn();
  }
  checked(): number {
    return asU64(this.peer!.answer(CHECK).payload);
  }

  /** The repair helper comes, if there is to be one that has not. */
  callHelper(): void {
    this.ways.helper?.come(this.#repairPath);
    this.turns(3);
  }

  /** One more connects, who is not served; of --socket-group, if there is one. */
  connectAnother(): Peer {
    const connect = () => new Peer(this.#path, () => this.turn());
    const { socketGroup } = this.ways.changes ?? {};
    if (socketGroup === undefined) return connect();
    Deno.chmodSync(this.#folder, 0o755);
    return asUser(OTHER, OTHER, [socketGroup], connect);
  }

  hangUp(): void {
    this.peer?.close();
    this.peer = undefined;
    for (let i = 0; i < 20; i++) this.turn();
    for (const fd of this.#fds.splice(0)) close(fd);
  }

  /** The guest sends a frame. */
  readonly send = (frame: Uint8Array): void => {
    this.#driver.send(frame);
    if (this.#kicks.length === 2) eventfdWrite(this.#kicks[1]);
  };

  #receive(): void {
    if (this.#kicks.length < 2) return;
    this.#driver.sent();
    const frames = this.#driver.receive();
    if (frames.length === 0) return;
    this.#driver.post(frames.length, 2048);
    eventfdWrite(this.#kicks[0]);
    for (const { frame } of frames) {
      const segment = segmentOf(frame);
      const flow = segment && this.tcp.get(segment.toPort);
      if (segment !== undefined && flow !== undefined) flow.take(segment);
      else this.other(frame);
    }
  }

  /** There is something to rehearse yet. */
  get rehearses(): boolean {
    return this.#rehearsal.wants(this.service.guest.move.repair);
  }

  /** Flows that the guest has. */
  get flows(): number {
    return this.service.guest.device.path.table.count;
  }

  close(): void {
    this.peer?.close();
    for (const fd of this.#fds) close(fd);
    // Sockets that are kept for flows to come end with the process; here, before.
    const { tcp } = this.service.guest.device.path;
    for (let i = 0; i < 20 && tcp.idles; i++) this.turn();
    tcp.setPeekOffset(true);
    this.injector.within(() => this.service.close());
    this.service.guest.epoll.close();
    this.ways.helper?.gone();
    this.injector.denies = false;
    this.#ram.close();
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

export { Gone };
