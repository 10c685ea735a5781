/** The end of connections: FIN in every order, half-close, and hostile segments. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { inWorld, pattern, TcpWorld } from "../../../tests/support/tcp_world.ts";
import { ENDED, OWNERS_SIZE, OwnerTable } from "../../mesh/owners.ts";
import { flagBits } from "../../../tests/support/tcp_segment.ts";

inWorld("the guest closes first, the peer sends on, then closes", (world) => {
  const { guest, host } = world.connect();
  guest.in("PA", { data: pattern(10) }).in("FA");
  world.until("FIN is acknowledged", () => guest.out().pop() === "A 1+0 12");
  assertEquals(host.receive(), pattern(10));
  assertEquals(host.receive(), "end");
  host.send(pattern(5000));
  guest.drain();
  assertEquals(Uint8Array.from(guest.received), pattern(5000));
  assertEquals(world.flows, 1);
  host.shutdown();
  world.until("FIN", () => guest.ended);
  assertEquals(guest.out().pop(), "FA 5001+0 12");
  guest.in("A");
  assertEquals(world.flows, 0);
});

inWorld("the peer closes first, the guest sends on, then closes", (world) => {
  const { guest, host } = world.connect();
  host.send(pattern(10));
  host.shutdown();
  world.until("FIN", () => guest.ended);
  guest.in("A");
  const parts: number[] = [];
  for (let i = 0; i < 20; i++) {
    guest.in("A", { data: pattern(1000, i * 1000) });
    parts.push(...host.receive() as Uint8Array);
  }
  assertEquals(Uint8Array.from(parts), pattern(20_000));
  assertEquals(world.flows, 1);
  guest.out();
  guest.in("FA");
  world.until("the last acknowledgement", () => world.flows === 0);
  assertEquals(guest.out().pop(), "A 12+0 20002");
  assertEquals(host.receive(), "end");
});

inWorld("both close at once", (world) => {
  const { guest, host } = world.connect();
  host.shutdown();
  guest.queue("FA"); // before the peer's FIN has come
  world.until("FIN", () => guest.ended);
  assertEquals(host.receive(), "end");
  world.until("FIN is acknowledged", () => guest.last?.ack === guest.isn + 2);
  assertEquals(world.flows, 1);
  guest.in("A");
  world.until("the flow's end", () => world.flows === 0);
});

inWorld("FIN with data, repeated FIN, data after FIN", (world) => {
  const { guest, host } = world.connect();
  guest.in("FPA", { data: pattern(10) });
  world.until("FIN is acknowledged", () => guest.out().pop() === "A 1+0 12");
  guest.in("FPA", { seq: 1, data: pattern(10) });
  guest.in("FA", { seq: 11 });
  guest.in("A", { seq: 12, data: pattern(5) });
  assertEquals(guest.out(), ["A 1+0 12", "A 1+0 12", "A 1+0 12"]);
  assertEquals(host.receive(), pattern(10));
  assertEquals(host.receive(), "end");
  host.shutdown();
  world.until("FIN", () => guest.ended);
  guest.in("A");
  assertEquals(world.flows, 0);
});

inWorld("a FIN out of order waits for what is before it", (world) => {
  const { guest, host } = world.connect();
  guest.in("FA", { seq: 11 });
  assertEquals(guest.out(), ["A 1+0 1"]);
  guest.in("PA", { seq: 1, data: pattern(10) });
  assertEquals(host.receive(), pattern(10));
  guest.in("FA", { seq: 11 });
  assertEquals(host.receive(), "end");
  guest.next = 12;
  host.shutdown();
  world.until("FIN", () => guest.ended);
  guest.in("A");
  world.until("the flow's end", () => world.flows === 0);
});

inWorld("a repeated FIN does not keep the flow for ever", (world) => {
  // What the peer acknowledges may be noticed while a repetition is answered.
  for (let i = 0; i < 20; i++) {
    const { guest, host } = world.connect();
    host.shutdown();
    world.until("FIN", () => guest.ended);
    guest.queue("FA").queue("FA", { seq: 1 }).in("FA", { seq: 1 });
    world.until("the flow's end", () => world.flowOf(guest) < 0);
    assertEquals(host.receive(), "end");
  }
});

inWorld("RST after both halves are closed for data", (world) => {
  const { guest, host } = world.connect();
  guest.in("FA");
  world.until("FIN is acknowledged", () => guest.last?.ack === guest.isn + 2);
  guest.in("R");
  assertEquals(world.flows, 0);
  assertEquals(host.receive(), "end", "FIN came first");
  assertEquals(host.receive(), "end");
  assertEquals(host.send(pattern(1)), -1);
});

inWorld("many short connections leave nothing behind", (world) => {
  for (let i = 0; i < 300; i++) {
    const { guest, host } = i % 2 === 0
      ? world.connect()
      : world.accept({ fromPort: 80 });
    guest.in("PA", { data: pattern(100) });
    assertEquals(host.receive(), pattern(100));
    host.send(pattern(100));
    if (i % 3 === 0) guest.finish(host);
    else if (i % 3 === 1) guest.in("R");
    else {
      host.reset();
      world.until("RST", () => (guest.drain(), world.flowOf(guest) < 0));
    }
    host.close();
    for (const socket of world.listeners.splice(0)) socket.close();
    assertEquals(world.flows, 0);
  }
  assertEquals(world.leaks(), []);
});

const LETTERS = ["F", "S", "R", "P", "A", "U", "E", "C"];
/** A segment near the state of a connection, or far from it. */
const segments = fc.array(
  fc.record({
    flags: fc.subarray(LETTERS).map((letters) => letters.join("")),
    seq: fc.oneof(fc.integer({ min: -3, max: 30 }), fc.integer()),
    ack: fc.oneof(fc.integer({ min: -3, max: 30 }), fc.integer()),
    window: fc.oneof(fc.constantFrom(0, 1, 65535), fc.nat(65535)),
    length: fc.oneof(fc.constant(0), fc.nat(20), fc.nat(1460)),
    options: fc.uint8Array({ maxLength: 40 }),
    damage: fc.option(
      fc.record({ at: fc.integer({ min: 14, max: 60 }), to: fc.nat(255) }),
    ),
    wait: fc.constantFrom(0, 0, 0, 300, 70_000),
    host: fc.constantFrom("", "", "send", "shutdown", "reset", "receive"),
  }),
  { maxLength: 30 },
);

