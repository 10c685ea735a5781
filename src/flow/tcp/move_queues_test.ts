import { assert, assertEquals } from "@std/assert";
import { concat, equals } from "@std/bytes";
import {
  getOption,
  IPPROTO_TCP,
  queueLength,
  setOption,
  SIOCOUTQ,
  SO_KEEPALIVE,
  SO_RCVBUF,
  SOL_SOCKET,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
} from "../../../ffi/socket.ts";
import { RepairQueue, selectQueue, setAgreed } from "../../../ffi/tcp_repair.ts";
import { deafen, undeafen } from "../../../ffi/socket_filter.ts";
import type { HostTcp } from "../../../tests/support/host_tcp.ts";
import { leave, move, restore, save } from "../../../tests/support/tcp_move.ts";
import {
  pattern,
  type ScriptedGuest,
  type TcpWorld,
} from "../../../tests/support/tcp_world.ts";
import { inWorlds, readAll } from "../../../tests/support/two_worlds.ts";
import { errno } from "../../../ffi/errno.ts";
import type { RepairSwitch } from "../../repair/switch.ts";
import { MAX_QUEUE } from "../../wire/state/sections.ts";

const TCP_REPAIR = 19;
const TCP_REPAIR_QUEUE = 20;

/** What passt-repair does: nothing but to switch. */
const plain: RepairSwitch = {
  available: true,
  switchSockets(fds, on) {
    for (let i = 0; i < fds.length; i++) {
      if (setOption(fds[i], IPPROTO_TCP, TCP_REPAIR, on ? 1 : 0) === -1) return errno();
    }
    return 0;
  },
  describe: () => "plain",
};

/** Sends to the peer until the socket takes no more; returns how many bytes it has. */
function fill(world: TcpWorld, guest: ScriptedGuest, data: Uint8Array, from = 0): number {
  const piece = 48_000;
  let acknowledged = from;
  for (let at = from; at < data.length;) {
    guest.in("A", { seq: at + 1, data: data.subarray(at, at + piece) });
    const taken =
      (world.path.table.words[world.flowOf(guest) * 32 + 23] - guest.isn - 1) |
      0;
    if (taken === at) break;
    at = acknowledged = taken;
  }
  guest.next = acknowledged + 1;
  return acknowledged;
}

inWorlds("while it is saved a socket sends nothing new", (source) => {
  const { guest, host } = source.connect();
  const fd = source.path.table.fd(source.flowOf(guest));
  save(source);
  // The kernel's timers put what waits on the wire, unless this is the selected queue.
  assertEquals(getOption(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE), RepairQueue.send);
  source.path.tcp.discard();
  host.reset();
});

inWorlds("more than a new socket's buffer was never sent (D4)", (source, target) => {
  const listener = source.listen(undefined, 8192);
  const { guest, host } = source.connect({ listener, scale: 7 });
  const data = pattern(6_000_000);
  const taken = fill(source, guest, data);
  assert(taken > 2_000_000, `${taken}`);
  const [record] = move(source, target, [guest], plain).records;
  assert(record.notSent > 2_000_000 - 100_000, `${record.notSent}`);
  const fd = target.path.table.fd(target.flowOf(guest));
  const queued = queueLength(fd, SIOCOUTQ);
  assert(queued < record.sendQueue.length, `${queued} all fits`);
  // What comes next waits behind what is held back, FIN included.
  guest.in("FA", { data: pattern(10, 1) });
  // And back again, with what is still held back when the peer has read some.
  const first = readAll(target, host, 50_000);
  const [again] = move(target, source, [guest], plain).records;
  const acknowledged = (again.sendSequence - record.sendSequence) >>> 0;
  assert(equals(again.sendQueue, record.sendQueue.subarray(acknowledged)), "other data");
  assert(
    acknowledged > 0 && again.notSent > 1_000_000,
    `${acknowledged}, ${again.notSent}`,
  );
  const rest = readAll(source, host, taken - first.length);
  const got = concat([first, rest]);
  assertEquals(got.length, taken);
  assert(got.every((byte, i) => byte === data[i]), "data differs");
  source.until("acknowledgement", () => guest.last!.ack === guest.isn + taken + 1);
  guest.next = taken + 1;
  guest.in("A", { data: pattern(10, 1) });
  assertEquals(readAll(source, host, 10), pattern(10, 1));
  guest.finish(host);
});

