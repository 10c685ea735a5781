/** Data of the peer for the guest: windows, losses, buffers, the end of the stream. */
import { assert, assertEquals } from "@std/assert";
import {
  type ConnectOptions,
  inWorld,
  pattern,
  type TcpWorld,
} from "../../../tests/support/tcp_world.ts";

import type { HostListener } from "../../../tests/support/host_tcp.ts";

const ECONNRESET = 104;

/** Numbers of data segments, as `seq+length`. */
function data(texts: readonly string[]): string[] {
  return texts.map((text) => /(\d+\+[1-9]\d*)/.exec(text)?.[1] ?? "").filter((t) => t);
}

function connect(world: TcpWorld, peek: boolean, options: ConnectOptions = {}) {
  if (!peek) world.path.tcp.setPeekOffset(false);
  return world.connect(options);
}

for (const peek of [true, false]) {
  const how = peek ? "SO_PEEK_OFF" : "without SO_PEEK_OFF";

  inWorld(`${how}: data in segments of the MSS, as far as the window goes`, (world) => {
    const { guest, host } = connect(world, peek, { mss: 100, window: 1000 });
    host.send(pattern(2500));
    world.settle();
    assertEquals(guest.received.length, 1000);
    const lengths = data(guest.out()).map((text) => Number(text.split("+")[1]));
    assertEquals(lengths, Array(10).fill(100));
    guest.in("A", { ack: 501 });
    assertEquals(data(guest.out()).map((t) => t.split("+")[0]), [
      "1001",
      "1101",
      "1201",
      "1301",
      "1401",
    ]);
    guest.in("A", { window: 0 });
    assertEquals(guest.out(), []);
    guest.in("A", { window: 50 });
    assertEquals(data(guest.out()), ["1501+50"]);
    guest.drain();
    assertEquals(Uint8Array.from(guest.received), pattern(2500));
    guest.finish(host);
  });

  inWorld(`${how}: a closed window is probed with back-off until it opens`, (world) => {
    const { guest, host } = connect(world, peek);
    guest.in("A", { window: 0 });
    host.send(pattern(100));
    world.settle();
    assertEquals(guest.out(), []);
    for (let i = 0, probes = 0; i < 12; i++) {
      world.advance(70_000);
      probes = guest.out().filter((text) => text === "A 0+0 1").length;
      assertEquals(probes, 1, `probe ${i}`);
      guest.in("A", { window: 0 });
    }
    guest.in("A");
    assertEquals(guest.received, [...pattern(100)]);
    world.advance(300);
    assertEquals(data(guest.out()), ["1+100", "1+100"], "and its loss is noticed");
    guest.drain().finish(host);
  });

  inWorld(`${how}: a lost segment is sent again for a duplicate ACK`, (world) => {
    const { guest, host } = connect(world, peek, { mss: 100 });
    host.send(pattern(500));
    world.settle();
    guest.out();
    guest.queue("A", { ack: 101 }).queue("A", { ack: 101 }).queue("A", { ack: 101 });
    guest.in("A", { ack: 101 });
    assertEquals(data(guest.out()), ["101+100", "201+100", "301+100", "401+100"]);
    assertEquals(world.path.tcp.counters.retransmits, 1);
    // It had all but the first: what it says of the rest is no loss.
    guest.queue("A", { ack: 501 }).queue("A", { ack: 501 }).in("A", { ack: 501 });
    host.send(pattern(100, 500));
    guest.drain();
    assertEquals(data(guest.out()), ["501+100"]);
    assertEquals(guest.received, [...pattern(600)]);
    guest.finish(host);
  });

  inWorld(`${how}: an acknowledgement after a rewind goes beyond it`, (world) => {
    const { guest, host } = connect(world, peek, { mss: 100, window: 65_000 });
    host.send(pattern(1000));
    world.settle();
    guest.out();
    // One window for two acknowledgements: the first rewinds, nothing can be sent yet.
    guest.queue("A", { ack: 101, window: 65_000 });
    guest.queue("A", { ack: 101, window: 65_000 });
    guest.in("A", { ack: 801, window: 65_000 });
    assertEquals(data(guest.out()), ["801+100", "901+100"]);
    guest.drain();
    host.send(pattern(100, 1000));
    guest.drain();
    assertEquals(guest.received, [...pattern(1100)]);
    guest.finish(host);
  });

  inWorld(`${how}: time-outs back off, and end in RST both ways`, (world) => {
    const { guest, host } = connect(world, peek);
    host.send(pattern(100));
    world.settle();
    assertEquals(data(guest.out()), ["1+100"]);
    let waited = 0;
    for (let wait = 250; wait <= 64_000; wait *= 2) {
      world.advance(wait - 50);
      assertEquals(guest.out(), [], `before ${wait}`);
      world.advance(80);
      assertEquals(data(guest.out()), ["1+100"], `after ${wait}`);
      waited += wait;
    }
    assert(waited > 100_000, "RFC 1122, 4.2.3.5: at least 100 s");
    world.advance(130_000);
    assertEquals(guest.out().pop()?.[0], "R");
    assertEquals(world.flows, 0);
    assertEquals(host.receive(), ECONNRESET);
  });

  inWorld(`${how}: FIN with data, lost together, comes again`, (world) => {
    const { guest, host } = connect(world, peek, { mss: 100 });
    host.send(pattern(150));
    host.shutdown();
    world.settle();
    assertEquals(guest.out(), ["A 1+100 1", "FPA 101+50 1"], "in one frame");
    world.advance(300);
    assertEquals(guest.out(), ["A 1+100 1", "FPA 101+50 1"]);
    guest.in("A", { ack: 151 });
    world.advance(300);
    assertEquals(guest.out(), ["FA 151+0 1"], "FIN alone");
    guest.in("A", { ack: 152 });
    world.advance(10_000);
    assertEquals(guest.out(), []);
    guest.in("FA");
    world.until("the flow's end", () => world.flows === 0);
  });

  inWorld(`${how}: a guest without buffers gets all once it has some`, (world) => {
    const { guest, host } = connect(world, peek, { mss: 1000, window: 65_000 });
    world.settle();
    world.refill = false;
    host.send(pattern(60_000));
    let told = 1;
    for (let i = 0; guest.received.length < 60_000; i++) {
      assert(i < 100, `stuck at ${guest.received.length}`);
      if (guest.expected > told) guest.in("A");
      else world.settle();
      told = guest.expected;
      world.post(5);
    }
    assertEquals(Uint8Array.from(guest.received), pattern(60_000));
    assertEquals(world.path.tcp.counters.retransmits, 0);
    world.refill = true;
    world.post(50);
    guest.finish(host);
  }, { buffers: 10 });

  inWorld(`${how}: sequence numbers towards the guest wrap`, (world) => {
    const first = connect(world, peek, { window: 65_000, fromPort: 39_000 });
    first.guest.finish(first.host);
    // 250 numbers a millisecond, from a start that belongs to addresses and ports.
    world.advance((0xffff_ffff - 30_000 - first.guest.peerIsn!) / 250);
    const listener = world.listeners[0] as HostListener;
    const { guest, host } = connect(world, peek, {
      listener,
      mss: 1000,
      window: 65_000,
      fromPort: 39_000,
    });
    const before = 0xffff_ffff - guest.peerIsn!;
    assert(before > 1000 && before < 31_000, `${before} to the wrap`);
    host.send(pattern(40_000));
    world.settle();
    assertEquals(guest.received.length, 40_000);
    guest.in("A", { ack: before - 5 }).in("A", { ack: before - 5 });
    guest.in("A", { ack: before + 5 }).in("A", { ack: before + 5 });
    guest.drain();
    host.send(pattern(1000, 40_000));
    guest.drain();
    assertEquals(Uint8Array.from(guest.received), pattern(41_000));
    guest.finish(host);
  });

  inWorld(
    `${how}: urgent data of the peer comes inline, and what follows it`,
    (world) => {
      const { guest, host } = connect(world, peek);
      host.send(pattern(100));
      host.sendUrgent(Uint8Array.of(255));
      host.send(pattern(100, 1));
      world.until("all", () => (guest.drain(), guest.expected === 202));
      assertEquals(guest.received, [...pattern(100), 255, ...pattern(100, 1)]);
      guest.finish(host);
    },
  );
}

