/**
 * The other threads of the data path. A flow belongs to one thread: to that on whose
 * transmit ring the guest's first packet of it came, or which accepted it. Linux keeps a
 * flow's packets on the ring of the processor where its program runs (XPS), so that frames
 * for it go to the same processor; when the program moves, so does the flow: after some
 * packets that came to another ring, their thread gets the flow.
 *
 * A frame whose flow is another thread's is copied into that thread's memory, and so its
 * buffer goes back to the guest at once: a ring can be stopped and memory unmapped without
 * waiting for anybody.
 */
import { closeFd, resetOnClose } from "../../ffi/socket.ts";
import type { Mesh } from "../mesh/mesh.ts";
import { ENDED } from "../mesh/owners.ts";
import { NET_HEADER_SIZE } from "../virtio/net_header.ts";
import { Bound } from "./bounds.ts";
import type { FlowContext } from "./context.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, Side } from "./table.ts";

/** Kinds of messages between threads. */
export const MessageKind = { frame: 1, flow: 2, log: 3, capture: 4 } as const;

/** Before a passed frame: by how many threads it was passed, and on whose ring it came. */
const FRAME_PREFIX = 8;
const ORIGIN_SHIFT = 8;
/** A frame that was passed on so often chases its flow in vain. */
const MAX_HOPS = 4;
/** Packets of a flow that come to another thread's ring before the flow follows them. */
const STRAYS = 8;
/** Flows that follow their packets in one turn. */
const MOVES = 64;
/** Numbers before those of the flow's kind: when its timer expires, and its hash. */
const NUMBERS = 2;
const MAX_NUMBERS = 64;
/** Handing over all flows waits so long in all for the receiver. */
const PATIENCE_MS = 5000;

/** A flow's handler, as far as flows change threads. */
export interface Transferable {
  canHandOver(flow: number): boolean;
  write(flow: number, to: Float64Array): number;
  leave(flow: number): void;
  join(flow: number, from: Float64Array): boolean;
  drop(flow: number): void;
}

/** The data path of this thread. */
export interface OwnPath extends FlowContext {
  readonly receiving: boolean;
  fromGuest(): void;
  flushFlows(): void;
  handler(flow: number): Transferable | undefined;
}

/** What this thread's data path has to do with those of other threads. */
export class Others {
  /** Frames handled that came to another thread's ring, and flows taken over. */
  readonly counters = { framesTaken: 0, flowsTaken: 0 };
  /** A message of another kind than frames and flows. */
  onMessage: (kind: number, bytes: Uint8Array) => void = () => {};

  /** Of the frame that is handled: 0 for one of this thread's own ring. */
  #hops = 0;
  #origin = 0;
  /** This thread kept it for itself: it comes behind what the others had sent before. */
  #kept = false;
  /** Packets of a flow that came to other rings. */
  readonly #strays: Uint8Array;
  readonly #movers = new Int32Array(MOVES);
  readonly #moveTo = new Int32Array(MOVES);
  #moves = 0;
  readonly #numbers = new Float64Array(NUMBERS + MAX_NUMBERS);
  /** Those of the kind. */
  readonly #side = this.#numbers.subarray(NUMBERS);
  readonly #nap = new Int32Array(new SharedArrayBuffer(4));

  constructor(readonly path: OwnPath, readonly mesh: Mesh) {
    this.#strays = new Uint8Array(path.table.capacity);
    path.table.ownership = {
      enter: (hash) => mesh.owners.enter(hash, mesh.self),
      leave: (hash) => mesh.owners.leave(hash, mesh.self),
      end: (hash) => mesh.owners.end(hash, mesh.self),
      hasEnded: (hash) => mesh.owners.find(hash) === ENDED,
    };
  }

  /** See FlowContext.elsewhere(). */
  elsewhere(): boolean {
    const { mesh, path } = this;
    const hash = path.table.missed;
    let owner = mesh.owners.find(hash);
    // A flow of this thread's that it does not have yet is on its way here: the frame goes
    // behind it. If there is none after all, the table is wrong.
    if (owner === mesh.self && this.#kept) {
      mesh.owners.leave(hash, mesh.self);
      owner = mesh.owners.find(hash);
      if (owner === mesh.self) return false;
    }
    if (owner < 0 || owner === ENDED) return false;
    this.#pass(owner);
    return true;
  }

  #pass(thread: number): void {
    const { mesh, path } = this;
    const { source, drops } = path;
    const length = FRAME_PREFIX + NET_HEADER_SIZE + source.length;
    const at = this.#hops < MAX_HOPS
      ? mesh.reserve(thread, MessageKind.frame, length)
      : -1;
    if (at < 0) {
      drops.passing++;
      return;
    }
    const origin = this.#hops === 0 ? mesh.self : this.#origin;
    mesh.view.setUint32(at, (this.#hops + 1) | (origin << ORIGIN_SHIFT), true);
    source.copyWhole(mesh.bytes, at + FRAME_PREFIX);
    mesh.send(thread);
  }

  /** Handles what others sent; once in each turn, outside of everything else. */
  turn(): void {
    const { mesh, path } = this;
    if (!mesh.waiting) return;
    // Frames that this thread has kept for itself come last: see elsewhere(). Those that it
    // keeps from now on wait for the next turn.
    const kept = mesh.inbox[mesh.self].written;
    for (let thread = 0; thread < mesh.threads; thread++) {
      if (thread !== mesh.self) this.#takeFrom(thread, mesh.inbox[thread].written);
    }
    this.#kept = true;
    this.#takeFrom(mesh.self, kept);
    this.#kept = false;
    path.flushFlows();
    path.source.own();
    for (let i = 0; i < mesh.threads; i++) mesh.inbox[i].release();
    this.#followPackets();
  }

  #takeFrom(thread: number, end: number): void {
    const { mesh } = this;
    const ring = mesh.inbox[thread];
    while (ring.taken !== end && ring.take()) {
      const { kind, at, length } = ring;
      if (kind === MessageKind.frame) this.#takeFrame(at, length);
      else if (kind === MessageKind.flow) this.#takeFlow(at, length);
      else this.onMessage(kind, mesh.bytes.slice(at, at + length));
    }
  }

