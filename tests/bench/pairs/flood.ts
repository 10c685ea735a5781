/**
 * A driver's thread that keeps one transmit ring full of the same datagrams: what it does
 * for each is next to nothing, so that the back-end's thread is what is measured.
 */
import { attach } from "../../../ffi/memory.ts";
import { close, eventfdRead, eventfdWrite } from "../../../ffi/event.ts";
import { awaitReady, POLLIN } from "../../../ffi/pipe.ts";

/** Where a ring of `size` entries lies in memory that is mapped in this process. */
export interface Flood {
  readonly base: number;
  readonly length: number;
  readonly size: number;
  readonly availAt: number;
  readonly usedAt: number;
  readonly kick: number;
  readonly call: number;
  /** A double word: datagrams that came back; and a word that ends it all. */
  readonly count: SharedArrayBuffer;
}

/** The chains were offered in order, and come back in order: only indexes move. */
function flood({ base, length, size, availAt, usedAt, kick, call, count }: Flood): void {
  const { buffer } = attach(base, length);
  const avail = new Uint16Array(buffer, availAt, size + 3);
  const used = new Uint16Array(buffer, usedAt, size * 4 + 3);
  const done = new Float64Array(count, 0, 1);
  const end = new Int32Array(count, 8, 1);
  let offered = size;
  let seen = 0;
  let told = 0;
  for (;;) {
    avail[1] = offered;
    Atomics.load(avail, 1);
    const event = Atomics.load(used, 2 + size * 4);
    // vring_need_event() of virtio 1.3, 2.7.10.
    if (((offered - event - 1) & 0xffff) < ((offered - told) & 0xffff)) {
      eventfdWrite(kick);
    }
    told = offered;
    // As a driver whose ring is full: to be called when half of it is free.
    avail[2 + size] = seen + size / 2 - 1;
    while (((Atomics.load(used, 1) - seen) & 0xffff) < size / 2) {
      if (Atomics.load(end, 0) !== 0) return;
      if (awaitReady(call, POLLIN, 100)) eventfdRead(call);
    }
    const free = (Atomics.load(used, 1) - seen) & 0xffff;
    seen = (seen + free) & 0xffff;
    offered = (offered + free) & 0xffff;
    done[0] += free;
  }
}

if ("WorkerGlobalScope" in globalThis) {
  addEventListener("message", (event) => {
    const { data } = event as MessageEvent<Flood>;
    flood(data);
    close(data.kick);
    close(data.call);
    (globalThis as unknown as { postMessage(text: string): void }).postMessage("done");
  });
}
