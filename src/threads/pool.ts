/**
 * The threads of a service with several queue pairs, as the main thread sees them: it has
 * pair 0 itself, and thread `n` has pair `n`.
 */
import { monotonicMs } from "../../ffi/clock.ts";
import { SyscallError } from "../../ffi/errno.ts";
import type { Config } from "../config.ts";
import { StartError } from "../errors.ts";
import { MessageKind } from "../flow/others.ts";
import type { DataPath } from "../flow/datapath.ts";
import { summarize } from "../flow/summary.ts";
import { log } from "../log.ts";
import { Mesh } from "../mesh/mesh.ts";
import { makeShared, type SharedParts } from "../mesh/shared.ts";
import type { Vring } from "../vhost_user/backend.ts";
import type { CaptureOutput } from "../virtio/pcap.ts";
import {
  type Answer,
  type Command,
  Control,
  CONTROL_SIZE,
  type Settings,
} from "./control.ts";
import type { Said, Start } from "./start.ts";

const MAIN = 0;

/** The code of a thread: in the executable it is part of the one bundle. */
function code(): string | URL {
  return Deno.build.standalone
    ? Deno.mainModule
    : new URL("./worker.ts", import.meta.url);
}

/** The threads of further queue pairs, as the first one drives them. */
export class ThreadPool {
  /** The ways between them. */
  readonly mesh: Mesh;
  /** Memory that all of them use. */
  readonly shared: SharedParts;
  /** Takes what other threads capture. */
  capture: CaptureOutput | undefined;
  /** Why a thread has ended that should not have. */
  failure: Error | undefined;
  readonly #workers: Worker[] = [];
  readonly #controls: Control[] = [];
  #path: DataPath | undefined;
  #running = false;
  #fail: (error: Error) => void = () => {};

  /** @param pairs at least two */
  constructor(readonly pairs: number) {
    this.shared = makeShared(pairs);
    this.mesh = new Mesh(MAIN, this.shared);
  }

  /**
   * Loads the code of the threads, for which the rights to read it are needed; to be called
   * before privileges are dropped. Threads have the user of the process, whenever it
   * changes, and no rights of root are left to them then.
   */
  async load(): Promise<void> {
    for (let self = 1; self < this.pairs; self++) {
      const worker = new Worker(code(), { type: "module", name: `pair ${self}` });
      this.#workers.push(worker);
      worker.onerror = (event) => {
        event.preventDefault();
        this.failure = new Error(`thread of queue pair ${self}: ${event.message}`);
        this.#fail(refused(event.message));
      };
    }
    await this.#all("loaded");
  }

  /** Waits until each thread has said something. @throws {StartError} if one cannot */
  #all(said: Said): Promise<unknown> {
    const { promise, reject } = Promise.withResolvers<never>();
    this.#fail = reject;
    const answers = this.#workers.map((worker) =>
      new Promise<void>((resolve) => {
        worker.onmessage = ({ data }: MessageEvent<Said>) => {
          if (data === said) resolve();
          else if (typeof data === "object") reject(refused(data.lacks));
        };
      })
    );
    return Promise.race([promise, Promise.all(answers)]);
  }

  /** Starts the threads; resolves once all of them run. */
  async start(config: Config, path: DataPath): Promise<void> {
    this.#path = path;
    if (path.others !== undefined) {
      path.others.onMessage = (kind, bytes) => this.#message(kind, bytes);
    }
    const { memory } = path;
    const clock = monotonicMs() - performance.now();
    const ready = this.#all("ready");
    for (let self = 1; self < this.pairs; self++) {
      const control = new SharedArrayBuffer(CONTROL_SIZE);
      const start: Start = {
        self,
        config,
        shared: this.shared,
        control,
        memory: { base: memory.base, size: memory.size },
        clock,
      };
      this.#controls.push(new Control(control));
      this.#workers[self - 1].postMessage(start);
    }
    await ready;
    this.#running = true;
    memory.onChange = () => this.askAll({ ask: "memory", map: memory.map });
  }

  #message(kind: number, bytes: Uint8Array): void {
    if (kind === MessageKind.capture) this.capture?.(bytes);
    if (kind !== MessageKind.log) return;
    const [level, text] = JSON.parse(new TextDecoder().decode(bytes));
    log.write(level, text);
  }

  #ask(thread: number, command: Command): Answer {
    return this.#controls[thread - 1].ask(
      command,
      () => this.mesh.rouse(thread),
      () => {
        this.#path?.others?.turn();
        this.mesh.wake();
      },
    );
  }

  /** Asks all of them, and waits for their answers. */
  askAll(command: Command): Answer[] {
    if (!this.#running) return [];
    return this.#controls.map((_, i) => this.#ask(i + 1, command));
  }

  /** @throws {SyscallError} if the frontend's kick cannot be waited for */
  startQueue(ring: Vring, settings: Settings): void {
    const thread = ring.index >> 1;
    const number = this.#ask(thread, { ask: "start", ring: plain(ring), settings });
    if (number !== 0) {
      throw new SyscallError(`watching the kick of ring ${ring.index}`, number as number);
    }
  }
  /** As {@link DataPath.updateQueue}, on the thread of the ring's pair. */
  updateQueue(ring: Vring): void {
    this.#ask(ring.index >> 1, { ask: "update", ring: plain(ring) });
  }
  /** As {@link DataPath.stopQueue}, on the thread of the ring's pair. */
  stopQueue(index: number): number {
    return this.#ask(index >> 1, { ask: "stop", index }) as number;
  }

  /** All flows of a thread come to this one. */
  take(thread: number): void {
    this.#ask(thread, { ask: "give" });
    this.#path?.others?.turn();
  }

  /** All flows of all threads come to this one. */
  takeAll(): void {
    // Twice: one may have been on its way from a later thread to an earlier one.
    for (let i = 0; i < 2; i++) this.askAll({ ask: "give" });
    this.#path?.others?.turn();
  }

  /** All flows end. */
  dropAll(): void {
    for (let i = 0; i < 2; i++) this.askAll({ ask: "drop" });
    this.#path?.others?.turn();
    this.#path?.dropAll();
  }

  /** One line of counters of all threads. */
  summary(): string {
    const sum = { ...this.#path?.counts() };
    for (const counts of this.askAll({ ask: "counts" })) {
      for (const [name, n] of Object.entries(counts as Record<string, number>)) {
        sum[name] = (sum[name] ?? 0) + n;
      }
    }
    return summarize(sum);
  }

  /** Ends all threads. */
  close(): void {
    this.askAll({ ask: "end" });
    this.#running = false;
    for (const worker of this.#workers) worker.terminate();
  }
}

function refused(reason: string): StartError {
  return new StartError(`cannot start a thread for --queues: ${reason}`);
}

/** A ring without what the session keeps for itself. */
function plain(ring: Vring): Vring {
  const { packed, index, size, descOffset, availOffset, usedOffset, baseIndex } = ring;
  const { kickFd, callFd, callWaits, errFd, enabled, usedLogAddress } = ring;
  const place = { packed, index, size, descOffset, availOffset, usedOffset, baseIndex };
  return { ...place, kickFd, callFd, callWaits, errFd, enabled, usedLogAddress };
}