  #takeFrame(at: number, length: number): void {
    const { mesh, path } = this;
    const { source, table } = path;
    const from = at + FRAME_PREFIX;
    if (!source.lend(mesh.memory, from, length - FRAME_PREFIX)) return;
    const word = mesh.view.getUint32(at, true);
    this.#hops = word & ((1 << ORIGIN_SHIFT) - 1);
    this.#origin = word >>> ORIGIN_SHIFT;
    this.counters.framesTaken++;
    table.forget();
    path.fromGuest();
    this.#hops = 0;
    const flow = table.lastFound;
    if (flow < 0 || this.#origin === mesh.self) return;
    if (++this.#strays[flow] < STRAYS) return;
    this.#strays[flow] = 0;
    if (this.#moves === MOVES) return;
    this.#movers[this.#moves] = flow;
    this.#moveTo[this.#moves++] = this.#origin;
  }

  #followPackets(): void {
    const { path } = this;
    for (let i = 0; i < this.#moves; i++) {
      const flow = this.#movers[i];
      if (!path.receiving || path.handler(flow)?.canHandOver(flow) !== true) continue;
      this.handOver(flow, this.#moveTo[i]);
    }
    this.#moves = 0;
  }

  /**
   * Gives a flow to another thread, which gets it before any frame of it that is passed
   * there from now on.
   *
   * @returns false if there is no room for the message: the flow stays
   */
  handOver(flow: number, thread: number): boolean {
    const { mesh, path } = this;
    const { table, timers } = path;
    const handler = path.handler(flow);
    if (handler === undefined) return true;
    const hash = table.hash(flow, Side.guest);
    this.#numbers[0] = timers.due(flow);
    this.#numbers[1] = hash;
    const size = (NUMBERS + handler.write(flow, this.#side)) * 8;
    const at = mesh.reserve(thread, MessageKind.flow, size + FLOW_SIZE);
    if (at < 0) return false;
    mesh.bytes.set(new Uint8Array(this.#numbers.buffer, 0, size), at);
    const entry = flow * FLOW_SIZE;
    mesh.bytes.set(table.bytes.subarray(entry, entry + FLOW_SIZE), at + size);
    handler.leave(flow);
    mesh.send(thread);
    mesh.owners.move(hash, mesh.self, thread);
    return true;
  }

  /** Gives all flows to another thread, which takes them meanwhile. */
  handOverAll(thread: number): void {
    const { path, mesh } = this;
    const end = performance.now() + PATIENCE_MS;
    for (let flow = 0; flow < path.table.limit; flow++) {
      while (!this.handOver(flow, thread)) {
        if (performance.now() > end) {
          path.handler(flow)?.drop(flow);
          path.drops.passing++;
          break;
        }
        mesh.wake();
        Atomics.wait(this.#nap, 0, 0, 1);
      }
    }
    mesh.wake();
  }

  #takeFlow(at: number, length: number): void {
    const { mesh, path } = this;
    const { table, timers } = path;
    const entry = mesh.bytes.subarray(at + length - FLOW_SIZE, at + length);
    const words = new Int32Array(entry.slice().buffer);
    const numbers = new Float64Array(
      mesh.bytes.slice(at, at + length - FLOW_SIZE).buffer,
    );
    const flow = table.allocate(words[FlowWord.kind] & 0xff, true);
    if (flow < 0) {
      this.#refuse(words, numbers[1]);
      return;
    }
    table.words.set(words, flow * FLOW_WORDS);
    if (words[FlowWord.fd] !== -1) table.ownSocket(flow, true);
    this.#strays[flow] = 0;
    const handler = path.handler(flow);
    if (handler?.join(flow, numbers.subarray(NUMBERS)) !== true) {
      path.drops.socket++;
      handler?.drop(flow);
      return;
    }
    this.counters.flowsTaken++;
    if (numbers[0] >= 0) timers.setEarlier(flow, numbers[0]);
    // This thread's ring was stopped while the flow was on its way.
    if (mesh.self !== 0 && !path.receiving) this.handOver(flow, 0);
  }

  /** The table is full: the flow ends. */
  #refuse(words: Int32Array, hash: number): void {
    const { mesh, path } = this;
    path.drops.flows++;
    mesh.owners.leave(hash, mesh.self);
    const kind = words[FlowWord.kind] & 0xff;
    path.table.bounds.leave(kind);
    const fd = words[FlowWord.fd];
    if (fd === -1) return;
    path.table.bounds.give(Bound.sockets);
    if (kind === FlowKind.tcp) resetOnClose(fd);
    closeFd(fd);
  }

  /** Sends bytes to another thread's {@link onMessage}; false if they have no room. */
  send(thread: number, kind: number, bytes: Uint8Array): boolean {
    const { mesh } = this;
    const at = mesh.reserve(thread, kind, bytes.length);
    if (at < 0) return false;
    mesh.bytes.set(bytes, at);
    mesh.send(thread);
    return true;
  }
}
