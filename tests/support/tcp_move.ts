/** Moves the TCP connections of one scripted world to another, as a migration does. */
import { errno } from "../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  closeFd,
  IPPROTO_TCP,
  listenSocket,
  openSocket,
  SOCK_STREAM,
} from "../../ffi/socket.ts";
import { deafen } from "../../ffi/socket_filter.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord } from "../../src/flow/table.ts";
import { TcpWord } from "../../src/flow/tcp/layout.ts";
import { OwnRepair, type RepairSwitch } from "../../src/repair/switch.ts";
import { isIPv4, isLinkLocal } from "../../src/wire/address.ts";
import type { MovedTcp } from "../../src/wire/state/model.ts";
import type { ScriptedGuest, TcpWorld } from "./tcp_world.ts";

/** Connections on their way. */
export interface Moved {
  readonly entries: Int32Array;
  readonly records: MovedTcp[];
}

export const repair: RepairSwitch = new OwnRepair();

/** Freezes and saves all connections of a world. */
export function save(world: TcpWorld, by = repair): Moved {
  const { tcp, table } = world.path;
  const number = tcp.freeze(by);
  if (number !== 0) throw new Error(`freeze: ${number}`);
  const entries: number[] = [];
  const index = new Map<number, number>();
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.tcp) continue;
    index.set(flow, index.size);
    const at = flow * FLOW_WORDS;
    const words = table.words.slice(at, at + FLOW_WORDS);
    words[FlowWord.fd] = -1;
    entries.push(...words);
  }
  const records = tcp.save((flow) => index.get(flow)!);
  return { entries: Int32Array.from(entries), records };
}

/** Sockets that stand in for those that have gone, see {@link leave}. */
const guards: number[] = [];

/**
 * Closes the frozen connections of a world, as on another host. Here what their peers
 * send before they are restored would be answered with RST: it is dropped.
 */
export function leave(world: TcpWorld): void {
  const { tcp, table } = world.path;
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) === FlowKind.tcp) guard(world, flow);
  }
  tcp.discard();
}

/** Opens a deaf listening socket for the address and port of a connection. */
function guard({ path: { table } }: TcpWorld, flow: number): void {
  const address = flow * FLOW_SIZE + FlowWord.hostOur * 4;
  const port = table.words[flow * FLOW_WORDS + FlowWord.hostPorts] >>> 16;
  const family = isIPv4(table.bytes, address) ? AF_INET : AF_INET6;
  const fd = openSocket(family, SOCK_STREAM, IPPROTO_TCP);
  guards.push(fd);
  repair.switchSockets([fd], true); // the port is in use
  deafen(fd);
  const scope = isLinkLocal(table.bytes, address)
    ? table.words[flow * FLOW_WORDS + TcpWord.scope]
    : 0;
  if (bindSocket(fd, table.bytes, address, port, scope) + listenSocket(fd, 1) !== 0) {
    throw new Error(`no guard at port ${port}: ${errno()}`);
  }
}

/** Makes the connections in another world, where they stay frozen. */
export function restore(world: TcpWorld, moved: Moved, by = repair): void {
  const { tcp, table } = world.path;
  const flows: number[] = [];
  for (let at = 0; at < moved.entries.length; at += FLOW_WORDS) {
    const flow = table.allocate(FlowKind.tcp);
    table.words.set(moved.entries.subarray(at, at + FLOW_WORDS), flow * FLOW_WORDS);
    flows.push(flow);
  }
  const number = tcp.restore(moved.records, flows, by, { loopback: true });
  for (const fd of guards.splice(0)) closeFd(fd);
  if (number !== 0) throw new Error(`restore: ${number}`);
}

/** All of it: `guests` go on in the world `to`. Returns what was moved. */
export function move(
  from: TcpWorld,
  to: TcpWorld,
  guests: readonly ScriptedGuest[],
  by = repair,
): Moved {
  from.settle();
  const moved = save(from, by);
  leave(from);
  restore(to, moved, by);
  for (const guest of guests) to.adopt(guest);
  const number = to.path.tcp.thaw(by);
  if (number !== 0) throw new Error(`thaw: ${number}`);
  to.settle();
  return moved;
}
