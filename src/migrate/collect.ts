/** Entries of the flow table on their way into a stream, and out of one. */
import { noteLocal } from "../flow/datagram_move.ts";
import type { DataPath } from "../flow/datapath.ts";
import { FLOW_WORDS, FlowKind, FlowWord } from "../flow/table.ts";
import { log } from "../log.ts";
import type { MovedDatagramFlow, MovedState } from "../wire/state/model.ts";

/** Saves all flows, which are frozen: their entries in a row, and what belongs to them. */
export function collect(
  path: DataPath,
): Pick<MovedState, "entries" | "tcp" | "udp" | "ping"> {
  const { table } = path;
  const index = new Int32Array(table.limit).fill(-1);
  let count = 0;
  for (let flow = 0; flow < table.limit; flow++) {
    if (table.kind(flow) !== FlowKind.free) index[flow] = count++;
  }
  const tcp = path.tcp.save((flow) => index[flow]);
  const udp: MovedDatagramFlow[] = [];
  const ping: MovedDatagramFlow[] = [];
  const entries = new Int32Array(count * FLOW_WORDS);
  for (let flow = 0; flow < index.length; flow++) {
    if (index[flow] < 0) continue;
    const kind = table.kind(flow);
    const at = flow * FLOW_WORDS;
    const moved = { flow: index[flow], idle: 0 };
    if (kind !== FlowKind.tcp) noteLocal(table.words, at, table.fd(flow));
    if (kind === FlowKind.udp) udp.push({ ...moved, idle: path.udp.idle(flow) });
    if (kind >= FlowKind.ping4) ping.push({ ...moved, idle: path.ping.idle(flow) });
    const to = index[flow] * FLOW_WORDS;
    entries.set(table.words.subarray(at, at + FLOW_WORDS), to);
    entries[to + FlowWord.fd] = -1;
  }
  return { entries, tcp, udp, ping };
}

/**
 * Copies entries of a stream into the flow table.
 *
 * @returns the flow of each entry; -1 where the table is full
 */
export function takeEntries(path: DataPath, entries: Int32Array): Int32Array {
  const { table } = path;
  const flows = new Int32Array(entries.length / FLOW_WORDS).fill(-1);
  for (let i = 0; i < flows.length; i++) {
    const from = i * FLOW_WORDS;
    const flow = table.allocate(entries[from + FlowWord.kind] & 0xff);
    if (flow < 0) {
      log.warn(`the flow table is full: ${flows.length - i} flows are lost`);
      break;
    }
    table.words.set(entries.subarray(from, from + FLOW_WORDS), flow * FLOW_WORDS);
    table.words[flow * FLOW_WORDS + FlowWord.fd] = -1;
    flows[i] = flow;
  }
  return flows;
}