inWorlds("what no stream can carry is lost alone", (source, target) => {
  const [long, small] = [source.connect(), source.connect()];
  source.settle();
  const moved = save(source);
  leave(source);
  const sendQueue = new Uint8Array(MAX_QUEUE + 1);
  moved.records[0] = { ...moved.records[0], sendQueue, notSent: sendQueue.length };
  restore(target, moved, plain);
  // The kernel takes any agreed segment size in repair mode.
  const fd = target.path.table.fd(target.flowOf(small.guest));
  assertEquals(setAgreed(fd, 7, 0, 7, 7), 0);
  const lost = target.path.tcp.save((flow) => flow).map((record) => record.lost);
  assertEquals(lost, [
    `its send queue has more than ${MAX_QUEUE} bytes`,
    "its segments have 0 bytes",
  ]);
  target.path.tcp.discard();
  for (const { host } of [long, small]) host.reset();
});

inWorlds("a guest's FIN behind unsent data follows it", (source, target) => {
  const listener = source.listen(undefined, 8192);
  const { guest, host } = source.connect({ listener, scale: 7 });
  const data = pattern(3_000_000);
  const taken = fill(source, guest, data);
  guest.in("FA");
  for (const [from, to] of [[source, target], [target, source]]) {
    const [record] = move(from, to, [guest], plain).records;
    assertEquals([record.state, record.lost], [4, ""]);
  }
  const got = readAll(source, host, taken);
  assert(got.every((byte, i) => byte === data[i]), "data differs");
  source.until("FIN", () => host.receive() === "end");
  source.until("acknowledgement", () => guest.last!.ack === guest.isn + guest.next);
  guest.finish(host);
});

inWorlds(
  "sent but not acknowledged: beyond the buffer of a new socket",
  (source, target) => {
    const listener = source.listen(undefined, 4_000_000);
    const { guest, host } = source.connect({ listener, scale: 7 });
    const first = pattern(4_000_000);
    let at = 0;
    for (let round = 0; round < 20; round++) { // so that the kernel sends more at once
      const taken = fill(source, guest, first.subarray(0, 2_000_000), at);
      readAll(source, host, taken - at);
      at = taken;
      guest.isn += at;
      guest.next = 1;
      at = 0;
    }
    deafen(host.fd);
    const taken = fill(source, guest, first);
    const [record] = move(source, target, [guest], plain).records;
    const sent = record.sendQueue.length - record.notSent;
    assertEquals(record.lost, "");
    assert(sent > 300_000, `${sent} of ${record.sendQueue.length}`);
    undeafen(host.fd);
    const got = readAll(target, host, taken);
    assert(got.every((byte, i) => byte === first[i]), "data differs");
    guest.finish(host);
  },
);

inWorlds("received but not read: megabytes", (source, target) => {
  const { guest, host } = source.connect({ scale: 7 });
  guest.window = 0;
  guest.in("A");
  const data = pattern(5_000_000);
  setOption(source.path.table.fd(source.flowOf(guest)), SOL_SOCKET, SO_RCVBUF, 4 << 20);
  let sent = 0;
  for (let quiet = 0; quiet < 50 && sent < data.length;) {
    const more = host.send(data.subarray(sent, sent + 100_000));
    if (more > 0) sent += more;
    quiet = more > 0 ? 0 : quiet + 1;
    source.turn(2);
  }
  const [record] = move(source, target, [guest], plain).records;
  assert(record.receiveQueue.length > 1_000_000, `${record.receiveQueue.length}`);
  const fd = target.path.table.fd(target.flowOf(guest));
  const after = getOption(fd, SOL_SOCKET, SO_RCVBUF);
  assert(after > record.receiveQueue.length, `${after}`);
  guest.window = 65535;
  guest.in("A");
  while (sent < data.length) {
    const more = host.send(data.subarray(sent, sent + 100_000));
    if (more > 0) sent += more;
    target.turn(1);
    guest.drain();
  }
  target.until("data", () => (guest.drain(), guest.received.length === data.length));
  assert(guest.received.every((byte, i) => byte === data[i]), "data differs");
  guest.finish(host);
});

