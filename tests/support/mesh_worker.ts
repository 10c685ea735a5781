/** A thread for tests of what threads share: does one task and says how it went. */
import { OwnerTable } from "../../src/mesh/owners.ts";
import { MessageRing } from "../../src/mesh/ring.ts";

export type Task =
  /** Sends messages whose lengths and bytes follow from `seed`. */
  | {
    do: "send";
    memory: SharedArrayBuffer;
    capacity: number;
    seed: number;
    count: number;
  }
  /** Enters `hashes` as `owner`'s, and takes every other one out again. */
  | { do: "own"; memory: SharedArrayBuffer; owner: number; hashes: number[] };

/** Length and first byte of message `i`; a cheap generator, the same on both sides. */
export function sample(seed: number, i: number, most: number): [number, number] {
  let x = (seed ^ Math.imul(i + 1, 0x9e3779b1)) >>> 0;
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  return [(x >>> 8) % (most + 1), x & 0xff];
}

function send({ memory, capacity, seed, count }: Task & { do: "send" }): void {
  const ring = new MessageRing(memory, 0, capacity);
  const bytes = new Uint8Array(memory);
  for (let i = 0; i < count; i++) {
    const [length, first] = sample(seed, i, capacity >> 2);
    let at = ring.reserve(i, length);
    while (at < 0) at = ring.reserve(i, length);
    for (let b = 0; b < length; b++) bytes[at + b] = first + b;
    ring.commit();
  }
}

function own({ memory, owner, hashes }: Task & { do: "own" }): void {
  const table = new OwnerTable(memory);
  for (const hash of hashes) table.enter(hash, owner);
  hashes.forEach((hash, i) => i % 2 === 1 && table.leave(hash, owner));
}

if ("WorkerGlobalScope" in globalThis) {
  addEventListener("message", (event) => {
    const task = (event as MessageEvent<Task>).data;
    if (task.do === "send") send(task);
    else own(task);
    (globalThis as unknown as { postMessage(text: string): void }).postMessage("done");
  });
}

/** Runs tasks, each on a thread of its own, and `meanwhile` on this one. */
export async function onThreads(
  tasks: readonly Task[],
  meanwhile: () => void = () => {},
): Promise<void> {
  const workers = tasks.map(() => new Worker(import.meta.url, { type: "module" }));
  try {
    const done = workers.map((worker, i) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      worker.onmessage = () => resolve();
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
      worker.postMessage(tasks[i]);
      return promise;
    });
    meanwhile();
    await Promise.all(done);
  } finally {
    for (const worker of workers) worker.terminate();
  }
}