inWorld("data first, then the peer's RST", (world) => {
  const { guest, host } = world.connect({ window: 1000, mss: 1000 });
  host.send(pattern(2500));
  host.reset();
  world.settle();
  assertEquals(guest.received.length, 1000);
  assertEquals(guest.out().filter((text) => text[0] === "R"), []);
  guest.in("A");
  assertEquals(guest.received.length, 2000);
  guest.in("A");
  assertEquals(Uint8Array.from(guest.received), pattern(2500));
  assertEquals(guest.out().pop()?.[0], "R");
  assertEquals(guest.last?.seq, (guest.peerIsn! + 2501) >>> 0);
  assertEquals(world.flows, 0);
});

inWorld("a FIN behind a closed window is sent when it opens", (world) => {
  const { guest, host } = world.connect({ window: 100 });
  host.send(pattern(100));
  host.shutdown();
  world.settle();
  guest.in("A", { window: 0 });
  guest.out();
  world.advance(70_000);
  assertEquals(guest.out(), ["A 100+0 1"], "the window is probed");
  guest.in("A", { window: 100 });
  assertEquals(guest.out(), ["FA 101+0 1"]);
  guest.in("A").in("FA");
  world.until("the flow's end", () => world.flows === 0);
});

inWorld("a ring that is too small for a large segment", (world) => {
  const { guest, host } = world.connect({ window: 65_535 });
  const total = host.send(pattern(200_000));
  world.until("all", () => {
    guest.in("A");
    world.post(world.driver.rx.free);
    return guest.received.length === total;
  });
  assertEquals(Uint8Array.from(guest.received), pattern(total));
  world.post(world.driver.rx.free);
  guest.finish(host);
}, { large: true, ringSize: 16, buffers: 16 });

