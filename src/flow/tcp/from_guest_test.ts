/** Segments of the guest: data, acknowledgements, RST and what is out of order. */
import { assert, assertEquals } from "@std/assert";
import { inWorld, pattern, TcpWorld } from "../../../tests/support/tcp_world.ts";
import { HostTcp } from "../../../tests/support/host_tcp.ts";
import { FLOW_WORDS } from "../table.ts";
import { TcpFlow, TcpWord } from "./layout.ts";

const ECONNRESET = 104;

/** Everything that has come to a socket. */
function readAll(host: HostTcp): Uint8Array {
  const parts: number[] = [];
  for (;;) {
    const got = host.receive();
    if (typeof got === "number" || got === "end" || got.length === 0) break;
    for (const byte of got) parts.push(byte);
  }
  return Uint8Array.from(parts);
}

for (const six of [false, true]) {
  inWorld(`${six ? "IPv6" : "IPv4"}: data, however the frames are cut`, (world) => {
    const { guest, host } = world.connect({ six });
    const frame = 12 + 14 + (six ? 40 : 20) + 20;
    const cuts = [[], [12], [1, 5, 13, 27], [frame - 1, frame, frame + 1], [frame + 500]];
    let sent = 0;
    for (const cut of cuts) {
      guest.cuts = cut;
      guest.in("PA", { data: pattern(1000, sent) });
      sent += 1000;
      world.until("acknowledged", () => guest.last?.ack === guest.isn + 1 + sent);
    }
    assertEquals(readAll(host), pattern(sent));
    guest.finish(host);
  });
}

inWorld("a batch of segments goes out in order and is acknowledged", (world) => {
  const { guest, host } = world.connect();
  for (let i = 0; i < 50; i++) guest.queue("A", { data: pattern(1000, i * 1000) });
  world.until("acknowledged", () => guest.last?.ack === guest.isn + 50_001);
  assertEquals(readAll(host), pattern(50_000));
  guest.finish(host);
});

inWorld("duplicates and overlaps are cut, holes are not filled", (world) => {
  const { guest, host } = world.connect();
  guest.in("A", { data: pattern(100) });
  world.until("acknowledged", () => guest.out().pop() === "A 1+0 101");
  guest.in("A", { seq: 1, data: pattern(100) });
  assertEquals(guest.out(), ["A 1+0 101"], "a repeated segment is acknowledged again");
  guest.in("A", { seq: 51, data: pattern(100, 50) });
  world.until("acknowledged", () => guest.out().pop() === "A 1+0 151");
  for (let i = 0; i < 3; i++) {
    guest.queue("A", { seq: 251 + i, data: pattern(1, 250 + i) });
  }
  world.settle();
  assertEquals(guest.out(), ["A 1+0 151", "A 1+0 151", "A 1+0 151"]);
  guest.in("A", { seq: 101, data: pattern(200, 100) });
  world.until("acknowledged", () => guest.out().pop() === "A 1+0 301");
  assertEquals(readAll(host), pattern(300));
  assertEquals(world.path.tcp.counters.outOfOrder, 3);
  guest.next = 301;
  guest.finish(host);
});

inWorld(
  "an acknowledgement of what was never sent is answered, its data ignored",
  (world) => {
    const { guest, host } = world.connect();
    guest.in("A", { seq: 1, ack: 5000, data: pattern(10) });
    assertEquals(guest.out(), ["A 1+0 1"]);
    assertEquals(readAll(host).length, 0);
    guest.finish(host);
  },
);

inWorld(
  "an acknowledgement older than any window is answered, its data ignored (RFC 5961, 5.2)",
  (world) => {
    const { guest, host } = world.connect();
    guest.in("A", { seq: 1, ack: -(2 ** 30), data: pattern(10) });
    assertEquals(guest.out(), ["A 1+0 1"]);
    assertEquals(readAll(host).length, 0);
    guest.finish(host);
  },
);

inWorld("keep-alive probes are answered", (world) => {
  const { guest, host } = world.connect();
  guest.in("A", { seq: 0 });
  assertEquals(guest.out(), ["A 1+0 1"]);
  guest.in("A", { seq: 0, data: Uint8Array.of(0) });
  assertEquals(guest.out(), ["A 1+0 1"]);
  assertEquals(readAll(host).length, 0);
  guest.finish(host);
});

