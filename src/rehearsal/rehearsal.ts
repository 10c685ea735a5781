/**
 * A move that is rehearsed while there is time: while a guest is moved it stands still,
 * and code that runs for the first time, which the engine compiles only then, would make
 * it stand for several times as long. So a guest that is none, in a service like the real
 * one, moves from there to there, with connections of the process with itself.
 */
import { close } from "../../ffi/event.ts";
import { createPipe, readSome, writeSome } from "../../ffi/pipe.ts";
import { closeFd } from "../../ffi/socket.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import type { Config, FamilyConfig } from "../config.ts";
import { GuestService } from "../guest_service.ts";
import { log } from "../log.ts";
import type { RepairSwitch } from "../repair/switch.ts";
import type { SessionLog } from "../vhost_user/backend.ts";
import { GuestMemory } from "../virtio/guest_memory.ts";
import { connectToSelf } from "./connections.ts";
import { DATAGRAM_FLOWS, HOST4, HOST6, openDatagramFlows } from "./datagrams.ts";
import { LOAD, RehearsedFrontend, SAVE } from "./frontend.ts";

const CONNECTIONS = 32;
/** So many that the engine has compiled what a move runs most. */
const ROUNDS = 48;
/** More than any of it has. */
const STATE_SIZE = 1 << 18;
/** More than it takes to move the state through the smallest pipe. */
const TURNS = 100;
const SMALLEST_MEMORY = 2 ** 30;
const NONE: Uint8Array = new Uint8Array(16);
const SILENT: SessionLog = { warn() {}, info() {}, debug() {} };

/** How much has been rehearsed, and what is left. */
export class Rehearsal {
  readonly #config: Config;
  #service: GuestService | undefined;
  /** Rounds to go without connections, and with them, which takes a repair switch. */
  #bare: number;
  #full: number;
  #took = 0;
  /** Why it was given up, "" if it was not. */
  problem = "";

  /** @param rounds of each kind */
  constructor(config: Config, private readonly rounds: number = ROUNDS) {
    this.#bare = this.#full = rounds;
    const { ip6 } = config;
    // The connections are of IPv4, whether or not a guest has that here.
    const ip4 = config.ip4 ?? (ip6 && { ...ip6, address: NONE, prefixLength: 0 });
    const alone = {
      tcp: true,
      queues: 1,
      forwards: [],
      ip4: secluded(ip4, HOST4),
      ip6: secluded(ip6, HOST6),
    };
    this.#config = { ...config, ...alone };
  }

  /** Whether there is something left that can be rehearsed now. */
  wants(repair: RepairSwitch | undefined): boolean {
    return this.#bare > 0 || this.#full > 0 && repair?.available === true;
  }

  /** Rehearses a move once, which takes some milliseconds. */
  round(repair: RepairSwitch | undefined): void {
    const start = performance.now();
    const connections = repair?.available === true ? CONNECTIONS : 0;
    this.#bare--;
    if (connections > 0) this.#full--;
    try {
      this.#service ??= newService(this.#config);
      this.#service.move.repair = repair;
      moveOnce(this.#service, connections);
    } catch (error) {
      // Without memory or descriptors, say: the move itself takes somewhat longer then.
      this.#bare = this.#full = 0;
      this.problem = String(error);
      log.debug(`a move could not be rehearsed: ${error}`);
    }
    const took = performance.now() - start;
    this.#took += took;
    if (this.wants(repair)) return;
    this.#close();
    if (this.problem !== "") return;
    log.debug(
      `a move of ${connections} connections was rehearsed: ${this.#took.toFixed(1)} ms ` +
        `in all, ${took.toFixed(1)} ms for the last of ${this.rounds}`,
    );
  }

  #close(): void {
    this.#service?.close();
    this.#service?.epoll.close();
    this.#service = undefined;
  }
}

/** Without a gateway: nobody outside shall hear of a guest that arrives. */
function secluded(
  family: FamilyConfig | undefined,
  host: Uint8Array,
): FamilyConfig | undefined {
  if (family === undefined) return undefined;
  return { ...family, gateway: NONE, mapHostLoopback: host };
}

function newService(config: Config): GuestService {
  return new GuestService(config, {
    flows: CONNECTIONS + DATAGRAM_FLOWS,
    memory: new GuestMemory(SMALLEST_MEMORY),
    log: SILENT,
    loopback: true,
  });
}

/** The guest leaves, and comes back. */
function moveOnce(service: GuestService, connections: number): void {
  const { path } = service.device;
  const peers: number[] = [];
  try {
    let flows = 0;
    const state = leave(service, () => {
      peers.push(...connectToSelf(path, connections));
      // passt's format carries TCP alone.
      if (path.config.migrateFormat === "vuelo") openDatagramFlows(path);
      flows = path.table.count;
    });
    arrive(service, state, flows);
  } finally {
    path.dropAll();
    for (const fd of peers) closeFd(fd);
  }
}

function leave(service: GuestService, talk: () => void): Uint8Array<ArrayBuffer> {
  const source = new RehearsedFrontend(service);
  try {
    source.enable(true);
    source.start();
    talk();
    source.stop();
    const state = save(service, source);
    if (source.check() !== 0) throw new Error("not saved");
    return state;
  } finally {
    source.close();
  }
}

function save(
  service: GuestService,
  source: RehearsedFrontend,
): Uint8Array<ArrayBuffer> {
  const [reading, writing] = createPipe();
  let accepted = false;
  try {
    setNonBlocking(reading);
    accepted = source.transfer(SAVE, writing);
  } finally {
    close(writing);
    if (!accepted) close(reading);
  }
  if (!accepted) throw new Error("no state to be had");
  try {
    return receiveState(service, reading);
  } finally {
    close(reading);
  }
}

/** Reads a stream while the source writes it. */
function receiveState(service: GuestService, fd: number): Uint8Array<ArrayBuffer> {
  const state = new Uint8Array(STATE_SIZE);
  let filled = 0;
  for (let i = 0; i < TURNS; i++) {
    service.turn(0);
    const count = readSome(fd, state.subarray(filled));
    if (count === 0) return state.subarray(0, filled);
    if (count > 0) filled += count;
  }
  throw new Error("the state does not end");
}

function arrive(
  service: GuestService,
  state: Uint8Array<ArrayBuffer>,
  flows: number,
): void {
  const target = new RehearsedFrontend(service);
  try {
    target.enable(true);
    load(service, target, state);
    const { count } = service.device.path.table;
    if (count < flows) throw new Error(`${count} of ${flows} flows arrived`);
    target.enable(true);
    target.start();
    service.turn(0);
    target.stop();
  } finally {
    target.close();
  }
}

function load(
  service: GuestService,
  target: RehearsedFrontend,
  state: Uint8Array<ArrayBuffer>,
): void {
  const [reading, writing] = createPipe();
  try {
    setNonBlocking(writing);
    const accepted = target.transfer(LOAD, reading);
    if (!accepted) throw new Error("no state is taken");
    for (let i = 0, sent = 0; i < TURNS && sent < state.length; i++) {
      sent += Math.max(0, writeSome(writing, state.subarray(sent)));
      service.turn(0);
    }
  } finally {
    close(reading);
    close(writing);
  }
  service.turn(0);
  // A move that has not ended would be waited for.
  if (!service.migration.ended || target.check() !== 0) throw new Error("not loaded");
}
