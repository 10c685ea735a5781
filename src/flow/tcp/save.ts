/** Takes the sockets of frozen flows apart: what MovedTcp holds, read from the kernel. */
import { errno, errnoName } from "../../../ffi/errno.ts";
import {
  getOption,
  IPPROTO_TCP,
  MSG_DONTWAIT,
  MSG_PEEK,
  queueLength,
  setOption,
  SIOCINQ,
  SIOCOUTQ,
  SO_ERROR,
  SO_PEEK_OFF,
  SOL_SOCKET,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_MAXSEG,
} from "../../../ffi/socket.ts";
import {
  boundDevice,
  InfoOption,
  queueSequence,
  readInfo,
  readWindows,
  receiveBytes,
  RepairQueue,
  selectQueue,
  timestamp,
  WindowWord,
  windowWords,
} from "../../../ffi/tcp_repair.ts";
import { finIsOut, KernelState, peerHasClosed } from "../../wire/state/kernel_tcp.ts";
import type { MovedTcp } from "../../wire/state/model.ts";
import { MAX_QUEUE } from "../../wire/state/sections.ts";
import { isFlow4 } from "../frame_head.ts";
import { FlowKind } from "../table.ts";
import { TcpFlow } from "./layout.ts";
import { Frozen, type TcpShared } from "./shared.ts";

const NOTHING: Uint8Array<ArrayBuffer> = new Uint8Array(0);
const SIOCOUTQNSD = 0x894b;
const LARGEST_MSS = 65535;
/** Queues are read into blocks of this size, one after the other. */
const BLOCK = 4 << 20;
/**
 * The send queue may start with bytes that are acknowledged, where a peer acknowledged
 * part of a segment; the kernel copies segments whole.
 */
const SLACK = 65536;

/** Memory for queues: views of large blocks, which cost no copy and no zeroing. */
class Blocks {
  #block: Uint8Array<ArrayBuffer> = NOTHING;
  #used = 0;

  /** Room for `size` bytes, of which {@link keep} says how many stay. */
  room(size: number): Uint8Array<ArrayBuffer> {
    if (size > this.#block.length - this.#used) {
      this.#block = new Uint8Array(Math.max(size, BLOCK));
      this.#used = 0;
    }
    return this.#block.subarray(this.#used, this.#used + size);
  }
  keep(size: number): void {
    this.#used += size;
  }
}

/** A connection cannot be saved; the message says why. */
class Unsaved extends Error {}

/**
 * Saves all frozen flows; their state in the kernel stays as it is. A connection that
 * cannot be saved gets {@link MovedTcp.lost}.
 *
 * @param indexOf the index by which the stream names a flow
 */
export function saveTcp(t: TcpShared, indexOf: (flow: number) => number): MovedTcp[] {
  const { table } = t.context;
  const blocks = new Blocks();
  const saved: MovedTcp[] = [];
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp || t.frozen[flow] === Frozen.no) continue;
    const index = indexOf(flow);
    if (t.frozen[flow] === Frozen.kept) saved.push(saveOne(t, flow, index, blocks));
    else saved.push({ ...EMPTY, flow: index, lost: "it was lost in an earlier move" });
  }
  return saved;
}

function saveOne(t: TcpShared, flow: number, index: number, blocks: Blocks): MovedTcp {
  try {
    return dump(t, flow, index, blocks);
  } catch (error) {
    if (!(error instanceof Unsaved)) throw error;
    return { ...EMPTY, flow: index, lost: error.message };
  }
}

const EMPTY: MovedTcp = {
  flow: 0,
  lost: "",
  state: 0,
  options: 0,
  sendScale: 0,
  receiveScale: 0,
  sendSequence: 0,
  receiveSequence: 0,
  notSent: 0,
  mss: 0,
  timestamp: 0,
  sndWl1: 0,
  sndWnd: 0,
  maxWindow: 0,
  rcvWnd: 0,
  rcvWup: 0,
  keepIdle: 0,
  keepInterval: 0,
  keepCount: 0,
  device: "",
  idle: 0,
  gap: 0,
  gapEnd: 0,
  recover: 0,
  sendQueue: NOTHING,
  receiveQueue: NOTHING,
};

