import { assert, assertEquals } from "@std/assert";
import { deafen, undeafen } from "../../../ffi/socket_filter.ts";
import { readInfo } from "../../../ffi/tcp_repair.ts";
import type { HostTcp } from "../../../tests/support/host_tcp.ts";
import { leave, move, restore, save } from "../../../tests/support/tcp_move.ts";
import {
  pattern,
  type ScriptedGuest,
  type TcpWorld,
} from "../../../tests/support/tcp_world.ts";
import {
  awaitEnd,
  inWorlds,
  kernelState,
  readAll,
} from "../../../tests/support/two_worlds.ts";
import { isInRepair } from "../../repair/switch.ts";
import { FLOW_WORDS } from "../table.ts";
import { TcpWord } from "./layout.ts";

for (const six of [false, true]) {
  const family = six ? "IPv6" : "IPv4";
  for (const inbound of [false, true]) {
    const kind = `${family}, ${inbound ? "inbound" : "outbound"}`;
    inWorlds(`an idle connection moves (${kind})`, (source, target) => {
      const { guest, host } = inbound ? source.accept({ six }) : source.connect({ six });
      const moved = move(source, target, [guest]);
      assertEquals(moved.records.map((r) => r.lost), [""]);
      guest.in("A", { data: pattern(1000) });
      assertEquals(readAll(target, host, 1000), pattern(1000));
      target.until("acknowledgement", () => guest.last?.ack === guest.isn + guest.next);
      host.send(pattern(3000));
      target.until("data", () => guest.received.length === 3000);
      assertEquals(Uint8Array.from(guest.received), pattern(3000));
      guest.finish(host);
    });
  }
}

inWorlds("data in every queue moves byte for byte", (source, target) => {
  const listener = source.listen(undefined, 4096);
  const { guest, host } = source.connect({ listener, scale: 7 });
  guest.window = 4;
  host.send(pattern(20_000));
  source.until("data", () => guest.expected > 500);
  // More than the peer's buffer takes: the rest waits in the send queue.
  const out = pattern(60_000, 3);
  for (let at = 0; at < out.length; at += 1000) {
    guest.queue("A", { data: out.subarray(at, at + 1000) });
  }
  source.settle();
  const acked = guest.last!.ack - guest.isn - 1;
  const moved = move(source, target, [guest]);
  const [record] = moved.records;
  assertEquals(record.lost, "");
  assert(record.sendQueue.length > 10_000, `send queue ${record.sendQueue.length}`);
  assert(record.notSent > 0, "all sent");
  guest.window = 65535;
  guest.drain();
  target.until("data", () => (guest.drain(), guest.received.length === 20_000));
  assertEquals(Uint8Array.from(guest.received), pattern(20_000));
  // What was not acknowledged to it the guest sends again, as it would in time.
  const got: number[] = [];
  target.until("the data at the peer", () => {
    const more = host.receive();
    if (more instanceof Uint8Array) got.push(...more);
    const ack = guest.last!.ack - guest.isn - 1;
    assert(ack >= acked, "acknowledgement went back");
    if (ack < out.length && got.length === ack) {
      guest.in("A", { seq: ack + 1, data: out.subarray(ack, ack + 1000) });
    }
    return got.length === out.length;
  });
  assertEquals(Uint8Array.from(got), out);
  guest.finish(host);
});

inWorlds("what the guest has not acknowledged is sent again (D11)", (source, target) => {
  const { guest, host } = source.connect();
  const before = guest.expected;
  host.send(pattern(500));
  source.until("data", () => guest.received.length === 500);
  // The guest did not get it after all.
  guest.received.length = 0;
  guest.expected = before;
  move(source, target, [guest]);
  assertEquals(guest.received, []);
  target.advance(300);
  assertEquals(Uint8Array.from(guest.received), pattern(500));
  guest.finish(host);
});

