/** What the parts of TCP share: buffers for system calls, and state that is not moved. */
import { Arena } from "../../../ffi/arena.ts";
import { IovecArray, MessageArray } from "../../../ffi/iovec.ts";
import {
  AF_INET,
  AF_INET6,
  supportsBufferLock,
  supportsPeekOffset,
} from "../../../ffi/socket.ts";
import { isInRepair } from "../../repair/switch.ts";
import type { FlowContext } from "../context.ts";
import { SipHash } from "../siphash.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { TcpWord } from "./layout.ts";
import { SpareSockets } from "./spare.ts";

const IOVECS = 1024;
const DISCARD_SIZE = 65536;
/** Bytes for one flow in one turn, for each frame of the budget. */
const TURN_BYTES = 4096;

/** Counters for the log and for tests. */
export interface TcpCounters {
  opened: number;
  accepted: number;
  refused: number;
  resets: number;
  retransmits: number;
  outOfOrder: number;
  blocked: number;
}

/** Whether a flow is held still by a migration; see freeze.ts and restore.ts. */
export const Frozen = {
  no: 0,
  /** Its socket is deaf and, as a rule, in repair mode. */
  kept: 1,
  /** It could not be moved: the guest is to be told. */
  lost: 2,
} as const;

/** Values of {@link TcpShared.peerClosed}. */
export const PeerClosed = {
  no: 0,
  /** The FIN is counted; the kernel does not know. */
  counted: 1,
  /** All is acknowledged both ways: the socket only holds what the guest has to read. */
  ended: 2,
} as const;

/** What the socket of a moved connection has not taken yet; see backlog.ts. */
export interface Backlog {
  /** Bytes of the guest that were acknowledged to it. */
  bytes: Uint8Array<ArrayBuffer>;
  /** The guest's FIN follows them. */
  fin: boolean;
}

/**
 * What all connections of one data path share, and words of each that lie in no table.
 */
export class TcpShared {
  /** Those of FlowTable.words. */
  readonly words: Int32Array;
  /** Payload from the guest on its way to sendmsg. */
  readonly out: IovecArray;
  /** The message that {@link out} is sent as. */
  readonly outMessage: MessageArray;
  /** Receive buffers of the guest on their way to recvmsg. */
  readonly in: IovecArray;
  /** The message that {@link in} is received as. */
  readonly inMessage: MessageArray;
  /** Where bytes are received that nobody wants. */
  readonly discardAddress: number;
  /** MSG_PEEK goes on where the last one ended; tests set these to false. */
  peekOffset4: boolean;
  peekOffset6: boolean;
  /** The kernel has SO_BUF_LOCK (Linux 5.15). */
  readonly bufferLock: boolean;
  /** The guest takes segments larger than its MTU: GUEST_TSO4, GUEST_TSO6. */
  largeReceive4 = false;
  largeReceive6 = false;
  /** Bytes for one flow before others have their turn. */
  readonly turnBytes: number;
  /** Capacity of each frame reserved for one recvmsg. */
  readonly frameRoom = new Int32Array(256);

  /** SO_SNDBUF as last read; when the RTO is due; when the guest was last heard. */
  readonly sendBuffer: Int32Array;
  readonly retransmitAt: Float64Array;
  readonly heardAt: Float64Array;
  /** Next look at SIOCOUTQ, the wait before it, and the time acknowledgements take. */
  readonly pollAt: Float64Array;
  readonly pollDelay: Float32Array;
  readonly roundTrip: Float32Array;
  readonly sentAt: Float64Array;
  /** Bytes that the guest has acknowledged and that are still in the socket. */
  readonly undropped: Int32Array;
  /**
   * 1 while something of the guest is missing, until what came last before that was
   * noticed; where that ended, and duplicate acknowledgements sent for the hole.
   */
  readonly gap: Uint8Array;
  readonly gapEnd: Int32Array;
  readonly gapAcks: Uint8Array;
  /** seqMax when something was last sent again. */
  readonly recover: Int32Array;
  /** Urgent data has come: a read that ends early may have ended before it. */
  readonly urgent: Uint8Array;
  /** Bytes to ask for in the next read of the socket. */
  readonly readHint: Int32Array;
  /** Flows that a migration holds still: {@link Frozen}; and how many there are. */
  readonly frozen: Uint8Array;
  frozenCount = 0;
  /** Next look at what a repair helper switches late, and the last one; see hold.ts. */
  lookAt = Infinity;
  lateUntil = 0;
  /** 1 where the peer's FIN has come, but not to this kernel; see rebuild.ts. */
  readonly peerClosed: Uint8Array;
  /** 1 for flows with a {@link Backlog}, for which the socket counts as full. */
  readonly held: Uint8Array;
  /** By flow. */
  readonly backlogs = new Map<number, Backlog>();

  /** Flows that have something to do without an event: a ring of indexes. */
  readonly ready: Int32Array;
  readonly inReady: Uint8Array;
  readyFirst = 0;
  readyCount = 0;
  /** Flows whose send queue is looked at soon; see acknowledge.ts. */
  readonly polled: Int32Array;
  readonly inPolled: Uint8Array;
  polledCount = 0;

  /** Sockets made ahead of connections. */
  readonly spares: SpareSockets;
  /** What has happened so far. */
  readonly counters: TcpCounters = {
    opened: 0,
    accepted: 0,
    refused: 0,
    resets: 0,
    retransmits: 0,
    outOfOrder: 0,
    blocked: 0,
  };
  readonly #hash: SipHash;
  readonly #tuple = new Uint32Array(10);