Deno.test("whatever segments come, nothing is thrown or leaked, and others go on", () => {
  fc.assert(
    fc.property(segments, fc.boolean(), fc.boolean(), (list, inbound, skip) => {
      const world = new TcpWorld({ flows: 16 });
      if (skip) world.path.tcp.setPeekOffset(false);
      const good = world.connect();
      const bad = inbound ? world.accept({ fromPort: 81 }) : world.connect();
      let sent = 0;
      for (const step of list) {
        assertEquals(flagBits(step.flags) < 256, true);
        const data = pattern(step.length);
        const { flags, seq, ack, window, options } = step;
        const fields = { seq, ack, window, options, data };
        if (step.damage === null) bad.guest.queue(flags, fields);
        else bad.guest.queueDamaged(flags, fields, step.damage.at, step.damage.to);
        if (!bad.host.closed) {
          if (step.host === "send") bad.host.send(data);
          if (step.host === "shutdown") bad.host.shutdown();
          if (step.host === "reset") bad.host.reset();
          if (step.host === "receive") bad.host.receive();
        }
        world.settle();
        world.advance(step.wait);
        good.guest.in("PA", { data: pattern(7, sent) });
        assertEquals(good.host.receive(), pattern(7, sent));
        good.host.send(pattern(9, sent));
        good.guest.drain();
        sent += 7;
      }
      assertEquals(good.guest.received.length, sent / 7 * 9);
      good.guest.finish(good.host);
      world.close();
    }),
    { numRuns: 60 },
  );
});

inWorld("what comes late of a connection that both have ended is not reset", (world) => {
  // As with several threads: another ring's segments may be looked at after the last one.
  const owners = new OwnerTable(new SharedArrayBuffer(OWNERS_SIZE));
  world.path.table.ownership = {
    enter: (hash) => owners.enter(hash, 0),
    leave: (hash) => owners.leave(hash, 0),
    end: (hash) => owners.end(hash, 0),
    hasEnded: (hash) => owners.find(hash) === ENDED,
  };
  const { guest, host } = world.connect();
  guest.finish(host);
  guest.out();
  guest.in("A").in("FA", { seq: guest.next - 1 });
  assertEquals(guest.out(), []);
  const reset = world.connect();
  reset.guest.in("R");
  assertEquals(world.flows, 0);
  reset.guest.in("A");
  assertEquals(reset.guest.out().map((text) => text[0]), ["R"]);
});
