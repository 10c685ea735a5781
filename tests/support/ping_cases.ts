/**
 * Pings between a driver's rings and the loopback of a network namespace of their own,
 * where ping sockets are allowed: started by src/flow/ping_test.ts, once as it is and once
 * with the MTU that loopback was given as argument. Exit status 0 if all is well.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { awaitReady, POLLIN } from "../../ffi/pipe.ts";
import { limitsOf } from "../../src/config.ts";
import { ip } from "./flow_config.ts";
import { FlowWorld } from "./flow_world.ts";
import { type Addresses, echoPacket, readPacket, udpPacket } from "./guest_packets.ts";
import { logged } from "./logged.ts";

const FAMILIES = [
  { out: { from: ip("192.0.2.10"), to: ip("192.0.2.1") }, reply: [1, 0], most: 1472 },
  { out: { from: ip("2001:db8::10"), to: ip("fe80::1") }, reply: [58, 129], most: 1452 },
] as const;

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 0xff);
}

/** Settles until the world has as many frames as are expected. */
function frames(world: FlowWorld, count: number): Uint8Array[] {
  const got: Uint8Array[] = [];
  for (let turns = 0; got.length < count && turns < 1000; turns++) {
    world.settle();
    got.push(...world.frames());
  }
  return got;
}

/** Identifier, sequence number and payload come back as they were sent. */
function echoes(mergeable: boolean, guestChecksum: boolean, ...buffer: number[]): void {
  const world = new FlowWorld({ mergeable, guestChecksum });
  world.driver.post(Math.floor(200 / buffer.length), ...buffer);
  for (const { out, reply, most } of FAMILIES) {
    const sizes = [0, 1, 56, 1000, most];
    for (const [i, size] of sizes.entries()) {
      world.driver.send(echoPacket(out, 0x1234 + (i & 1), i, pattern(size)), [12, 50]);
    }
    const got = frames(world, sizes.length);
    assertEquals(got.length, sizes.length);
    if (guestChecksum) continue; // the guest would complete them
    const packets = got.map(readPacket);
    for (const { from, to, protocol, transport } of packets) {
      assertEquals([from, to], [out.to, out.from]);
      assertEquals([protocol, transport.getUint8(0), transport.getUint8(1)], [
        ...reply,
        0,
      ]);
    }
    const seen = packets.map(({ transport, payload }) => [
      transport.getUint16(6),
      transport.getUint16(4),
      payload,
    ]).toSorted(([a], [b]) => Number(a) - Number(b));
    assertEquals(
      seen,
      sizes.map((size, i) => [i, 0x1234 + (i & 1), pattern(size)]),
    );
  }
  assertEquals(world.path.table.count, 4);
  world.path.now += 61_000;
  world.path.turn();
  assertEquals(world.path.table.count, 0);
  world.close();
}

/** No route: the host refuses at once, and the guest is told. */
function noRoute(): void {
  const world = new FlowWorld();
  world.driver.post(8, 1526);
  const beyond: Addresses = { from: ip("192.0.2.10"), to: ip("198.51.100.1") };
  world.driver.send(echoPacket(beyond, 1, 1, pattern(10)));
  world.driver.send(udpPacket(beyond, 4000, 4001, pattern(10)));
  const told = frames(world, 2).map(readPacket);
  assertEquals(told.map(({ transport }) => transport.getUint16(0)), [0x0300, 0x0300]);
  assertEquals(world.path.table.count, 0);
  world.close();
}

/** Anything but a request is nobody's. */
function others(): void {
  const world = new FlowWorld();
  const [{ out }] = FAMILIES;
  const request = echoPacket(out, 1, 1, pattern(10));
  request[34] = 0;
  world.driver.send(request);
  world.settle();
  assertEquals(world.path.drops.protocol, 1);
  assertEquals(world.path.table.count, 0);
  world.close();
}

