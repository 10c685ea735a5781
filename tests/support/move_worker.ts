/**
 * A program for the host's namespace: a scripted guest talks with an echo in the peer's,
 * and moves from one data path to another meanwhile. Prints what was seen as JSON.
 */
import { boundDevice, readInfo } from "../../ffi/tcp_repair.ts";
import type { Config } from "../../src/config.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { IP4, IP6 } from "./flow_config.ts";
import { leave, repair, restore, save } from "./tcp_move.ts";
import { synOptions } from "./tcp_segment.ts";
import { pattern, TcpWorld } from "./tcp_world.ts";

/** What the worker is to do. */
export interface MoveOrders {
  readonly peer: string;
  readonly port: number;
  /** Interface that sockets are bound to. */
  readonly device?: string;
  /** What the target binds sockets to, where that differs. */
  readonly targetDevice?: string;
  /** What the source says its socket was bound to, where that is not true. */
  readonly saysDevice?: string;
  readonly bytes: number;
}
/** What it saw. */
export interface MoveFindings {
  readonly device: string;
  /** What the socket at the target is bound to. */
  readonly boundTo: string;
  /** Option bits of TCP_INFO and segment sizes, before and after. */
  readonly options: readonly number[];
  readonly mss: readonly number[];
  readonly queued: readonly number[];
  readonly lost: string;
}

function boundTo(outboundInterface: string | undefined): Partial<Config> {
  return { ip4: { ...IP4, outboundInterface }, ip6: { ...IP6, outboundInterface } };
}

function work(orders: MoveOrders): MoveFindings {
  const to = parseAddress(orders.peer)!;
  const source = new TcpWorld({ config: boundTo(orders.device) });
  const target = new TcpWorld({
    config: boundTo(orders.targetDevice ?? orders.device),
    memory: new GuestMemory(2 ** 36),
  });
  const six = orders.peer.includes(":");
  const guest = source.guest(orders.port, { six, to });
  guest.in("S", { options: synOptions(six ? 1440 : 1460, 0) });
  source.until("SYN and ACK", () => guest.peerIsn !== undefined);
  guest.in("A");
  const info = (world: TcpWorld) => readInfo(world.path.table.fd(world.flowOf(guest)))!;
  const before = { ...info(source) };
  const data = pattern(orders.bytes);
  let sent = 0;
  const send = (world: TcpWorld) => {
    const ack = guest.last!.ack - guest.isn - 1 | 0;
    sent = Math.max(ack, 0);
    for (let i = 0; i < 20 && sent < data.length; i++, sent += 1000) {
      guest.queue("A", { seq: sent + 1, data: data.subarray(sent, sent + 1000) });
    }
    world.settle();
    guest.in("A", { seq: Math.min(sent, data.length) + 1 });
  };
  source.until("some of the echo", () => {
    send(source);
    return guest.received.length > data.length / 3;
  });
  // The guest stops reading: its peer's host fills up, and then comes to rest.
  guest.window = 0;
  guest.in("A");
  for (let i = 0; i < 20; i++) send(source);
  for (let quiet = 0; quiet < 50;) quiet = source.turn(2) > 0 ? 0 : quiet + 1;
  source.settle();
  const moved = save(source);
  const [record] = moved.records;
  moved.records[0] = { ...record, device: orders.saysDevice ?? record.device };
  leave(source);
  restore(target, moved);
  target.adopt(guest);
  if (target.path.tcp.thaw(repair) !== 0) throw new Error("not thawed");
  target.settle();
  const after = { ...info(target) };
  const bound = boundDevice(target.path.table.fd(target.flowOf(guest)));
  guest.window = 65535;
  target.until("all of the echo", () => {
    send(target);
    return guest.received.length >= data.length;
  });
  if (!guest.received.every((byte, i) => byte === data[i])) throw new Error("other data");
  guest.next = data.length + 1;
  guest.in("FA");
  target.until("FIN", () => (guest.drain(), guest.ended));
  target.until("the flow's end", () => target.flowOf(guest) < 0);
  if (guest.sent.some((segment) => segment.includes("R"))) throw new Error("RST");
  source.close();
  target.close();
  return {
    device: record.device,
    boundTo: bound,
    options: [before.options & 7, after.options & 7],
    mss: [before.sendMss, after.sendMss],
    queued: [record.sendQueue.length, record.receiveQueue.length],
    lost: record.lost,
  };
}

console.log(JSON.stringify(work(JSON.parse(Deno.args[0]))));
