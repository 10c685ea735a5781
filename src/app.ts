/** The running service: what serves a guest, and what lets frontends and helpers in. */
import { SyscallError } from "../ffi/errno.ts";
import { EPOLLIN } from "../ffi/event.ts";
import type { Config } from "./config.ts";
import { eventData, EventKind } from "./flow/context.ts";
import { prepareToCount, socketsFor } from "./host/descriptors.ts";
import { accessOf } from "./host/socket_access.ts";
import { dropPrivileges } from "./host/privileges.ts";
import { StartError } from "./errors.ts";
import {
  FIRST_FREE_INDEX,
  GuestService,
  type GuestServiceOptions,
} from "./guest_service.ts";
import { log } from "./log.ts";
import { confine, type InForce } from "./sandbox/confine.ts";
import { Rehearsal } from "./rehearsal/rehearsal.ts";
import { openRepairLink, type RepairLink } from "./repair/link.ts";
import { canRepair, OwnRepair } from "./repair/switch.ts";
import { openCapture, Pcap } from "./virtio/pcap.ts";
import { NO_FD } from "./vhost_user/backend.ts";
import { Listener } from "./vhost_user/listener.ts";

/** What the caller wants to know of a service that runs. */
export interface Hooks {
  /** The last chance to open something. */
  prepare(): void;
  /** Everything that can fail at start is done; the socket is listening. */
  ready(sandbox: InForce): void;
}

const LISTENER = FIRST_FREE_INDEX;
const REPAIR = FIRST_FREE_INDEX + 1;

/**
 * Signals are noticed when the loop gives way to Deno's: at once where one interrupts
 * the wait, and after this long where it came a moment before.
 */
const LONGEST_WAIT_MS = 1000;
/** After so long without anything to do there is time to rehearse a bit of a move. */
const QUIET_MS = 10;

/** All that one process serves, but for the loop that turns it and for signals. */
export class Service {
  readonly #config: Config;
  /** The guest that is, or will be, served. */
  readonly guest: GuestService;
  readonly #rehearsal: Pick<Rehearsal, "wants" | "round">;
  #repair: RepairLink | undefined;
  #listener: Listener | undefined;
  #served = false;
  #bare = false;
  /** It is to end: its guest has gone, and no other shall come. */
  stopped = false;

