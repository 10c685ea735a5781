/**
 * A program with one of the faults that the check of addresses is there for, named by its
 * argument; with none it does the same rightly. Says "reached" if it was not ended.
 */
import type { Arena as AnyArena } from "../../ffi/arena.ts";
import { FOLDER, install } from "./install.ts";

const PAGE = 4096;

/** What is done, with `excess` bytes more than there are. */
const FAULTS: Record<string, (excess: number) => Promise<void>> = {
  async iovec(excess) {
    const { iovecs, message, memory, recvmsg } = await parts();
    iovecs.add(memory.base + PAGE - 8, 8 + excess);
    message.setIovecs(0, iovecs.address, 1);
    recvmsg(-1, message.pointer, 0);
  },
  async "second-iovec"(excess) {
    const { iovecs, message, memory, recvmsg } = await parts();
    iovecs.add(memory.base, 8);
    iovecs.add(memory.base, PAGE + excess);
    message.setIovecs(0, iovecs.address, 2);
    recvmsg(-1, message.pointer, 0);
  },
  async "second-message"(excess) {
    const { iovecs, message, memory } = await parts();
    const { sendmmsg } = await import("../../ffi/socket.ts");
    iovecs.add(memory.base, 8);
    message.setIovecs(0, iovecs.address, 1);
    message.setIovecs(1, iovecs.address + excess * 56, 1);
    sendmmsg(-1, message.pointer, 2, 0);
  },
  async name(excess) {
    const { arena, iovecs, message, recvmsg } = await parts();
    message.setIovecs(0, iovecs.address, 0);
    message.setName(0, arena.base + arena.take(32), 32 + excess);
    recvmsg(-1, message.pointer, 0);
  },
  async control(excess) {
    const { arena, iovecs, message, recvmsg } = await parts();
    message.setIovecs(0, iovecs.address, 0);
    message.setControl(0, arena.base + arena.take(32), 32 + excess);
    recvmsg(-1, message.pointer, 0);
  },
  async freed(excess) {
    const { iovecs, message, memory, recvmsg } = await parts();
    const { unmap } = await import("../../ffi/memory.ts");
    if (excess > 0) unmap(memory.base, PAGE);
    iovecs.add(memory.base, 8);
    message.setIovecs(0, iovecs.address, 1);
    recvmsg(-1, message.pointer, 0);
  },
  async "neighbour-of-a-piece"(excess) {
    const { arena } = await parts();
    const { recv } = await import("../../ffi/socket.ts");
    recv(-1, arena.pointer(arena.take(8)), 8 + excess, 0);
  },
  async array(excess) {
    const { readSome } = await import("../../ffi/pipe.ts");
    const bytes = new Uint8Array(8);
    if (excess > 0) Object.defineProperty(bytes, "length", { value: 8 + excess });
    readSome(-1, bytes);
  },
  async "map-over-foreign-memory"(excess) {
    const { memory } = await parts();
    const { mapShared, memfdCreate, PAGE_SIZE } = await import("../../ffi/memory.ts");
    const fd = memfdCreate("test", 2 * PAGE_SIZE);
    const last = memory.base + memory.size - PAGE_SIZE;
    mapShared(last, PAGE_SIZE * (1 + excess), fd, 0);
  },
  async string(excess) {
    const { FolderWatch } = await import("../../ffi/inotify.ts");
    const { encode } = TextEncoder.prototype;
    TextEncoder.prototype.encode = function (text) {
      const bytes = encode.call(this, text);
      return excess > 0 ? bytes.slice(0, -1) : bytes;
    };
    new FolderWatch("/").close();
  },
  thread(excess) {
    const worker = new Worker(import.meta.url, { type: "module" });
    worker.postMessage(excess);
    return new Promise((resolve) => {
      worker.onmessage = () => {
        worker.terminate();
        resolve();
      };
    });
  },
};

/** An arena with an iovec array and a message, and a page of memory such as a guest's. */
async function parts() {
  const { Arena } = await import("../../ffi/arena.ts");
  const { IovecArray, MessageArray } = await import("../../ffi/iovec.ts");
  const { mapShared, memfdCreate, reserve } = await import("../../ffi/memory.ts");
  const { recvmsg } = await import("../../ffi/socket.ts");
  const arena: AnyArena = new Arena(PAGE);
  const memory = reserve(4 * PAGE);
  if (memory === null) throw new Error("no addresses are left");
  mapShared(memory.base, PAGE, memfdCreate("guest", PAGE), 0);
  const iovecs = new IovecArray(arena, 4);
  return { arena, iovecs, message: new MessageArray(arena, 2), memory, recvmsg };
}

if ("WorkerGlobalScope" in globalThis) {
  addEventListener("message", async (event) => {
    await FAULTS.iovec((event as MessageEvent<number>).data);
    (globalThis as unknown as { postMessage(done: boolean): void }).postMessage(true);
  });
} else {
  await install(Deno.env.get(FOLDER) ?? "");
  const [fault, excess] = Deno.args;
  await FAULTS[fault](Number(excess));
  console.log("reached");
}