inWorlds("guest data is acknowledged after the move, too (D1)", (source, target) => {
  const { guest, host } = source.connect();
  guest.in("A", { data: pattern(50_000 % 1400) });
  readAll(source, host, 50_000 % 1400);
  source.settle();
  move(source, target, [guest]);
  for (let i = 0; i < 3; i++) {
    guest.in("A", { data: pattern(1000, i) });
    assertEquals(readAll(target, host, 1000), pattern(1000, i));
    target.until("acknowledgement", () => guest.last?.ack === guest.isn + guest.next);
  }
  guest.finish(host);
});

for (const six of [false, true]) {
  inWorlds(
    `the segment size is the connection's, not 536 (D5, ${six ? "IPv6" : "IPv4"})`,
    (source, target) => {
      const { guest, host } = source.connect({ six });
      const before = readInfo(source.path.table.fd(source.flowOf(guest)))!.sendMss;
      move(source, target, [guest]);
      const fd = target.path.table.fd(target.flowOf(guest));
      // Half the largest window of the peer, on loopback.
      const after = readInfo(fd)!.sendMss;
      assert(after > before * 0.99, `${before} before, ${after} after`);
      assert(!isInRepair(fd));
      guest.finish(host);
    },
  );
}

for (const six of [false, true]) {
  inWorlds(
    `a segment size that no packet has room for is cut (${six ? "IPv6" : "IPv4"})`,
    (source, target) => {
      const { guest, host } = source.connect({ six });
      const saved = save(source);
      leave(source);
      saved.entries[TcpWord.mss] = 65535;
      restore(target, saved);
      const at = target.flowOf(guest) * FLOW_WORDS;
      assertEquals(target.path.table.words[at + TcpWord.mss], six ? 65475 : 65495);
      target.path.tcp.discard();
      host.reset();
    },
  );
}

inWorlds("every combination of options is restored (D7)", (source, target) => {
  const { guest, host } = source.connect();
  const { entries, records: [record] } = save(source);
  leave(source);
  for (let options = 0; options < 8; options++) {
    restore(target, { entries, records: [{ ...record, options }] });
    const fd = target.path.table.fd(target.flowOf(guest));
    const info = readInfo(fd)!;
    // Windows that are not scaled are, for the kernel, scaled by nothing.
    const scale = 4;
    assertEquals([info.options & 7, info.state], [options | scale, 1]);
    const scaled = (options & scale) !== 0;
    assertEquals(info.sendScale, scaled ? record.sendScale : 0);
    assertEquals(info.receiveScale, scaled ? record.receiveScale : 0);
    target.path.tcp.discard();
  }
  host.reset();
});