inWorld("SYN in a connection is answered, never obeyed (RFC 5961, 4.2)", (world) => {
  const { guest, host } = world.connect();
  guest.in("S", { seq: 0 }).in("S", { seq: 77 }).in("SA", { seq: 1 });
  assertEquals(guest.out(), ["A 1+0 1", "A 1+0 1", "A 1+0 1"]);
  guest.finish(host);
});

inWorld("RST counts when exact, is challenged in the window, else ignored", (world) => {
  const { guest, host } = world.connect();
  guest.in("R", { seq: 100 });
  assertEquals(guest.out(), ["A 1+0 1"]);
  guest.in("R", { seq: 0 }).in("R", { seq: -70_000 }).in("R", { seq: 17 << 20 });
  assertEquals(guest.out(), []);
  assertEquals(world.flows, 1);
  guest.in("R", { seq: 1 });
  assertEquals(world.flows, 0);
  assertEquals(host.receive(), ECONNRESET);
});

inWorld("RST after data in one batch", (world) => {
  const { guest, host } = world.connect();
  guest.queue("PA", { data: pattern(10) }).in("R");
  assertEquals(world.flows, 0);
  assertEquals(guest.out(), []);
  host.receive();
  assertEquals(host.receive(), ECONNRESET);
});

/** A peer that does not read, until its and the host's buffers are full. */
function fill(world: TcpWorld, receiveBuffer = 4096) {
  const { guest, host } = world.connect({ receiveBuffer, scale: 0 });
  let sent = 0;
  while (guest.edge(8) - 1 - sent >= 1000) {
    const more = Math.min(10_000, guest.edge(8) - 1 - sent);
    for (let left = more; left > 0; left -= 1000) {
      const length = Math.min(1000, left);
      guest.queue("A", { data: pattern(length, sent) });
      sent += length;
    }
    world.settle();
    if (sent > 40 << 20) throw new Error("the window never closes");
  }
  return { guest, host, sent };
}

inWorld(
  "RST that answers an acknowledgement is obeyed while a peer does not read",
  (world) => {
    // A socket that is gone answers with the number it was last told, which is less than
    // what has been taken: it must not be answered by another acknowledgement for ever.
    const { guest, host } = fill(world);
    const told = (guest.last?.ack ?? 0) - guest.isn;
    assert(told < guest.next, "something is not acknowledged");
    guest.in("R", { seq: told });
    assertEquals(world.flows, 0);
    readAll(host);
  },
);

inWorld("a peer that does not read closes the window; nothing is lost", (world) => {
  const { guest, host, sent } = fill(world);
  const edge = guest.edge(8);
  assert(edge - 1 - sent < 1000, `edge ${edge}, sent ${sent}`);
  const acknowledged = (guest.last?.ack ?? 0) - guest.isn - 1;
  assert(acknowledged < sent, "only what the peer's kernel has is acknowledged");
  const parts: number[] = [];
  world.until("all is read and acknowledged", () => {
    for (const byte of readAll(host)) parts.push(byte);
    const acked = (guest.last?.ack ?? 0) - guest.isn - 1;
    // What the socket had no space for is sent again, as by a guest's time-out.
    for (let at = acked; at < sent && at < acked + 30_000; at += 1000) {
      guest.queue("A", { seq: 1 + at, data: pattern(Math.min(1000, sent - at), at) });
    }
    world.settle();
    return acked === sent;
  });
  for (const byte of readAll(host)) parts.push(byte);
  assertEquals(parts.length, sent);
  assertEquals(Uint8Array.from(parts), pattern(sent));
  assert(guest.edge(8) - 1 - sent > 10_000, "the window is open again");
  guest.finish(host);
});

