/** A connection goes from one thread of the data path to another, as it is. */
import { Bound } from "../bounds.ts";
import { EventKind } from "../context.ts";
import { FLOW_WORDS, FlowKind } from "../table.ts";
import { joinThread, leaveThread } from "../thread_change.ts";
import { enterPolled, TCP_EVENTS } from "./acknowledge.ts";
import { TcpFlow, TcpState } from "./layout.ts";
import { Frozen, type TcpShared } from "./shared.ts";

/** Everything that is kept of a flow beside its entry, but what a migration adds. */
export function sideState(
  t: TcpShared,
): (Int32Array | Float64Array | Float32Array | Uint8Array)[] {
  return [
    t.sendBuffer,
    t.retransmitAt,
    t.heardAt,
    t.pollAt,
    t.pollDelay,
    t.roundTrip,
    t.sentAt,
    t.undropped,
    t.gap,
    t.gapEnd,
    t.gapAcks,
    t.recover,
    t.urgent,
    t.readHint,
    t.peerClosed,
  ];
}

/** Not while a migration, or its end, is about to do something with it. */
export function canHandOver(t: TcpShared, flow: number): boolean {
  return t.state(flow) === TcpState.established && t.frozen[flow] === Frozen.no &&
    t.held[flow] === 0 && t.lookAt === Infinity;
}

/** Writes a flow's side state as numbers; returns how many. */
export function writeSideState(t: TcpShared, flow: number, to: Float64Array): number {
  const arrays = sideState(t);
  for (let i = 0; i < arrays.length; i++) to[i] = arrays[i][flow];
  return arrays.length;
}

/** Frees a flow that goes to another thread; its socket stays open. */
export function leave(t: TcpShared, flow: number): void {
  leaveThread(t.context, flow);
  // Lists that it may be in are gone through later, and ask for these.
  t.words[flow * FLOW_WORDS] = FlowKind.free;
}

/**
 * Takes over a flow of another thread, whose entry is filled in.
 *
 * @returns false if its socket cannot be watched
 */
export function join(t: TcpShared, flow: number, from: Float64Array): boolean {
  const arrays = sideState(t);
  for (let i = 0; i < arrays.length; i++) arrays[i][flow] = from[i];
  t.unmark(flow, TcpFlow.watching); // to be watched for space anew
  if (!joinThread(t.context, flow, EventKind.tcp, TCP_EVENTS)) return false;
  const { waiting } = t.context.table;
  const state = t.state(flow);
  if (state === TcpState.connecting) waiting.enter(flow, Bound.halfOpen);
  if (state === TcpState.synSent) waiting.enter(flow, Bound.pendingTcp);
  if (t.has(flow, TcpFlow.unacknowledged)) enterPolled(t, flow);
  t.pushReady(flow);
  return true;
}
