/**
 * A migration holds connections still. A frozen flow's socket is not watched, drops what
 * comes in before TCP sees it (what the kernel does not take it does not acknowledge, and
 * the peer repeats it to whoever goes on), and is in repair mode, in which it can be taken
 * apart and closed without a word to the peer.
 *
 * The kernel's timers go on: data that was under way is sent again by a frozen socket, as
 * it was, until after about a quarter of an hour (net.ipv4.tcp_retries2) the kernel gives
 * up. Keep-alive would end in a reset, so it is off meanwhile.
 */
import { Errno } from "../../../ffi/errno.ts";
import type { RepairSwitch } from "../../repair/switch.ts";
import { FlowKind } from "../table.ts";
import { expectLate, holdStill } from "./hold.ts";
import { TcpState } from "./layout.ts";
import { release, resetBoth } from "./open.ts";
import { Frozen, type TcpShared } from "./shared.ts";
import { thawTcp } from "./thaw.ts";

/** For switching all sockets of a guest. */
export const SWITCH_TIMEOUT_MS = 5000;

/** Flows that a migration has to carry: those whose peer has accepted. */
export function countMovable(t: TcpShared): number {
  const { table } = t.context;
  let count = 0;
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp) continue;
    if (t.state(flow) !== TcpState.connecting) count++;
  }
  return count;
}

/**
 * Freezes all TCP flows. Those whose peer has not accepted yet are released: the guest
 * repeats its SYN, wherever it then runs.
 *
 * @returns 0, or an error number; then everything goes on as before, as far as sockets
 *   could be switched back (else they stay frozen for the next {@link thawTcp})
 */
export function freezeTcp(t: TcpShared, repair: RepairSwitch | undefined): number {
  const { table } = t.context;
  const fds: number[] = [];
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp || t.frozen[flow] !== Frozen.no) continue;
    if (t.state(flow) === TcpState.connecting) {
      release(t, flow);
      continue;
    }
    fds.push(holdStill(t, flow));
  }
  if (fds.length === 0) return 0;
  const number = repair?.switchSockets(fds, true, SWITCH_TIMEOUT_MS) ?? Errno.EPERM;
  if (number !== 0) {
    expectLate(t);
    thawTcp(t, repair);
  }
  return number;
}

/** Closes all frozen sockets, which tells nobody, and frees their flows. */
export function closeFrozenTcp(t: TcpShared): void {
  forFrozen(t, (flow) => release(t, flow));
}

/**
 * Gives up frozen flows that cannot be thawed: the guest is told. Their peers learn when
 * they send: there is no connection any more.
 */
export function resetFrozenTcp(t: TcpShared): void {
  forFrozen(t, (flow) => {
    resetBoth(t, flow);
  });
}

function forFrozen(t: TcpShared, body: (flow: number) => void): void {
  if (t.frozenCount === 0) return;
  const { table } = t.context;
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) === FlowKind.tcp && t.frozen[flow] !== Frozen.no) body(flow);
  }
}