inWorld("a peer that reads again is told to the guest at once, each time", (world) => {
  const { guest, host } = world.connect();
  const { path } = world;
  const blocked = path.tcp.counters;
  let sent = 0;
  const room = () => guest.edge(8) - 1 - sent;
  for (let round = 0; round < 3; round++) {
    while (room() >= 30_000) {
      guest.queue("A", { data: pattern(30_000, sent) });
      sent += 30_000;
      world.settle();
    }
    assertEquals(blocked.blocked, 0, "the window closes before the socket is full");
    // So long a silence that the send queue is looked at rarely.
    for (let i = 0; i < 20; i++) world.advance(300);
    assert(room() < 30_000, `round ${round}: ${room()} bytes of window`);
    // The clock stands still: no timer tells of the peer, but an event of the socket.
    const { now } = path;
    Object.defineProperty(path, "now", { get: () => now, set() {}, configurable: true });
    world.until("the window opens", () => (readAll(host), room() > 500_000));
    Object.defineProperty(path, "now", { value: now, writable: true });
  }
});

inWorld("what the socket does not take is neither lost nor doubled", (world) => {
  // Frames of so many pieces that a batch takes several sendmsg(), into a full socket.
  const { guest, host } = fill(world);
  guest.cuts = Array.from({ length: 99 }, (_, i) => 66 + i * 13);
  const words = world.path.table.words;
  const flow = world.flowOf(guest) * FLOW_WORDS;
  const taken = () => words[flow + TcpWord.seqFromGuest] - guest.isn - 1;
  const parts: number[] = [];
  for (let round = 0; round < 150; round++) {
    for (let i = 0, at = taken(); i < 30; i++, at += 1400) {
      guest.queue("A", { seq: 1 + at, data: pattern(1400, at) });
    }
    world.settle();
    const part = host.receive(20_000) as Uint8Array;
    for (const byte of part) parts.push(byte);
  }
  assert(world.path.tcp.counters.blocked > 10, "the socket was full");
  world.until("all is read and acknowledged", () => {
    for (const byte of readAll(host)) parts.push(byte);
    return guest.in("A").last?.ack === guest.isn + 1 + taken();
  });
  for (const byte of readAll(host)) parts.push(byte);
  assertEquals(parts.length, taken());
  assertEquals(Uint8Array.from(parts), pattern(taken()));
  guest.next = taken() + 1;
  guest.finish(host);
}, { ringSize: 4096 });

inWorld("an idle guest that answers probes is never reset", (world) => {
  const { guest, host } = world.connect();
  for (let i = 0; i < 20; i++) {
    guest.out();
    world.advance(7_200_100);
    assertEquals(guest.out(), ["A 0+0 1"], `probe ${i}`);
    guest.in("A");
  }
  assertEquals(world.flows, 1);
  for (let i = 0; i < 12; i++) world.advance(7_200_100);
  assertEquals(world.flows, 0, "one that does not is");
  assertEquals(host.receive(), ECONNRESET);
});

inWorld("sequence numbers of the guest wrap", (world) => {
  const { guest, host } = world.connect({ isn: 0xffff_ff00 });
  for (let i = 0; i < 40; i++) guest.in("A", { data: pattern(100, i * 100) });
  world.until("acknowledged", () => guest.out().pop() === "A 1+0 4001");
  assertEquals(readAll(host), pattern(4000));
  guest.finish(host);
});

inWorld("urgent data of the guest goes inline", (world) => {
  const { guest, host } = world.connect();
  guest.in("PAU", { data: pattern(10), urgent: 5 });
  assertEquals(readAll(host), pattern(10));
  guest.finish(host);
});

inWorld("a peer's reset while the guest sends: its data comes first", (world) => {
  const { guest, host } = world.connect();
  host.send(pattern(100));
  host.reset();
  guest.queue("PA", { data: pattern(10) });
  world.until("RST", () => world.flows === 0);
  assertEquals(guest.received, [...pattern(100)]);
  assertEquals(guest.out().pop()?.[0], "R");
});

inWorld("a flow that is polled no more does not poll the next of its entry", (world) => {
  const { guest } = fill(world);
  guest.in("R", { seq: (guest.last?.ack ?? 0) - guest.isn });
  assertEquals(world.flows, 0);
  const { table } = world.path;
  const flow = table.allocate(2);
  table.words[flow * FLOW_WORDS] |= TcpFlow.unacknowledged;
  world.advance(1000);
  assertEquals(guest.out().filter((text) => text.includes("R")), []);
  table.release(flow);
});