/** A reader takes no more than this for a queue, and refuses the whole guest. */
function limit(queue: string, length: number): void {
  if (length <= MAX_QUEUE) return;
  throw new Unsaved(`its ${queue} queue has more than ${MAX_QUEUE} bytes`);
}

function refuse(call: string): never {
  throw new Unsaved(`${call}: ${errnoName(errno())}`);
}

function dump(t: TcpShared, flow: number, index: number, blocks: Blocks): MovedTcp {
  const fd = t.context.table.fd(flow);
  const info = readInfo(fd);
  if (info === undefined) refuse("TCP_INFO");
  const kernelState = info.state;
  const idle = info.unacked === 0 && info.notSent === 0;
  const { options, sendScale, receiveScale } = info;
  if (kernelState === KernelState.close) checkClosed(t, flow, fd);
  const mss = getOption(fd, IPPROTO_TCP, TCP_MAXSEG, 0);
  if (mss < 1 || mss > LARGEST_MSS) throw new Unsaved(`its segments have ${mss} bytes`);
  const clock = (options & InfoOption.timestamps) !== 0 ? timestamp(fd) : 0;
  // The peer would drop what comes with another clock than before.
  if (clock === -1) refuse("TCP_TIMESTAMP");
  if (!readWindows(fd)) refuse("TCP_REPAIR_WINDOW");
  const sndWl1 = windowWords[WindowWord.sndWl1];
  const sndWnd = windowWords[WindowWord.sndWnd];
  const maxWindow = windowWords[WindowWord.maxWindow];
  const rcvWnd = windowWords[WindowWord.rcvWnd];
  const rcvWup = windowWords[WindowWord.rcvWup];
  const state = stateOf(t, flow, kernelState);
  const receive = dumpReceive(t, flow, fd, state, blocks);
  const send = dumpSend(t, flow, fd, kernelState, idle, blocks);
  const alive = t.has(flow, TcpFlow.keepAlive);
  return {
    flow: index,
    lost: "",
    state,
    options: options & 7,
    sendScale,
    receiveScale,
    sendSequence: send.sequence,
    receiveSequence: receive.sequence,
    notSent: send.notSent,
    mss,
    timestamp: clock,
    sndWl1,
    sndWnd,
    maxWindow,
    rcvWnd,
    rcvWup,
    keepIdle: alive ? getOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 0) : 0,
    keepInterval: alive ? getOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 0) : 0,
    keepCount: alive ? getOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 0) : 0,
    device: boundDevice(fd),
    idle: Math.max(0, Math.round(t.context.now - t.heardAt[flow])),
    gap: t.gap[flow],
    gapEnd: t.gapEnd[flow],
    recover: t.recover[flow],
    sendQueue: send.queue,
    receiveQueue: receive.queue,
  };
}

/**
 * A socket that failed gives its guest what had come before, and then RST; as it would
 * have if its event had come first.
 */
function checkClosed(t: TcpShared, flow: number, fd: number): void {
  const number = getOption(fd, SOL_SOCKET, SO_ERROR, 0);
  if (number === 0 && t.has(flow, TcpFlow.guestFin)) return;
  t.mark(flow, TcpFlow.failed | TcpFlow.readable);
}

/**
 * The state as peers see it. A socket that was moved before may not know in the kernel
 * that its peer's FIN came (rebuild.ts), nor of a FIN of the guest that waits in the
 * backlog.
 */
function stateOf(t: TcpShared, flow: number, kernel: number): number {
  const finDue = t.backlogs.get(flow)?.fin === true;
  const early = t.has(flow, TcpFlow.guestFin) && finDue;
  const peer = t.peerClosed[flow] !== 0;
  switch (kernel) {
    case KernelState.established:
      if (peer) return early ? KernelState.lastAck : KernelState.closeWait;
      return early ? KernelState.finWait1 : kernel;
    case KernelState.closeWait:
      return early ? KernelState.lastAck : kernel;
    case KernelState.finWait1:
      return peer ? KernelState.lastAck : kernel;
    case KernelState.finWait2:
      return peer ? KernelState.close : kernel;
    case KernelState.lastAck:
    case KernelState.closing:
    case KernelState.close:
      return kernel;
    default:
      throw new Unsaved(`its socket is in state ${kernel}`);
  }
}

