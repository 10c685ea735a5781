/** Frozen flows go on: at the target of a migration, or at its source if that is undone. */
import { Errno, errno } from "../../../ffi/errno.ts";
import {
  setOption,
  SO_KEEPALIVE,
  SO_PEEK_OFF,
  SO_REUSEADDR,
  SOL_SOCKET,
} from "../../../ffi/socket.ts";
import { deafen, undeafen } from "../../../ffi/socket_filter.ts";
import { isInRepair, type RepairSwitch } from "../../repair/switch.ts";
import { eventData, EventKind } from "../context.ts";
import { isFlow4 } from "../frame_head.ts";
import { FLOW_WORDS, FlowKind } from "../table.ts";
import { expectAck, TCP_EVENTS } from "./acknowledge.ts";
import { drainBacklog } from "./backlog.ts";
import { SWITCH_TIMEOUT_MS } from "./freeze.ts";
import { IDLE_MS, PROBE_MS, TcpFlow, TcpState, TcpWord } from "./layout.ts";
import { sendReset } from "./segments.ts";
import { isPending } from "./service.ts";
import { Frozen, PeerClosed, type TcpShared } from "./shared.ts";
import { armRetransmit, dropAcknowledged, inFlight } from "./to_guest.ts";
import { release } from "./open.ts";

/**
 * Takes sockets out of repair mode and goes on. Lost flows are reset as soon as the guest
 * takes segments.
 *
 * @returns 0 if nothing stays frozen, whatever the helper said; else an error number:
 *   then flows whose sockets could not be switched stay so, and this can be called again
 */
export function thawTcp(t: TcpShared, repair: RepairSwitch | undefined): number {
  if (t.frozenCount === 0) return 0;
  const { table } = t.context;
  const flows: number[] = [];
  const fds: number[] = [];
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp) continue;
    if (t.frozen[flow] === Frozen.lost) t.pushReady(flow);
    if (t.frozen[flow] !== Frozen.kept) continue;
    const fd = table.fd(flow);
    // The answer to the probe that follows must be heard.
    if (t.peerClosed[flow] !== PeerClosed.ended && !hears(fd)) {
      t.mark(flow, TcpFlow.failed);
    }
    flows.push(flow);
    fds.push(fd);
  }
  if (fds.length === 0) return 0;
  const number = repair?.switchSockets(fds, false, SWITCH_TIMEOUT_MS) ?? Errno.EPERM;
  let left = 0;
  for (let i = 0; i < fds.length; i++) {
    if (number !== 0 && isInRepair(fds[i])) {
      deafen(fds[i]);
      left++;
    } else goOn(t, flows[i], fds[i]);
  }
  // One that failed may have had nothing left to do.
  return left > 0 ? number : 0;
}

/** Lets a socket hear again; false with errno() if it stays deaf. */
function hears(fd: number): boolean {
  return undeafen(fd) === 0 || errno() === Errno.ENOENT; // it was not deaf
}

/** Connects a flow with its socket again. */
function goOn(t: TcpShared, flow: number, fd: number): void {
  const { epoll, table, timers, now } = t.context;
  t.setFrozen(flow, Frozen.no);
  // Repair mode leaves it cleared, and a listening socket could not have the port.
  setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (t.has(flow, TcpFlow.keepAlive)) setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  if (t.held[flow] !== 0) drainBacklog(t, flow);
  t.unmark(flow, TcpFlow.watching);
  t.sendBuffer[flow] = 0;
  dropAcknowledged(t, flow); // what could not be while in repair mode
  const established = t.state(flow) === TcpState.established;
  if (!setPeekOffset(t, flow, fd)) t.mark(flow, TcpFlow.failed);
  const data = eventData(EventKind.tcp, flow);
  if (!epoll.tryAdd(fd, TCP_EVENTS, data, table.generation(flow))) {
    t.mark(flow, TcpFlow.failed);
  }
  if (!established) {
    armRetransmit(t, flow);
    return;
  }
  const at = flow * FLOW_WORDS;
  const waits = t.has(flow, TcpFlow.unacknowledged) ||
    t.words[at + TcpWord.ackToGuest] !== t.words[at + TcpWord.seqFromGuest];
  t.unmark(flow, TcpFlow.unacknowledged);
  if (waits) expectAck(t, flow);
  if (isPending(t, flow)) armRetransmit(t, flow);
  if (t.has(flow, TcpFlow.ackDue | TcpFlow.failed)) t.pushReady(flow);
  timers.setEarlier(flow, Math.max(t.heardAt[flow] + IDLE_MS, now + PROBE_MS));
}

/** The next peek is to start behind what is under way to the guest; false on failure. */
function setPeekOffset(t: TcpShared, flow: number, fd: number): boolean {
  if (!(isFlow4(t.words, flow) ? t.peekOffset4 : t.peekOffset6)) return true;
  const fin = t.has(flow, TcpFlow.finToGuest) && !t.has(flow, TcpFlow.finToGuestAcked);
  // Before the guest has answered, what is under way is a SYN, and no byte.
  const established = t.state(flow) === TcpState.established;
  const bytes = established ? inFlight(t, flow) - (fin ? 1 : 0) : 0;
  return setOption(fd, SOL_SOCKET, SO_PEEK_OFF, Math.max(0, bytes)) === 0;
}

/** Tells the guest of a connection that was lost on the move. */
export function endLost(t: TcpShared, flow: number): void {
  const { sink } = t.context;
  const before = sink.committed;
  sendReset(t, flow);
  if (sink.committed === before && sink.starved) {
    t.pushReady(flow);
    return;
  }
  t.counters.resets++;
  release(t, flow);
}