inWorlds("keep-alive goes on, but not while frozen", (source, target) => {
  const { guest, host } = source.connect();
  guest.in("A", { seq: guest.next - 1 });
  const alive = (world: TcpWorld) => {
    const fd = world.path.table.fd(world.flowOf(guest));
    return [
      getOption(fd, SOL_SOCKET, SO_KEEPALIVE),
      getOption(fd, IPPROTO_TCP, TCP_KEEPIDLE),
      getOption(fd, IPPROTO_TCP, TCP_KEEPINTVL),
    ];
  };
  assertEquals(alive(source), [1, 60, 15]);
  assertEquals(source.path.tcp.freeze(plain), 0);
  assertEquals(alive(source)[0], 0);
  assertEquals(source.path.tcp.thaw(plain), 0);
  assertEquals(alive(source), [1, 60, 15]);
  const [record] = move(source, target, [guest], plain).records;
  assertEquals([record.keepIdle, record.keepInterval], [60, 15]);
  assertEquals(alive(target), [1, 60, 15]);
  guest.finish(host);
});

inWorlds("ten moves there and back", (source, target) => {
  const { guest, host } = source.connect({ scale: 2 });
  let [from, to] = [source, target];
  for (let i = 0; i < 10; i++) {
    guest.in("A", { data: pattern(1000, i) });
    const before = guest.received.length;
    host.send(pattern(2000, i));
    const [record] = move(from, to, [guest]).records;
    assertEquals([record.lost, record.options], ["", 7]);
    assertEquals(readAll(to, host, 1000), pattern(1000, i));
    to.until("data", () => (guest.drain(), guest.received.length === before + 2000));
    assertEquals(Uint8Array.from(guest.received.slice(before)), pattern(2000, i));
    [from, to] = [to, from];
  }
  guest.finish(host);
});

/** Sent and unsent data of a connection whose peer acknowledges nothing for now. */
function stalled(source: TcpWorld): {
  guest: ScriptedGuest;
  host: HostTcp;
  taken: number;
  data: Uint8Array;
} {
  const listener = source.listen(undefined, 4_000_000);
  const { guest, host } = source.connect({ listener, scale: 7 });
  const data = pattern(3_000_000);
  let at = 0;
  for (let round = 0; round < 20; round++) { // until the window is large
    const taken = fill(source, guest, data.subarray(0, at + 100_000), at);
    readAll(source, host, taken - at);
    at = taken;
  }
  deafen(host.fd);
  return { guest, host, data, taken: fill(source, guest, data, at) };
}

for (const sendsOn of [true, false]) {
  const what = sendsOn ? "sends on, as passt's" : "was still, as vuelo's";
  inWorlds(`the socket of a source that ${what}`, (source, target) => {
    const { guest, host, taken, data } = stalled(source);
    const fd = source.path.table.fd(source.flowOf(guest));
    const got: Uint8Array[] = [];
    const read = (world: TcpWorld, until: () => boolean) =>
      world.until("data", () => {
        const more = host.receive();
        if (more instanceof Uint8Array && more.length > 0) got.push(more);
        return until();
      });
    const moved = save(source);
    assertEquals(moved.records[0].lost, "");
    assert(moved.records[0].notSent > 0, "all was sent");
    if (sendsOn) {
      selectQueue(fd, RepairQueue.receive);
      for (const socket of [fd, host.fd]) undeafen(socket);
      read(source, () => queueLength(fd, SIOCOUTQ) === 0);
    }
    leave(source);
    restore(target, { ...moved, records: [{ ...moved.records[0], sendsOn }] });
    if (!sendsOn) undeafen(host.fd);
    target.adopt(guest);
    assertEquals(target.path.tcp.thaw(plain), 0);
    const now = target.path.table.fd(target.flowOf(guest));
    read(target, () => {
      const ack = guest.last!.ack - guest.isn - 1 | 0;
      return ack === taken && queueLength(now, SIOCOUTQ) === 0;
    });
    const rest = got.reduce((sum, part) => sum + part.length, 0);
    let at = taken - rest;
    for (const part of got) {
      assert(part.every((byte, i) => byte === data[at + i]), `data differs at ${at}`);
      at += part.length;
    }
    guest.finish(host);
  });
}
