/** A worker that writes to the same dirty log as the test that starts it. */
import { mapShared, reserve } from "../../ffi/memory.ts";

/** Bit that this writer sets in each byte; the test takes another. */
export const WRITER_BIT = 1;

interface Scope {
  onmessage: ((event: { data: { fd: number; size: number } }) => void) | null;
  postMessage(message: string): void;
}

if ("WorkerGlobalScope" in globalThis) {
  const scope = globalThis as unknown as Scope;
  scope.onmessage = ({ data: { fd, size } }) => {
    const mapping = reserve(size + 4096);
    if (mapping === null) throw new Error("no addresses for the log");
    mapShared(mapping.base, size + 4096, fd, 0);
    const bytes = new Uint8Array(mapping.buffer);
    scope.postMessage("ready");
    while (Atomics.load(bytes, size) === 0); // the page behind the log is the start signal
    for (let i = 0; i < size; i++) Atomics.or(bytes, i, 1 << WRITER_BIT);
    scope.postMessage("done");
  };
}