const FIN_CASES = ["no data", "data to the guest", "data to the peer", "data both ways"];
for (const data of FIN_CASES) {
  const toGuest = data.includes("guest") || data.includes("both");
  const toPeer = data.includes("peer") || data.includes("both");
  const down = toGuest ? pattern(5000) : pattern(0);
  const up = toPeer ? pattern(5000, 9) : pattern(0);

  /** The end of the connection as both ends see it. */
  const finish = (target: TcpWorld, guest: ScriptedGuest, host: HostTcp) => {
    assertEquals(Uint8Array.from(guest.received), down);
    // The peer's kernel has seen the end, and no RST.
    assertEquals([host.error, readInfo(host.fd)!.state], [0, 7]);
    target.until("the flow's end", () => target.flowOf(guest) < 0);
    assert(!guest.sent.some((s) => s.includes("R")), guest.sent.join(", "));
    host.close();
  };

  inWorlds(`CLOSE_WAIT moves, with ${data} (D2)`, (source, target) => {
    const { guest, host } = source.connect();
    guest.window = 0;
    guest.in("A");
    if (down.length > 0) host.send(down);
    host.shutdown();
    source.until("FIN", () => kernelState(source, guest) === 8);
    const [record] = move(source, target, [guest]).records;
    assertEquals([record.state, record.receiveQueue.length], [8, down.length]);
    assertEquals(kernelState(target, guest), 1);
    guest.window = 65535;
    target.until("FIN at the guest", () => (guest.drain(), guest.ended));
    if (up.length > 0) {
      guest.in("A", { data: up });
      assertEquals(readAll(target, host, up.length), up);
    }
    guest.in("FA");
    awaitEnd(target, host);
    finish(target, guest, host);
  });

  inWorlds(`FIN_WAIT1 moves, with ${data} (D3)`, (source, target) => {
    const listener = source.listen(undefined, 4096);
    const { guest, host } = source.connect({ listener });
    guest.window = 0;
    guest.in("A");
    if (down.length > 0) host.send(down);
    // Fills the peer's buffer, so that FIN has to wait.
    const fill = pattern(40_000, 5);
    for (let at = 0; at < fill.length; at += 1000) {
      guest.queue("A", { data: fill.subarray(at, at + 1000) });
    }
    source.settle();
    guest.next = guest.last!.ack - guest.isn;
    const accepted = source.path.table.words[source.flowOf(guest) * 32 + 23] -
      guest.isn - 1;
    guest.in("FA", { seq: accepted + 1 });
    guest.next = accepted + 2;
    assertEquals(kernelState(source, guest), 4);
    const [record] = move(source, target, [guest]).records;
    assertEquals(record.state, 4);
    assert(record.sendQueue.length > 0);
    guest.window = 65535;
    guest.in("A");
    assertEquals(readAll(target, host, accepted), fill.subarray(0, accepted));
    awaitEnd(target, host);
    guest.finish(host);
    assertEquals(Uint8Array.from(guest.received), down);
  });

  inWorlds(`FIN_WAIT2 moves, with ${data}`, (source, target) => {
    const { guest, host } = source.connect();
    guest.window = 0;
    guest.in("A", { data: up });
    guest.in("FA");
    source.until("FIN_WAIT2", () => kernelState(source, guest) === 5);
    if (down.length > 0) host.send(down);
    source.settle();
    const [record] = move(source, target, [guest]).records;
    assertEquals([record.state, record.receiveQueue.length], [5, down.length]);
    assertEquals(readAll(target, host, up.length), up);
    awaitEnd(target, host);
    target.until("FIN_WAIT2 again", () => kernelState(target, guest) === 5);
    guest.window = 65535;
    guest.in("A");
    target.until("data", () => (guest.drain(), guest.received.length === down.length));
    host.send(pattern(3000, 1));
    host.shutdown();
    target.until("FIN at the guest", () => (guest.drain(), guest.ended));
    assertEquals(Uint8Array.from(guest.received.splice(down.length)), pattern(3000, 1));
    finish(target, guest, host);
  });

  for (const first of ["guest", "peer"]) {
    const [name, state] = first === "guest" ? ["CLOSING", 11] : ["LAST_ACK", 9];
    inWorlds(`${name} moves, with ${data}`, (source, target) => {
      const { guest, host } = source.connect();
      guest.window = 0;
      guest.in("A");
      if (down.length > 0) host.send(down);
      if (first === "peer") {
        host.shutdown();
        source.until("FIN", () => kernelState(source, guest) === 8);
      }
      deafen(host.fd); // acknowledges nothing any more
      if (up.length > 0) guest.in("A", { data: up });
      guest.in("FA");
      if (first === "guest") {
        host.shutdown();
        source.until("FIN", () => kernelState(source, guest) === 11);
      }
      assertEquals(kernelState(source, guest), state);
      const [record] = move(source, target, [guest]).records;
      assertEquals([record.state, record.receiveQueue.length], [state, down.length]);
      assertEquals(record.sendQueue.length, up.length);
      undeafen(host.fd);
      guest.window = 65535;
      target.until("FIN at the guest", () => (guest.drain(), guest.ended));
      assertEquals(readAll(target, host, up.length), up);
      awaitEnd(target, host);
      finish(target, guest, host);
    });
  }
}