interface Queue {
  readonly queue: Uint8Array<ArrayBuffer>;
  readonly sequence: number;
}

/**
 * Comes last: while the send queue is selected the kernel puts nothing new on the wire.
 * Before that, timers and the network card may make it send what it had queued, and the
 * target must not take for unsent what the peer may have.
 */
function dumpSend(
  t: TcpShared,
  flow: number,
  fd: number,
  state: number,
  idle: boolean,
  blocks: Blocks,
): Queue & { readonly notSent: number } {
  if (selectQueue(fd, RepairQueue.send) === -1) refuse("TCP_REPAIR_QUEUE");
  // What is idle stays so: nobody writes, and nothing that comes is let in.
  const empty = idle || state === KernelState.close;
  let notSent = empty ? 0 : queueLength(fd, SIOCOUTQNSD);
  const end = queueSequence(fd);
  const counted = empty ? 0 : queueLength(fd, SIOCOUTQ);
  if (end < 0 || counted < 0 || notSent < 0) refuse("TCP_QUEUE_SEQ and SIOCOUTQ");
  const fin = finIsOut(state) && counted > 0 ? 1 : 0;
  const backlog = t.backlogs.get(flow);
  limit("send", counted - fin + (backlog?.bytes.length ?? 0));
  let queue = peekSend(fd, counted - fin, blocks);
  notSent = Math.min(Math.max(0, notSent - fin), queue.length);
  if (backlog !== undefined) {
    const rest = backlog.bytes;
    const whole = new Uint8Array(queue.length + rest.length);
    whole.set(queue);
    whole.set(rest, queue.length);
    queue = whole;
    notSent += rest.length;
  }
  return { queue, notSent, sequence: (end - counted) >>> 0 };
}

/** Reads the send queue, which the kernel copies in one go or not at all. */
function peekSend(fd: number, length: number, blocks: Blocks): Uint8Array<ArrayBuffer> {
  if (length === 0) return NOTHING;
  const room = blocks.room(length + SLACK);
  const got = receiveBytes(fd, room, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0) refuse("recv of the send queue");
  if (got < length) throw new Unsaved(`${got} of ${length} bytes of its send queue`);
  blocks.keep(got);
  return room.subarray(got - length, got);
}

function dumpReceive(
  t: TcpShared,
  flow: number,
  fd: number,
  state: number,
  blocks: Blocks,
): Queue {
  if (selectQueue(fd, RepairQueue.receive) === -1) refuse("TCP_REPAIR_QUEUE");
  const end = queueSequence(fd);
  if (end < 0) refuse("TCP_QUEUE_SEQ");
  const length = queueLength(fd, SIOCINQ);
  if (length < 0) refuse("SIOCINQ");
  limit("receive", length);
  const fin = peerHasClosed(state) ? 1 : 0;
  const sequence = (end - length - fin) >>> 0;
  if (length === 0) return { queue: NOTHING, sequence };
  const four = isFlow4(t.words, flow);
  const offset = four ? t.peekOffset4 : t.peekOffset6;
  if (offset) setOption(fd, SOL_SOCKET, SO_PEEK_OFF, 0);
  const room = blocks.room(length);
  let got = 0;
  while (got < length) {
    // A read ends before urgent data; the next one goes on there.
    const more = receiveBytes(fd, room.subarray(got), MSG_PEEK | MSG_DONTWAIT);
    if (more < 0) refuse("recv of the receive queue");
    if (more === 0 || !offset) {
      got += more;
      break;
    }
    got += more;
  }
  if (got < length) throw new Unsaved(`${got} of ${length} bytes of its receive queue`);
  blocks.keep(length);
  // What the guest has acknowledged, and could not be dropped in repair mode.
  const done = Math.min(t.undropped[flow], length);
  return { queue: room.subarray(done), sequence: (sequence + done) >>> 0 };
}