  constructor(readonly context: FlowContext) {
    const capacity = context.table.capacity;
    this.words = context.table.words;
    this.turnBytes = context.table.bounds.limits.budget * TURN_BYTES;
    this.spares = new SpareSockets(context.table.bounds);
    this.#hash = new SipHash(context.sequenceKey);
    const arena = new Arena(2 * IOVECS * 16 + 2 * 64 + DISCARD_SIZE + 4096);
    this.out = new IovecArray(arena, IOVECS);
    this.in = new IovecArray(arena, IOVECS);
    this.outMessage = new MessageArray(arena, 1);
    this.inMessage = new MessageArray(arena, 1);
    this.discardAddress = arena.base + arena.take(DISCARD_SIZE);
    this.peekOffset4 = supportsPeekOffset(AF_INET);
    this.peekOffset6 = supportsPeekOffset(AF_INET6);
    this.bufferLock = supportsBufferLock();
    this.sendBuffer = new Int32Array(capacity);
    this.retransmitAt = new Float64Array(capacity);
    this.heardAt = new Float64Array(capacity);
    this.pollAt = new Float64Array(capacity);
    this.pollDelay = new Float32Array(capacity);
    this.roundTrip = new Float32Array(capacity);
    this.sentAt = new Float64Array(capacity);
    this.readHint = new Int32Array(capacity);
    this.undropped = new Int32Array(capacity);
    this.recover = new Int32Array(capacity);
    this.gap = new Uint8Array(capacity);
    this.gapEnd = new Int32Array(capacity);
    this.gapAcks = new Uint8Array(capacity);
    this.urgent = new Uint8Array(capacity);
    this.frozen = new Uint8Array(capacity);
    this.peerClosed = new Uint8Array(capacity);
    this.held = new Uint8Array(capacity);
    this.ready = new Int32Array(capacity);
    this.inReady = new Uint8Array(capacity);
    this.polled = new Int32Array(capacity);
    this.inPolled = new Uint8Array(capacity);
  }

  /** A flow's state, one of TcpState. */
  state(flow: number): number {
    return (this.words[flow * FLOW_WORDS] >>> 8) & 0xff;
  }
  /** Sets a flow's state, one of TcpState. */
  setState(flow: number, state: number): void {
    const at = flow * FLOW_WORDS;
    this.words[at] = (this.words[at] & ~0xff00) | (state << 8);
  }
  /** Whether one of a flow's flags (TcpFlag of layout.ts) is set. */
  has(flow: number, flag: number): boolean {
    return (this.words[flow * FLOW_WORDS] & flag) !== 0;
  }
  /** Sets flags of a flow. */
  mark(flow: number, flag: number): void {
    this.words[flow * FLOW_WORDS] |= flag;
  }
  /** Clears flags of a flow. */
  unmark(flow: number, flag: number): void {
    this.words[flow * FLOW_WORDS] &= ~flag;
  }

  /** Sets whether a flow is held still, one of {@link Frozen}. */
  setFrozen(flow: number, frozen: number): void {
    const before = this.frozen[flow] === Frozen.no ? 0 : 1;
    this.frozen[flow] = frozen;
    this.frozenCount += (frozen === Frozen.no ? 0 : 1) - before;
  }
  /** Whether a flow that is not frozen is in repair mode, by a helper that was late. */
  isSwitchedLate(flow: number): boolean {
    return this.lookAt !== Infinity && isInRepair(this.context.table.fd(flow));
  }
  /** Keeps what a moved flow's socket has yet to take. */
  hold(flow: number, backlog: Backlog): void {
    this.held[flow] = 1;
    this.backlogs.set(flow, backlog);
  }
  /** What a flow's backlog counts for in sequence numbers. */
  heldBytes(flow: number): number {
    const backlog = this.backlogs.get(flow);
    return backlog === undefined ? 0 : backlog.bytes.length + (backlog.fin ? 1 : 0);
  }
  /** Forgets the backlog of a flow. */
  letGo(flow: number): void {
    if (this.held[flow] === 0) return;
    this.held[flow] = 0;
    this.backlogs.delete(flow);
  }

  /** How often something was sent again since the guest last answered. */
  retries(flow: number): number {
    return (this.words[flow * FLOW_WORDS + TcpWord.counts] >>> 16) & 0xff;
  }
  /** Sets {@link retries}, 0 to 255. */
  setRetries(flow: number, retries: number): void {
    const at = flow * FLOW_WORDS + TcpWord.counts;
    this.words[at] = (this.words[at] & ~0xff0000) | (retries << 16);
  }
  /** Appends a flow to the ready ring, once. */
  pushReady(flow: number): void {
    if (this.inReady[flow] !== 0) return;
    this.inReady[flow] = 1;
    let at = this.readyFirst + this.readyCount++;
    if (at >= this.ready.length) at -= this.ready.length;
    this.ready[at] = flow;
  }

  /** Takes the first of the ready ring; only while {@link readyCount} is above 0. */
  takeReady(): number {
    const flow = this.ready[this.readyFirst];
    this.readyFirst = this.readyFirst + 1 === this.ready.length ? 0 : this.readyFirst + 1;
    this.readyCount--;
    this.inReady[flow] = 0;
    return flow;
  }

  /**
   * The initial sequence number towards the guest (RFC 6528): nobody can guess it, and a
   * later connection of the same addresses and ports gets a higher one, so that a guest
   * which still has the last one in TIME-WAIT takes it (RFC 9293, section 3.6.1).
   */
  initialSequence(flow: number): number {
    const at = flow * FLOW_WORDS + FlowWord.guestPorts;
    for (let i = 0; i < 9; i++) this.#tuple[i] = this.words[at + i];
    const clock = Math.floor(this.context.now * 250) | 0;
    return clock + this.#hash.hash(this.#tuple, this.#tuple.length) | 0;
  }
}
