/** The running service: joins socket, session, device and flows in one loop. */
import { Epoll, EPOLLIN } from "../ffi/event.ts";
import type { Config } from "./config.ts";
import { NetDevice } from "./device.ts";
import { eventData, EventKind } from "./flow/context.ts";
import { KICK_INDEX } from "./flow/datapath.ts";
import { Forwarder } from "./flow/forward.ts";
import { dropPrivileges } from "./host/privileges.ts";
import { StartError } from "./errors.ts";
import { log } from "./log.ts";
import { GuestMove } from "./migrate/guest_move.ts";
import { Migration } from "./migrate/migration.ts";
import { openRepairLink, type RepairLink } from "./repair/link.ts";
import { canRepair, OwnRepair } from "./repair/switch.ts";
import { Pcap } from "./virtio/pcap.ts";
import { NO_FD } from "./vhost_user/backend.ts";
import { Listener } from "./vhost_user/listener.ts";
import { Session } from "./vhost_user/session.ts";

/** What the caller wants to know of a service that runs. */
export interface Hooks {
  /** Everything that can fail at start is done; the socket is listening. */
  ready(): void;
}

/** Indexes of control events that are not kicks. */
const LISTENER = 1;
const SESSION = 2;
const TRANSFER = 3;
const REPAIR = 4;

/**
 * Signals are noticed when the loop gives way to Deno's: at once where one interrupts
 * the wait, and after this long where it came a moment before.
 */
const LONGEST_WAIT_MS = 1000;

class Service {
  readonly #config: Config;
  readonly #epoll = new Epoll(256);
  readonly #device: NetDevice;
  readonly #forwarder: Forwarder;
  readonly #move: GuestMove;
  readonly #migration: Migration;
  #repair: RepairLink | undefined;
  #listener: Listener | undefined;
  #session: Session | undefined;
  #served = false;
  stopped = false;

  constructor(config: Config) {
    this.#config = config;
    this.#device = new NetDevice(config, this.#epoll);
    this.#forwarder = new Forwarder(this.#device.path);
    this.#move = new GuestMove(this.#device.path, this.#forwarder, () => ({
      featuresLo: this.#device.features.lo,
      featuresHi: this.#device.features.hi,
    }));
    const transfer = eventData(EventKind.control, TRANSFER);
    const { migrateFormat } = config;
    this.#migration = new Migration(
      this.#move,
      migrateFormat,
      this.#epoll,
      transfer,
      log,
    );
    this.#device.migration = this.#migration;
    this.#device.onReceiving = (receiving) => {
      if (receiving) this.#forwarder.resume();
      else this.#forwarder.pause();
    };
    this.#device.onGone = () => this.#move.forget();
  }

  /** Opens all that needs privileges or can fail. @throws {StartError} */
  open(): void {
    const { socketPath, fd } = this.#config;
    if (fd !== undefined) this.#serve(fd);
    else if (socketPath !== undefined) {
      this.#listener = new Listener(socketPath, log);
      const data = eventData(EventKind.control, LISTENER);
      this.#epoll.add(this.#listener.fd, EPOLLIN, data);
    }
    if (this.#config.pcap !== undefined) this.#capture(this.#config.pcap);
    this.#forwarder.open();
    this.#repair = openRepairLink(this.#config);
    dropPrivileges(this.#config);
    this.#chooseRepair();
  }

  /** Repair mode by a right of its own, else by the helper that may come. */
  #chooseRepair(): void {
    if (this.#repair !== undefined) {
      const data = eventData(EventKind.control, REPAIR);
      this.#epoll.add(this.#repair.fd, EPOLLIN, data);
    }
    this.#move.repair = canRepair() ? new OwnRepair() : this.#repair;
  }

  #capture(path: string): void {
    try {
      this.#device.path.capture(new Pcap(path, this.#device.memory));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new StartError(`cannot capture to ${path}: ${reason}`);
    }
  }

  #serve(fd: number): void {
    this.#session = new Session(fd, this.#device, log);
    this.#epoll.add(fd, EPOLLIN, eventData(EventKind.control, SESSION));
    this.#served = true;
    this.#move.rehearse(); // the guest is only about to start
  }

  /** Handles one round of events; true if a signal came in. */
  turn(): boolean {
    const { path } = this.#device;
    const longest = Math.min(LONGEST_WAIT_MS, this.#forwarder.timeout());
    const timeout = path.timeout();
    const wait = timeout < 0 || timeout > longest ? longest : timeout;
    const count = this.#epoll.wait(wait);
    path.now = performance.now();
    for (let i = 0; i < count; i++) this.#event(i);
    this.#forwarder.turn();
    this.#migration.tick();
    path.turn();
    return this.#epoll.interrupted;
  }

  #event(i: number): void {
    const data = this.#epoll.data(i);
    const kind = data >>> 24;
    const index = data & 0xffffff;
    const events = this.#epoll.events(i);
    switch (kind) {
      case EventKind.control:
        if (index >= KICK_INDEX) this.#device.path.kicked(index - KICK_INDEX);
        else if (index === LISTENER) this.#accept();
        else if (index === TRANSFER) this.#migration.onEvent(events, this.#epoll.high(i));
        else if (index === REPAIR) this.#helper();
        else this.#readable();
        return;
      case EventKind.tcpListener:
      case EventKind.udpListener:
        this.#forwarder.onEvent(kind, index, events);
        return;
      default:
        this.#device.path.onSocket(kind, index, this.#epoll.high(i), events);
    }
  }

  #accept(): void {
    const present = this.#session !== undefined && !this.#session.over
      ? this.#session
      : null;
    const fd = this.#listener?.accept(present) ?? NO_FD;
    if (fd === NO_FD) return;
    log.info("frontend connected");
    this.#serve(fd);
  }

  #helper(): void {
    this.#repair?.onReadable();
    if (this.#repair?.available !== true) return;
    this.#migration.helperCame();
    if (this.#session !== undefined) this.#move.rehearse();
  }

  #readable(): void {
    if (this.#session === undefined || this.#session.readable()) return;
    this.#session = undefined;
    log.info("frontend disconnected");
    if (this.#config.oneOff || this.#listener === undefined) this.stopped = this.#served;
  }

  close(): void {
    this.#session?.close();
    this.#forwarder.close();
    this.#listener?.close();
    this.#repair?.close();
    log.info(this.#device.path.summary());
  }
}

/**
 * Serves until SIGTERM or SIGINT, or with one-off until the first frontend is gone.
 *
 * @returns exit status
 * @throws {StartError} if something needed cannot be had: a socket path, a port
 */
export async function run(config: Config, hooks: Hooks): Promise<number> {
  const service = new Service(config);
  const stop = () => {
    service.stopped = true;
  };
  Deno.addSignalListener("SIGTERM", stop);
  Deno.addSignalListener("SIGINT", stop);
  service.open();
  hooks.ready();
  let last = performance.now();
  while (!service.stopped) {
    const signal = service.turn();
    const now = performance.now();
    if (!signal && now - last < LONGEST_WAIT_MS) continue;
    last = now;
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  service.close();
  Deno.removeSignalListener("SIGTERM", stop);
  Deno.removeSignalListener("SIGINT", stop);
  return 0;
}
