import { assertEquals } from "@std/assert";
import { closeFd } from "../../ffi/socket.ts";
import { Mesh } from "../mesh/mesh.ts";
import { makeShared } from "../mesh/shared.ts";
import { MessageKind, Others, type OwnPath } from "./others.ts";
import { FlowKind, FlowTable, Side } from "./table.ts";

/** A thread whose data path looks for the flow, and counts what comes of each frame. */
class Thread {
  readonly table: FlowTable;
  readonly others: Others;
  taken = 0;
  /** Frames of a flow that nobody has: TCP answers with RST. */
  stray = 0;

  constructor(readonly mesh: Mesh, key: Uint32Array<ArrayBuffer>) {
    const table = this.table = new FlowTable(4, key);
    const handler = {
      canHandOver: () => true,
      write: () => 0,
      leave: (flow: number) => {
        table.remove(flow, Side.guest, true);
        table.release(flow, true);
      },
      join: (flow: number) => {
        table.insert(flow, Side.guest, true);
        return true;
      },
      drop: () => {},
    };
    const source = { length: 0, copyWhole: () => {}, lend: () => true, own: () => {} };
    this.others = new Others({
      table,
      source,
      drops: { passing: 0 },
      timers: { due: () => -1 },
      receiving: true,
      flushFlows: () => {},
      fromGuest: () => this.frame(),
      handler: (flow: number) => table.kind(flow) === FlowKind.free ? undefined : handler,
    } as unknown as OwnPath, mesh);
  }

  /** Opens the flow here. */
  open(): number {
    const flow = this.table.admit(FlowKind.tcp, false);
    this.table.insert(flow, Side.guest);
    return flow;
  }

  /** A frame of the flow comes: on this thread's ring, or from another one. */
  frame(): void {
    this.table.key.fill(0);
    if (this.table.find(FlowKind.tcp, Side.guest) >= 0) this.taken++;
    else if (!this.others.elsewhere()) this.stray++;
  }

  /** Passes a frame on without asking whose its flow is. */
  pass(thread: number): void {
    const at = this.mesh.reserve(thread, MessageKind.frame, 8 + 12);
    this.mesh.view.setUint32(at, 1 | this.mesh.self << 8, true);
    this.mesh.send(thread);
  }

  counts(): [number, number] {
    return [this.taken, this.stray];
  }
}

function inThreads(name: string, body: (...threads: Thread[]) => void): void {
  Deno.test(name, () => {
    const shared = makeShared(3);
    const threads = [0, 1, 2].map((self) =>
      new Thread(new Mesh(self, shared), shared.hashKey)
    );
    try {
      body(...threads);
    } finally {
      shared.wakeFds.forEach(closeFd);
    }
  });
}

inThreads("a frame that overtakes its flow on another way waits for it", (a, b, c) => {
  const flow = a.open();
  a.others.handOver(flow, 1);
  c.frame(); // knows whose the flow is now; b looks at what c sends first
  b.others.turn();
  b.others.turn();
  assertEquals([a, b, c].map((thread) => thread.counts()), [[0, 0], [1, 0], [0, 0]]);
});

inThreads("a wrong owner says so, and the frame comes to the right one", (a, b, c) => {
  const hash = a.table.hash(a.open(), Side.guest);
  a.mesh.owners.leave(hash, 0);
  a.mesh.owners.enter(hash, 1); // is found first
  a.mesh.owners.enter(hash, 0);
  for (const thread of [b, c]) thread.frame();
  for (let i = 0; i < 3; i++) for (const thread of [b, c, a]) thread.others.turn();
  assertEquals([a, b, c].map((thread) => thread.counts()), [[2, 0], [0, 0], [0, 0]]);
});

inThreads("a flow that comes while its frame is kept comes first", (a, b, c) => {
  const flow = a.open();
  c.pass(1);
  c.pass(1);
  // b has looked at what a sends, and takes the frames of c.
  let moved = false;
  const { frame } = b;
  b.frame = () => {
    if (!moved) a.others.handOver(flow, 1);
    moved = true;
    frame.call(b);
  };
  for (let i = 0; i < 3; i++) b.others.turn();
  assertEquals([a, b, c].map((thread) => thread.counts()), [[0, 0], [2, 0], [0, 0]]);
});

inThreads("a flow that nobody has is nobody's in the end", (a, b, c) => {
  const flow = a.open();
  a.table.remove(flow, Side.guest, true);
  c.pass(0);
  for (let i = 0; i < 3; i++) for (const thread of [a, b, c]) thread.others.turn();
  assertEquals([a, b, c].map((thread) => thread.counts()), [[0, 1], [0, 0], [0, 0]]);
  b.frame();
  assertEquals(b.counts(), [0, 1], "the others know");
});