for (const first of ["guest", "peer"]) {
  inWorlds(`what a closed connection still has for its guest moves (${first} first)`, (
    source,
    target,
  ) => {
    const { guest, host } = source.connect();
    guest.window = 0;
    guest.in("A");
    if (first === "guest") {
      guest.in("FA");
      awaitEnd(source, host);
    }
    host.send(pattern(5000));
    host.shutdown();
    if (first === "peer") {
      source.until("FIN", () => kernelState(source, guest) === 8);
      guest.in("FA");
      awaitEnd(source, host);
    }
    source.until("the end of both", () => kernelState(source, guest) === 7);
    host.close();
    const [record] = move(source, target, [guest]).records;
    assertEquals([record.lost, record.state, record.receiveQueue.length], ["", 7, 5000]);
    guest.window = 65535;
    guest.in("A");
    target.until("FIN at the guest", () => (guest.drain(), guest.ended));
    assertEquals(Uint8Array.from(guest.received), pattern(5000));
    target.until("the flow's end", () => target.flowOf(guest) < 0);
    assert(!guest.sent.some((s) => s.includes("R")), guest.sent.join(", "));
  });
}

inWorlds("the peer's RST comes after its data at the target, too", (source, target) => {
  const { guest, host } = source.connect();
  guest.window = 1000;
  guest.in("A");
  host.send(pattern(5000));
  source.until("data", () => guest.received.length === 1000);
  host.reset();
  const [record] = move(source, target, [guest]).records;
  assertEquals([record.lost, record.receiveQueue.length], ["", 5000]);
  guest.window = 65535;
  guest.in("A");
  target.until("the flow's end", () => (guest.in("A"), target.flowOf(guest) < 0));
  assertEquals(Uint8Array.from(guest.received), pattern(5000));
  assert(guest.sent.some((s) => s.includes("R")), guest.sent.join(", "));
});

inWorlds("data moves with urgent data, or without SO_PEEK_OFF", (source, target) => {
  for (const urgent of [true, false]) {
    for (const world of [source, target]) world.path.tcp.setPeekOffset(urgent);
    const { guest, host } = source.connect();
    guest.window = 1000;
    guest.in("A");
    host.send(pattern(3000));
    if (urgent) host.sendUrgent(pattern(2, 3000));
    else host.send(pattern(2, 3000));
    host.send(pattern(3000, 3002));
    source.until("data", () => guest.received.length === 1000);
    const [record] = move(source, target, [guest]).records;
    assertEquals([record.lost, record.receiveQueue.length], ["", 6002]);
    assertEquals(record.receiveQueue, pattern(6002));
    guest.window = 65535;
    target.until("data", () => (guest.drain(), guest.received.length === 6002));
    assertEquals(Uint8Array.from(guest.received), pattern(6002));
    guest.finish(host);
  }
});

inWorlds("sequence numbers wrap in a queue that moves", (source, target) => {
  const { guest, host } = source.connect();
  const { entries, records: [record] } = save(source);
  leave(source);
  const receiveQueue = new Uint8Array(pattern(5000));
  const sendQueue = new Uint8Array(pattern(7000));
  // All that concerns the peer in numbers that wrap within the queues.
  const wrapped = {
    receiveQueue,
    receiveSequence: 0xffff_f000,
    rcvWup: 0xffff_f000 + 5000 >>> 0,
    sndWl1: 0xffff_f000 + 4999 >>> 0,
    sendQueue,
    sendSequence: 0xffff_e800,
  };
  restore(target, { entries, records: [{ ...record, ...wrapped }] });
  target.adopt(guest);
  const [saved] = target.path.tcp.save(() => 0);
  const { receiveSequence, sendSequence, rcvWup } = wrapped;
  assertEquals(
    [saved.receiveSequence, saved.sendSequence, saved.rcvWup, saved.notSent],
    [receiveSequence, sendSequence, rcvWup, 0],
  );
  assertEquals([saved.receiveQueue, saved.sendQueue], [receiveQueue, sendQueue]);
  target.path.tcp.discard();
  host.reset();
});