  /** @param rehearsal what is done while nothing else happens */
  constructor(
    config: Config,
    options: GuestServiceOptions = {},
    rehearsal: Pick<Rehearsal, "wants" | "round"> = new Rehearsal(config),
  ) {
    this.#config = config;
    this.guest = new GuestService(config, options);
    this.guest.onControl = (index) => {
      if (index === LISTENER) this.#accept();
      else this.#helper();
    };
    this.guest.onDisconnected = () => {
      log.info("frontend disconnected");
      if (config.oneOff || this.#listener === undefined) this.stopped = this.#served;
    };
    this.#rehearsal = rehearsal;
  }

  /** Makes the threads of further queue pairs, while their code may be read. */
  async loadThreads(): Promise<void> {
    await this.guest.device.threads?.load();
  }

  /** Starts them. */
  async startThreads(): Promise<void> {
    const { threads, path } = this.guest.device;
    await threads?.start(this.#config, path);
  }

  /** Why the service cannot go on. */
  get failure(): Error | undefined {
    return this.guest.device.threads?.failure;
  }

  /** Opens all that needs privileges or can fail. @throws {StartError} */
  open(): void {
    const { socketPath, fd } = this.#config;
    if (fd !== undefined) this.#serve(fd);
    else if (socketPath !== undefined) {
      this.#listener = new Listener(socketPath, log, accessOf(this.#config));
      this.#listener.watch(this.guest.epoll, eventData(EventKind.control, LISTENER));
    }
    if (this.#config.pcap !== undefined) this.#capture(this.#config.pcap);
    this.guest.forwarder.open();
    this.#repair = openRepairLink(this.#config);
    this.guest.device.path.bounds.setSockets(socketsFor(this.#config.queues));
    this.#bare = dropPrivileges(this.#config);
    this.#chooseRepair();
  }

  /** Repair mode by a right of its own, else by the helper that may come. */
  #chooseRepair(): void {
    if (this.#repair !== undefined) {
      const data = eventData(EventKind.control, REPAIR);
      this.guest.epoll.add(this.#repair.fd, EPOLLIN, data);
    }
    this.guest.move.repair = canRepair() ? new OwnRepair() : this.#repair;
  }

  /** Gives up all that serving does not need. @throws {StartError} */
  confine(): InForce {
    const { sandbox: mode, socketPath, foreground, logFile } = this.#config;
    const toSyslog = !foreground && logFile === undefined;
    prepareToCount();
    const sockets = [socketPath, this.#repair?.path].filter((path) => path !== undefined);
    return confine({
      mode,
      makers: toSyslog ? ["service", "syslog"] : ["service"],
      sockets,
      capabilities: this.#bare,
      repairs: this.guest.move.repair instanceof OwnRepair,
    });
  }

  #capture(path: string): void {
    const { device } = this.guest;
    try {
      const output = openCapture(path);
      device.path.capture(new Pcap(output, device.memory));
      if (device.threads !== undefined) device.threads.capture = output;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new StartError(`cannot capture to ${path}: ${reason}`);
    }
  }

  #serve(fd: number): void {
    this.guest.serve(fd);
    this.#served = true;
  }

  /** Handles one round of events; true if a signal came in. */
  turn(): boolean {
    const { migration, device, epoll, move, session } = this.guest;
    const { path } = device;
    // With work left over, a turn without events is not a quiet one. Before a frontend has
    // come there is nobody to move, and the memory that it takes is better not taken.
    const idle = session !== undefined && path.table.count === 0 &&
      path.timeout() !== 0 && migration.idle;
    const rehearses = idle && this.#rehearsal.wants(move.repair);
    this.#listener?.turn();
    this.#repair?.turn();
    const count = this.guest.turn(rehearses ? QUIET_MS : LONGEST_WAIT_MS);
    if (rehearses && count === 0) this.#rehearse();
    return epoll.interrupted;
  }

  /** A bit of what would take its time while a guest that moves here stands still. */
  #rehearse(): void {
    const { move, device } = this.guest;
    this.#rehearsal.round(move.repair);
    if (!this.#rehearsal.wants(move.repair)) device.memory.open();
  }

  #accept(): void {
    const { session } = this.guest;
    const present = session !== undefined && !session.over ? session : null;
    const fd = this.#listener?.accept(present) ?? NO_FD;
    if (fd === NO_FD) return;
    try {
      this.#serve(fd);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      return log.warn(`a frontend cannot be served now: ${error.message}`);
    }
    log.info("frontend connected");
  }

  #helper(): void {
    this.#repair?.onReadable();
    if (this.#repair?.available === true) this.guest.migration.helperCame();
  }

  /** Closes all there is, and logs the counters. */
  close(): void {
    this.guest.close();
    this.#listener?.close();
    this.#repair?.close();
    log.info(this.guest.device.summary());
    this.guest.device.threads?.close();
  }
}

/** Does a part of the start, all of whose failures are the operator's to mend. */
export function starting<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw new StartError(`cannot start: ${error.message}`);
  }
}

/**
 * Serves until SIGTERM or SIGINT, or with one-off until the first frontend is gone.
 *
 * @returns exit status
 * @throws {StartError} if something needed cannot be had: a socket path, a port
 */
export async function run(config: Config, hooks: Hooks): Promise<number> {
  const service = starting(() => new Service(config));
  const stop = () => {
    service.stopped = true;
  };
  Deno.addSignalListener("SIGTERM", stop);
  Deno.addSignalListener("SIGINT", stop);
  await service.loadThreads();
  starting(() => service.open());
  await service.startThreads();
  hooks.prepare();
  hooks.ready(service.confine());
  log.limit(config.logRate ?? 0);
  let last = performance.now();
  while (!service.stopped) {
    const signal = service.turn();
    const now = performance.now();
    if (!signal && now - last < LONGEST_WAIT_MS) continue;
    last = now;
    log.tick();
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (service.failure !== undefined) throw service.failure;
  }
  service.close();
  Deno.removeSignalListener("SIGTERM", stop);
  Deno.removeSignalListener("SIGINT", stop);
  return 0;
}
