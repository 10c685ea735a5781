/**
 * A repair helper in a thread of its own, since a vuelo that asks it waits without letting
 * anything else run. It serves one connection after the other, without faults.
 */
import { close } from "../../ffi/event.ts";
import { awaitInput, connectUnix } from "../../ffi/unix_socket.ts";
import { Connection } from "../../src/repair/connection.ts";

/** What the one word of memory that both share says, if it is no descriptor. */
const IDLE = -1;
const END = -2;
const LIMIT_MS = 10_000;

/** The helper as the test has it. */
export class HelperThread {
  readonly #word = new Int32Array(new SharedArrayBuffer(4)).fill(IDLE);
  readonly #worker: Worker;

  private constructor() {
    this.#worker = new Worker(import.meta.url, { type: "module" });
  }

  static async start(): Promise<HelperThread> {
    const thread = new HelperThread();
    const worker = thread.#worker;
    await new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(thread.#word);
    });
    return thread;
  }

  /** Connects, if it is not connected. */
  come(path: string): void {
    if (Atomics.load(this.#word, 0) === IDLE) this.#say(connectUnix(path));
  }

  /** Waits until it has noticed that its connection has ended. */
  gone(): void {
    for (const end = Date.now() + LIMIT_MS;;) {
      const word = Atomics.load(this.#word, 0);
      if (word === IDLE) return;
      if (Date.now() > end) throw new Error("hang: the helper's connection does not end");
      Atomics.wait(this.#word, 0, word, 10);
    }
  }

  #say(word: number): void {
    Atomics.store(this.#word, 0, word);
    Atomics.notify(this.#word, 0);
  }

  end(): void {
    this.#say(END);
    this.#worker.terminate();
  }
}

/** Serves descriptors that the word names, each until its connection ends. */
function serve(word: Int32Array): void {
  for (;;) {
    Atomics.wait(word, 0, IDLE);
    const fd = Atomics.load(word, 0);
    if (fd === END) return;
    if (fd !== IDLE) serveOne(fd);
    Atomics.compareExchange(word, 0, fd, IDLE);
    Atomics.notify(word, 0);
  }
}

function serveOne(fd: number): void {
  const connection = new Connection(fd, "");
  try {
    while (!awaitInput(fd, LIMIT_MS) || connection.serve());
  } catch {
    // What cannot be done is told by hanging up.
  } finally {
    close(fd);
  }
}

if ("WorkerGlobalScope" in globalThis) {
  addEventListener("message", (event) => {
    (globalThis as unknown as { postMessage(said: string): void }).postMessage("ready");
    serve((event as MessageEvent<Int32Array>).data);
  });
}
