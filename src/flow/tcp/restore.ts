/**
 * Makes sockets for connections that were moved here, of which rebuild.ts makes what they
 * were at the source. They stay frozen (freeze.ts) until thaw.ts lets them go: what ends
 * before that ends in silence, and the source goes on.
 */
import { Errno, errno, errnoName } from "../../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  closeFd,
  IPPROTO_TCP,
  openSocket,
  SOCK_STREAM,
} from "../../../ffi/socket.ts";
import { deafen } from "../../../ffi/socket_filter.ts";
import { log } from "../../log.ts";
import type { RepairSwitch } from "../../repair/switch.ts";
import { isIPv4, isLoopback } from "../../wire/address.ts";
import { nameConnection } from "../../wire/state/flow_entry.ts";
import { KernelState, peerHasClosed } from "../../wire/state/kernel_tcp.ts";
import type { MovedTcp } from "../../wire/state/model.ts";
import { isFlow4 } from "../frame_head.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, Side } from "../table.ts";
import { SWITCH_TIMEOUT_MS } from "./freeze.ts";
import { TcpFlow, TcpState, TcpWord } from "./layout.ts";
import { clearState, release } from "./open.ts";
import { familyOf, rebuild } from "./rebuild.ts";
import { Frozen, type TcpShared } from "./shared.ts";

const LARGEST_SCALE = 14;
const LARGEST_PACKET = 65535;
/** What a socket of flow is set up for anew. */
const ANEW = TcpFlow.watching | TcpFlow.grown;

/** How connections are put together again. */
export interface RestoreOptions {
  /** Connections over the host's loopback move as well: for tests within one host. */
  readonly loopback?: boolean;
}

/**
 * Makes the sockets of flows that were moved here, frozen. A connection that cannot be
 * had is lost alone, with a line in the log; its guest is told when all thaws.
 *
 * @param flows by the index that a record has as its flow: the flow whose entry has been
 *   copied from the stream, -1 if there is none
 * @returns 0, or an error number if repair mode cannot be had
 */
export function restoreTcp(
  t: TcpShared,
  records: readonly MovedTcp[],
  flows: ArrayLike<number>,
  repair: RepairSwitch | undefined,
  options: RestoreOptions = {},
): number {
  const { table } = t.context;
  const taken: MovedTcp[] = [];
  const fds: number[] = [];
  for (const record of records) {
    const flow = flows[record.flow] ?? -1;
    if (flow < 0 || table.kind(flow) !== FlowKind.tcp) continue;
    if (t.frozen[flow] !== Frozen.no || !adopt(t, flow, record)) continue;
    const fd = begin(t, flow, record, options);
    if (fd < 0) continue;
    taken.push(record);
    fds.push(fd);
  }
  for (let i = 0; i < flows.length; i++) {
    const flow = flows[i];
    if (flow < 0 || table.kind(flow) !== FlowKind.tcp) continue;
    if (t.frozen[flow] === Frozen.no) release(t, flow); // without a record
  }
  if (fds.length === 0) return 0;
  const number = repair?.switchSockets(fds, true, SWITCH_TIMEOUT_MS) ?? Errno.EPERM;
  if (number !== 0) return number;
  for (let i = 0; i < taken.length; i++) {
    const flow = flows[taken[i].flow];
    const problem = rebuild(t, flow, fds[i], taken[i]);
    if (problem !== "") lose(t, flow, problem);
  }
  return 0;
}

