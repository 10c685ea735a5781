/** Moves the TCP connections of one scripted world to another, as a migration does. */
import { FLOW_WORDS, FlowKind, FlowWord } from "../../src/flow/table.ts";
import { OwnRepair, type RepairSwitch } from "../../src/repair/switch.ts";
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
  from.path.tcp.discard();
  restore(to, moved, by);
  for (const guest of guests) to.adopt(guest);
  const number = to.path.tcp.thaw(by);
  if (number !== 0) throw new Error(`thaw: ${number}`);
  to.settle();
  return moved;
}
