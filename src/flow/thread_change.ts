/** A flow leaves one thread of the data path and joins another: what all kinds share. */
import { eventData, type FlowContext } from "./context.ts";
import { Side } from "./table.ts";

/** Frees a flow's entry here; its socket stays open, for the thread that it goes to. */
export function leaveThread(context: FlowContext, flow: number): void {
  const { table, timers, epoll } = context;
  const fd = table.fd(flow);
  if (fd !== -1) epoll.tryRemove(fd);
  timers.clear(flow);
  table.remove(flow, Side.guest, true);
  table.release(flow, true);
}

/**
 * Takes a flow whose entry is filled in: makes it findable and watches its socket. What
 * waits at the socket makes an event at once, as watching begins.
 *
 * @returns false if the socket cannot be watched
 */
export function joinThread(
  context: FlowContext,
  flow: number,
  kind: number,
  events: number,
): boolean {
  const { table, epoll } = context;
  table.insert(flow, Side.guest, true);
  const data = eventData(kind, flow);
  return epoll.tryAdd(table.fd(flow), events, data, table.generation(flow));
}
