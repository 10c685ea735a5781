/** Flows that are held still: before a move, and where a repair helper was too slow. */
import { deafen } from "../../../ffi/socket_filter.ts";
import { setOption, SO_KEEPALIVE, SOL_SOCKET } from "../../../ffi/socket.ts";
import { isInRepair } from "../../repair/switch.ts";
import { noteLocal } from "../datagram_move.ts";
import { FLOW_WORDS, FlowKind, FlowWord } from "../table.ts";
import { TcpFlow } from "./layout.ts";
import { Frozen, type TcpShared } from "./shared.ts";
import { dropAcknowledged } from "./to_guest.ts";

/**
 * A helper that was given up may still switch what it was sent, for about so long; from
 * before the switch, of which the clock does not know how long it took.
 */
const LATE_MS = 40_000;
const LOOK_MS = 1000;

/** Stops the socket of a flow from being watched and from taking anything. */
export function holdStill(t: TcpShared, flow: number): number {
  const { table, epoll } = t.context;
  const fd = table.fd(flow);
  dropAcknowledged(t, flow); // which repair mode refuses
  epoll.tryRemove(fd);
  deafen(fd);
  if (t.has(flow, TcpFlow.keepAlive)) setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
  const at = flow * FLOW_WORDS;
  if (t.words[at + FlowWord.hostPorts] >>> 16 === 0) noteLocal(table.words, at, fd);
  t.setFrozen(flow, Frozen.kept);
  return fd;
}

/**
 * Sockets could not be switched to repair mode: from now on they are looked at, for what
 * the helper may do yet.
 */
export function expectLate(t: TcpShared): void {
  t.lookAt = t.context.now + LOOK_MS;
  t.lateUntil = t.context.now + LATE_MS;
}

/**
 * Holds flows still whose sockets were switched to repair mode after all, in which
 * nothing can be sent or received; to be called often, it looks about once a second.
 *
 * @returns whether there are any, which are to be thawed
 */
export function catchLate(t: TcpShared): boolean {
  const { table, now } = t.context;
  if (now < t.lookAt) return false;
  t.lookAt = now < t.lateUntil ? now + LOOK_MS : Infinity;
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp || t.frozen[flow] !== Frozen.no) continue;
    if (!isInRepair(table.fd(flow))) continue;
    holdStill(t, flow);
  }
  return t.frozenCount > 0;
}

/**
 * Holds a flow still whose socket fails because it was switched late.
 *
 * @returns false if it fails for another reason
 */
export function holdLate(t: TcpShared, flow: number): boolean {
  if (!t.isSwitchedLate(flow)) return false;
  t.unmark(flow, TcpFlow.failed);
  holdStill(t, flow);
  return true;
}