/** Takes an entry of the stream over; false if it is none that makes sense. */
function adopt(t: TcpShared, flow: number, record: MovedTcp): boolean {
  const { table, now } = t.context;
  const { words } = t;
  const at = flow * FLOW_WORDS;
  const state = t.state(flow);
  if (state < TcpState.synAckSent || state > TcpState.established) return false;
  if (findTwin(t, flow)) {
    log.warn(
      `${
        nameConnection(t.words, flow)
      } came twice with the guest: the second one is dropped`,
    );
    return false;
  }
  const counts = words[at + TcpWord.counts];
  const theirs = Math.min(counts & 0xff, LARGEST_SCALE);
  const ours = Math.min((counts >>> 8) & 0xff, LARGEST_SCALE);
  words[at + TcpWord.counts] = theirs | (ours << 8);
  const mss = words[at + TcpWord.mss];
  // With its headers, a segment has to be a packet.
  const most = LARGEST_PACKET - (isFlow4(words, flow) ? 40 : 60);
  if (mss < 1 || mss > most) words[at + TcpWord.mss] = mss < 1 ? 536 : most;
  words[at + FlowWord.fd] = -1;
  t.unmark(flow, ANEW);
  clearState(t, flow);
  t.heardAt[flow] = now - record.idle;
  t.gap[flow] = record.gap;
  t.gapEnd[flow] = record.gapEnd;
  t.recover[flow] = record.recover;
  const flying = words[at + TcpWord.seqToGuest] - words[at + TcpWord.ackFromGuest] | 0;
  if (state === TcpState.established && record.lost === "") {
    const fin = t.has(flow, TcpFlow.finToGuest) ? 1 : 0;
    if (flying < 0 || flying - fin > record.receiveQueue.length) {
      words[at + TcpWord.seqToGuest] = words[at + TcpWord.ackFromGuest];
      t.unmark(flow, TcpFlow.finToGuest);
    }
    if (peerHasClosed(record.state)) t.mark(flow, TcpFlow.peerFin);
  }
  table.insert(flow, Side.guest);
  t.setFrozen(flow, Frozen.kept);
  return true;
}

/** Whether another flow of the guest has the same addresses and ports. */
function findTwin(t: TcpShared, flow: number): boolean {
  const { table } = t.context;
  const at = flow * FLOW_WORDS + FlowWord.guestPorts;
  for (let i = 0; i < 9; i++) table.key[1 + i] = t.words[at + i];
  return table.find(FlowKind.tcp, Side.guest) >= 0;
}

/** A new socket for the flow, deaf; -1 if the connection is lost. */
function begin(
  t: TcpShared,
  flow: number,
  record: MovedTcp,
  options: RestoreOptions,
): number {
  const problem = record.lost !== ""
    ? `the source could not save it: ${record.lost}`
    : contradiction(record) || switchedOff(t, flow) ||
      (options.loopback === true ? "" : ownPeer(t, flow));
  if (problem !== "") {
    lose(t, flow, problem);
    return -1;
  }
  const { bytes } = t.context.table;
  const four = isIPv4(bytes, flow * FLOW_SIZE + FlowWord.hostEndpoint * 4);
  const fd = openSocket(four ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP);
  if (fd === -1) {
    lose(t, flow, `socket: ${errnoName(errno())}`);
    return -1;
  }
  t.words[flow * FLOW_WORDS + FlowWord.fd] = fd;
  t.context.table.ownSocket(flow);
  deafen(fd);
  return fd;
}

/** What is wrong with a record, "" if nothing. */
function contradiction(record: MovedTcp): string {
  switch (record.state) {
    case KernelState.established:
    case KernelState.finWait1:
    case KernelState.finWait2:
    case KernelState.closeWait:
    case KernelState.lastAck:
    case KernelState.closing:
    case KernelState.close:
      break;
    default:
      return `its state is ${record.state}`;
  }
  const { length } = record.sendQueue;
  if (record.notSent > length) {
    return `${record.notSent} of ${length} bytes of its send queue were never sent`;
  }
  return "";
}

/** Why the guest has no such connections here, "" if it may have. */
function switchedOff(t: TcpShared, flow: number): string {
  if (!t.context.config.tcp) return "TCP is switched off here";
  if (familyOf(t, flow) !== undefined) return "";
  return `IPv${isFlow4(t.words, flow) ? 4 : 6} is switched off here`;
}

/** Why a connection ended at the source host itself, "" if it did not. */
function ownPeer(t: TcpShared, flow: number): string {
  const { bytes } = t.context.table;
  const our = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const endpoint = flow * FLOW_SIZE + FlowWord.hostEndpoint * 4;
  let same = true;
  for (let i = 0; i < 16; i++) if (bytes[our + i] !== bytes[endpoint + i]) same = false;
  return same || isLoopback(bytes, endpoint) ? "its peer is the source host itself" : "";
}

/** Gives up a connection that was to be moved; the guest is told when all thaws. */
function lose(t: TcpShared, flow: number, problem: string): void {
  const at = flow * FLOW_WORDS + FlowWord.fd;
  if (t.words[at] !== -1) closeFd(t.words[at]);
  t.words[at] = -1;
  t.letGo(flow);
  t.setFrozen(flow, Frozen.lost);
  log.warn(`${nameConnection(t.words, flow)} is lost: ${problem}`);
}
