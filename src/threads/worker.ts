/**
 * A thread of the data path: one queue pair with the flows that belong to it. It runs until
 * the main thread asks it to end, and never gives way to Deno's event loop.
 */
import { monotonicMs } from "../../ffi/clock.ts";
import { SyscallError } from "../../ffi/errno.ts";
import { Epoll, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { forbidNewPrivileges } from "../../ffi/process.ts";
import { eventData, EventKind } from "../flow/context.ts";
import { DataPath, KICK_INDEX } from "../flow/datapath.ts";
import { MessageKind, type Others } from "../flow/others.ts";
import { log } from "../log.ts";
import { Mesh } from "../mesh/mesh.ts";
import { Poller } from "../poll.ts";
import type { Vring } from "../vhost_user/backend.ts";
import { GuestMemory } from "../virtio/guest_memory.ts";
import { Pcap } from "../virtio/pcap.ts";
import { RingReports } from "./broken.ts";
import { type Answer, type Command, Control } from "./control.ts";
import { DEFAULT_LIMITS } from "../config.ts";
import type { Said, Start } from "./start.ts";

const WAKE = 1;
const MAIN = 0;

class Worker {
  readonly #epoll = new Epoll(256);
  readonly #poller: Poller;
  readonly #mesh: Mesh;
  readonly #memory: GuestMemory;
  readonly #path: DataPath;
  readonly #control: Control;
  readonly #rings: (Vring | undefined)[] = [undefined, undefined];
  /** To be added to this thread's clock. */
  readonly #clock: number;
  #over = false;

  constructor(start: Start) {
    const { self, config, shared } = start;
    this.#clock = monotonicMs() - performance.now() - start.clock;
    this.#poller = new Poller(this.#epoll, config.pollMs);
    this.#mesh = new Mesh(self, shared);
    this.#memory = new GuestMemory(start.memory);
    this.#control = new Control(start.control);
    // One thread may have them all: the bounds are of all threads together.
    const { flows } = config.limits ?? DEFAULT_LIMITS;
    const threads = { mesh: this.#mesh, shared };
    this.#path = new DataPath(config, this.#memory, this.#epoll, flows, threads);
    const reports = new RingReports(log);
    this.#path.faults.onBroken = (which) => {
      const ring = this.#rings[which];
      reports.broken(ring?.index ?? which, ring);
    };
    this.#path.faults.onBadChains = (which, count) => {
      const ring = this.#rings[which];
      reports.badChains(ring?.index ?? which, ring, count);
    };
    const wake = eventData(EventKind.control, WAKE);
    this.#epoll.add(this.#mesh.wakeFd, EPOLLIN + EPOLLET, wake);
    const others = this.#path.others as Others;
    const encoder = new TextEncoder();
    log.limit(config.logRate ?? 0);
    log.divert(config.logLevel, (level, message) => {
      const line = encoder.encode(JSON.stringify([level, message]));
      others.send(MAIN, MessageKind.log, line);
    });
    if (config.pcap === undefined) return;
    const drops = this.#path.drops;
    const capture = (record: Uint8Array) => {
      if (!others.send(MAIN, MessageKind.capture, record)) drops.passing++;
    };
    this.#path.capture(new Pcap(capture, this.#memory));
  }

  run(): void {
    while (!this.#over) this.#turn();
  }

  #turn(): void {
    const path = this.#path;
    const mesh = this.#mesh;
    let wait = path.timeout();
    if (wait !== 0 && !mesh.sleep()) wait = 0;
    const moved = path.source.taken + path.sink.committed;
    const count = this.#poller.wait(wait, moved);
    mesh.awake();
    path.now = performance.now() + this.#clock;
    for (let i = 0; i < count; i++) {
      const data = this.#epoll.data(i);
      const kind = data >>> 24;
      const index = data & 0xffffff;
      if (kind !== EventKind.control) {
        path.onSocket(kind, index, this.#epoll.high(i), this.#epoll.events(i));
      } else if (index >= KICK_INDEX) path.kicked(index - KICK_INDEX);
    }
    path.turn();
    if (this.#control.asked) this.#control.answer(this.#serve(this.#control.question()));
    mesh.wake();
  }

  #serve(command: Command): Answer {
    const path = this.#path;
    switch (command.ask) {
      case "memory":
        this.#memory.follow(command.map);
        return null;
      case "start":
        path.setOffloads(command.settings.offloads);
        path.mtu = command.settings.mtu;
        this.#rings[command.ring.index & 1] = command.ring;
        return this.#start(command.ring);
      case "update":
        this.#rings[command.ring.index & 1] = command.ring;
        path.updateQueue(command.ring);
        return null;
      case "stop":
        return path.stopQueue(command.index);
      case "give":
        path.others?.turn();
        path.others?.handOverAll(MAIN);
        return null;
      case "drop":
        path.others?.turn();
        path.dropAll();
        return null;
      case "counts":
        return path.counts();
      case "end":
        this.#over = true;
        return null;
    }
  }

  /** An error number where the frontend's kick cannot be waited for, else 0. */
  #start(ring: Vring): number {
    try {
      this.#path.startQueue(ring);
      return 0;
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      return error.number;
    }
  }
}

const toMain = globalThis as unknown as { postMessage(said: Said): void };

/** Undefined if the host lacks memory or descriptors, which the main thread is told. */
function begin(start: Start): Worker | undefined {
  try {
    forbidNewPrivileges(); // as the main thread did: it is each thread's own
    return new Worker(start);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    toMain.postMessage({ lacks: error.message });
    return undefined;
  }
}

addEventListener("message", (event) => {
  const worker = begin((event as MessageEvent<Start>).data);
  if (worker === undefined) return;
  toMain.postMessage("ready");
  worker.run();
  close();
}, { once: true });
toMain.postMessage("loaded");
