/** What serves one guest: its device, flows, forwarded ports and moves, in one loop. */
import { SyscallError } from "../ffi/errno.ts";
import { close, Epoll, EPOLLET, EPOLLIN } from "../ffi/event.ts";
import type { Config } from "./config.ts";
import { type DeviceOptions, NetDevice } from "./device.ts";
import { eventData, EventKind } from "./flow/context.ts";
import { KICK_INDEX } from "./flow/datapath.ts";
import { Forwarder } from "./flow/forward.ts";
import type { RestoreOptions } from "./flow/tcp/restore.ts";
import { log } from "./log.ts";
import { GuestMove } from "./migrate/guest_move.ts";
import { Migration } from "./migrate/migration.ts";
import type { Mesh } from "./mesh/mesh.ts";
import { Poller } from "./poll.ts";
import { Session } from "./vhost_user/session.ts";

/** Indexes of control events that are not kicks; others are for who watches more. */
const SESSION = 1;
const TRANSFER = 2;
/** Another thread has something for this one, or an answer. */
const WAKE = 3;
export const FIRST_FREE_INDEX = 4;

/** What of a service differs in a rehearsal. */
export type GuestServiceOptions = DeviceOptions & RestoreOptions;

/** A guest's device, its forwarded ports, and its move. */
export class GuestService {
  /** Where all descriptors of this thread are waited for. */
  readonly epoll = new Epoll(256);
  /** The network device that the guest has. */
  readonly device: NetDevice;
  /** Ports of the host that lead to the guest. */
  readonly forwarder: Forwarder;
  /** What of the guest moves, and how. */
  readonly move: GuestMove;
  /** The move that is under way, or may come. */
  readonly migration: Migration;
  /** The frontend's connection, while there is one. */
  session: Session | undefined;
  /** The threads of further queue pairs, if there are any. */
  readonly #mesh: Mesh | undefined;
  readonly #poller: Poller;
  /** Called for control events from {@link FIRST_FREE_INDEX} on. */
  onControl: (index: number) => void = () => {};
  /** Called when the frontend has gone. */
  onDisconnected: () => void = () => {};

  constructor(config: Config, private readonly options: GuestServiceOptions = {}) {
    try {
      this.device = new NetDevice(config, this.epoll, options);
    } catch (error) {
      this.epoll.close(); // a rehearsal goes on without it
      throw error;
    }
    const { device, epoll } = this;
    this.forwarder = new Forwarder(device.path);
    const facts = () => ({
      featuresLo: device.features.lo,
      featuresHi: device.features.hi,
    });
    this.move = new GuestMove(device.path, this.forwarder, facts, options);
    const data = eventData(EventKind.control, TRANSFER);
    const { migrateFormat } = config;
    const report = options.log ?? log;
    this.migration = new Migration(
      this.move,
      migrateFormat,
      epoll,
      data,
      report,
      config.limits?.state,
    );
    device.migration = this.migration;
    device.onReceiving = (receiving) => {
      if (receiving) this.forwarder.resume();
      else this.forwarder.pause();
    };
    device.onGone = () => this.move.forget();
    this.#poller = new Poller(epoll, config.pollMs);
    const mesh = this.#mesh = device.threads?.mesh;
    if (mesh === undefined) return;
    epoll.add(mesh.wakeFd, EPOLLIN + EPOLLET, eventData(EventKind.control, WAKE));
  }

  /**
   * Serves the frontend at `fd`, a connected, non-blocking socket, from now on.
   *
   * @throws {SyscallError} if it cannot be watched; `fd` is closed then
   */
  serve(fd: number): void {
    if (!this.epoll.tryAdd(fd, EPOLLIN, eventData(EventKind.control, SESSION))) {
      const error = new SyscallError("epoll_ctl of the frontend's socket");
      close(fd);
      throw error;
    }
    this.session = new Session(fd, this.device, this.options.log ?? log);
  }

  /**
   * Handles one round of events.
   *
   * @param longest milliseconds to wait for one
   * @returns how many there were
   */
  turn(longest: number): number {
    const { device } = this;
    const { path } = device;
    const most = Math.min(longest, this.forwarder.timeout());
    const timeout = path.timeout();
    const mesh = this.#mesh;
    let wait = timeout < 0 || timeout > most ? most : timeout;
    if (mesh !== undefined && wait !== 0 && !mesh.sleep()) wait = 0;
    const moved = path.source.taken + path.sink.committed;
    const count = this.#poller.wait(wait, moved);
    if (mesh !== undefined) mesh.awake();
    path.now = performance.now();
    for (let i = 0; i < count; i++) this.#event(i);
    device.settle();
    this.forwarder.turn();
    this.migration.tick();
    if (this.session?.awaitsTransfer && this.migration.ended) this.#answer();
    path.turn();
    if (mesh !== undefined) mesh.wake();
    return count;
  }

  #event(i: number): void {
    const { epoll, device } = this;
    const data = epoll.data(i);
    const kind = data >>> 24;
    const index = data & 0xffffff;
    const events = epoll.events(i);
    switch (kind) {
      case EventKind.control:
        if (index >= KICK_INDEX) device.path.kicked(index - KICK_INDEX);
        else if (index === SESSION) this.#readable();
        else if (index === TRANSFER) this.migration.onEvent(events, epoll.high(i));
        else if (index !== WAKE) this.onControl(index);
        return;
      case EventKind.tcpListener:
      case EventKind.udpListener:
        this.forwarder.onEvent(kind, index, events);
        return;
      default:
        device.path.onSocket(kind, index, epoll.high(i), events);
    }
  }

  #answer(): void {
    if (this.session!.transferEnded(this.migration.check())) return;
    this.#disconnected();
  }

  #readable(): void {
    if (this.session === undefined || this.session.readable()) return;
    this.#disconnected();
  }

  #disconnected(): void {
    this.session = undefined;
    this.onDisconnected();
  }

  /** Ends the session and closes what the guest had. */
  close(): void {
    this.session?.close();
    this.forwarder.close();
  }
}