/** Beyond the path's MTU, but no more than an Ethernet carries. */
function tooBig(mtu: number): void {
  const world = new FlowWorld({ config: { mtu: 9000 } });
  world.driver.post(8, 9026);
  const [{ out }] = FAMILIES;
  world.driver.send(echoPacket(out, 1, 1, pattern(mtu)));
  world.driver.send(udpPacket(out, 4000, 4001, pattern(mtu)));
  for (const { transport, protocol } of frames(world, 2).map(readPacket)) {
    assertEquals([protocol, transport.getUint16(0)], [1, 0x0304]);
    assertEquals(transport.getUint16(6), mtu);
  }
  // A guest that lets others cut its packets up is served: the host does it.
  const cut = udpPacket(out, 4000, 4001, pattern(mtu));
  cut[20] = 0;
  const checksum = new DataView(cut.buffer);
  checksum.setUint16(24, checksum.getUint16(24) + 0x4000);
  world.driver.send(cut);
  const told = frames(world, 1).map(readPacket);
  assertEquals(told[0]?.transport.getUint16(0), 0x0303); // it arrived: port unreachable
  world.close();
}

/** What no Ethernet carries whole is cut, and arrives: there is an answer to each. */
function cut(): void {
  const world = new FlowWorld({ config: { mtu: 65520 } });
  world.driver.post(200, 1526);
  for (const { out, reply } of FAMILIES) {
    const refused = reply[0] === 1 ? [1, 0x0303] : [58, 0x0104];
    for (const size of [1473, 8000, 60000]) {
      world.driver.send(udpPacket(out, 4000, 4001, pattern(size)));
      const [answer] = frames(world, 1).map(readPacket);
      assertEquals([answer?.protocol, answer?.transport.getUint16(0)], refused);
    }
    world.driver.send(echoPacket(out, 1, 2, pattern(8000)));
    const [echo] = frames(world, 1).map(readPacket);
    assertEquals(echo?.payload, pattern(8000));
    // A small one after that: its sender hears of the path again.
    world.driver.send(echoPacket(out, 1, 3, pattern(1420)));
    const [told] = frames(world, 1).map(readPacket);
    assertEquals(told?.transport.getUint16(0), reply[0] === 1 ? 0x0304 : 0x0200);
  }
  world.close();
}

/** At the bound a new one has no answer, those that are there go on; the log says so. */
function bound(): void {
  const world = new FlowWorld({ config: { limits: limitsOf(64, { ping: 2 }) } });
  world.driver.post(64, 1526);
  const [{ out }] = FAMILIES;
  const lines = logged(() => {
    for (const id of [1, 2, 3, 1]) world.driver.send(echoPacket(out, id, 1, pattern(56)));
    const got = frames(world, 3).map(readPacket);
    assertEquals(got.map(({ transport }) => transport.getUint16(4)).sort(), [1, 1, 2]);
  });
  assertEquals(world.path.drops.flows, 1);
  assertEquals(lines.length, 1);
  assertMatch(lines[0], /^warning: 2 ping flows .*--max-ping\): requests .* dropped$/);
  world.close();
}

/** A flood of replies for one identifier is taken a share at a time, others in between. */
function turns(): void {
  const many = 40;
  const world = new FlowWorld({ config: { limits: limitsOf(64, { budget: 64 }) } });
  world.driver.post(64, 1526);
  const [{ out }] = FAMILIES;
  for (let i = 0; i < many; i++) world.driver.send(echoPacket(out, 1, i, pattern(8)));
  world.driver.send(echoPacket(out, 2, many, pattern(8)));
  world.path.kicked(1);
  world.path.turn();
  const { table } = world.path;
  assert(awaitReady(table.fd(table.limit - 1), POLLIN, 10_000), "an answer to the last");
  for (let left = world.epoll.wait(0) - 1; left >= 0; left--) world.event(left);
  world.path.turn();
  const first = world.frames().map(readPacket);
  assert(first.some(({ transport }) => transport.getUint16(4) === 2), "the other's turn");
  assert(first.length < many, `${first.length} in one turn`);
  assertEquals(first.length + frames(world, many + 1 - first.length).length, many + 1);
  world.close();
}

const [mtu] = Deno.args;
if (mtu === undefined) {
  echoes(true, false, 1526);
  echoes(true, false, 100);
  echoes(false, false, 12, 60, 1500);
  echoes(true, true, 1526);
  noRoute();
  bound();
  turns();
  others();
} else {
  tooBig(Number(mtu));
  cut();
}