inWorld("buffers that do not merge", (world) => {
  const { guest, host } = world.connect({ mss: 1460 });
  host.send(pattern(30_000));
  guest.drain();
  assertEquals(Uint8Array.from(guest.received), pattern(30_000));
  guest.finish(host);
}, { mergeable: false });

inWorld("buffers that do not merge, some of which hold headers alone", (world) => {
  world.refill = false;
  const { guest, host } = world.connect({ mss: 1460 });
  host.send(pattern(3000));
  guest.drain();
  assertEquals(Uint8Array.from(guest.received), pattern(3000));
  while (world.driver.rx.used.getUint16(2, true) !== world.driver.rx.next) {
    guest.in("S", { seq: 77 }); // each answer takes a buffer
  }
  host.send(pattern(2000, 3000));
  world.settle();
  for (let i = 0; i < 20 && guest.received.length < 5000; i++) {
    world.post(2, 12 + 14 + 20 + 20);
    world.post(3);
    guest.drain();
  }
  assertEquals(Uint8Array.from(guest.received), pattern(5000));
  world.post(50);
  guest.finish(host);
}, { mergeable: false, buffers: 60 });

inWorld("a megabyte both ways at once", (world) => {
  const { guest, host } = world.connect({ scale: 4, window: 4096 });
  const total = 1 << 20;
  let given = 0;
  let asked = 0;
  let read = 0;
  const seen: number[] = [];
  while (seen.length < total || guest.received.length < total) {
    if (given < total) {
      given += Math.max(0, host.send(pattern(50_000, given).subarray(0, total - given)));
    }
    for (let i = 0; i < 20 && asked < total; i++, asked += 1000) {
      guest.queue("A", { data: pattern(Math.min(1000, total - asked), asked) });
    }
    guest.in("A");
    const part = host.receive();
    if (typeof part === "object") { for (const byte of part) seen.push(byte); }
    if (++read > 5000) {
      throw new Error(`stuck at ${seen.length}, ${guest.received.length}`);
    }
  }
  assertEquals(Uint8Array.from(seen), pattern(total));
  assertEquals(Uint8Array.from(guest.received), pattern(total));
  guest.finish(host);
});

inWorld("a receive buffer of too many pieces does not keep the loop busy", (world) => {
  world.refill = false;
  const { guest, host } = world.connect();
  while (world.driver.rx.used.getUint16(2, true) !== world.driver.rx.next) {
    guest.in("S", { seq: 77 }); // each answer takes a buffer
  }
  world.driver.post(1, ...Array(1200).fill(64));
  world.path.kicked(0);
  host.send(pattern(10));
  world.settle();
  assert(world.path.timeout() !== 0);
}, { ringSize: 2048, buffers: 5 });

inWorld("a reply takes the acknowledgement of what it answers along", (world) => {
  const { guest, host } = world.connect();
  guest.queue("PA", { data: pattern(100) });
  world.path.kicked(1);
  world.turn();
  assertEquals((host.receive() as Uint8Array).length, 100);
  host.send(pattern(50));
  world.until("the reply", () => guest.received.length === 50);
  assertEquals(guest.out(), ["PA 1+50 101"]);
  guest.finish(host);
});

inWorld("a long run of data is shown to the guest piece by piece", (world) => {
  const { guest, host } = world.connect({ mss: 1400, window: 65535, scale: 4 });
  const { path } = world;
  const show = path.showFrames.bind(path);
  const shown: number[] = [];
  path.showFrames = () => {
    shown.push(path.sink.committed);
    show();
  };
  host.send(pattern(600_000));
  world.until("all has come", () => (guest.drain(), guest.received.length === 600_000));
  const steps = shown.map((at, i) => at - (shown[i - 1] ?? at)).filter((n) => n > 0);
  assert(Math.max(...steps) * 1400 <= 3 << 16, `${Math.max(...steps)} frames at once`);
  guest.finish(host);
}, { ringSize: 1024, buffers: 900 });
