/** What moves with a guest, though neither end of a connection sees it at once. */
import { assert, assertEquals } from "@std/assert";
import { awaitReady, POLLOUT } from "../../ffi/pipe.ts";
import {
  getOption,
  IP_MTU_DISCOVER,
  IP_TTL,
  lastAddress,
  localAddress,
  PMTUDISC_DONT,
  SOL_IP,
} from "../../ffi/socket.ts";
import type { ForwardRule } from "../../src/config.ts";
import { FLOW_WORDS, FlowKind } from "../../src/flow/table.ts";
import { UdpFlag, UdpWord } from "../../src/flow/udp_layout.ts";
import { Forwarder } from "../../src/flow/forward.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import { OwnRepair } from "../../src/repair/switch.ts";
import { ip } from "../support/flow_config.ts";
import { FlowWorld } from "../support/flow_world.ts";
import { freePorts } from "../support/free_ports.ts";
import { udpPacket } from "../support/guest_packets.ts";
import { HostTcp } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { leave, repair, restore, save } from "../support/tcp_move.ts";
import { pattern } from "../support/tcp_world.ts";
import { inWorlds, readAll } from "../support/two_worlds.ts";

const FACTS = { featuresLo: 0, featuresHi: 1 };
const LOOPBACK = ip("127.0.0.1");

for (const six of [false, true]) {
  const name = `losses that are being repaired, and silence (${six ? "IPv6" : "IPv4"})`;
  inWorlds(name, (source, target) => {
    const { guest, host } = source.connect({ six });
    host.send(pattern(4000));
    source.until("data", () => guest.received.length === 4000);
    guest.in("A");
    host.send(pattern(4000, 4000));
    source.until("data", () => guest.received.length === 8000);
    // The guest has lost the peer's last segments, the device one of the guest's.
    for (let i = 0; i < 4; i++) guest.in("A", { ack: 4001 });
    guest.in("A", { seq: guest.next + 1000, ack: 4001, data: pattern(500, 1000) });
    source.path.now += 100;
    const moved = save(source);
    const [{ gap, gapEnd, recover, idle }] = moved.records;
    assertEquals([gap, gapEnd], [1, guest.isn + guest.next + 1500]);
    assertEquals(recover - guest.peerIsn! | 0, 8001);
    assert(idle >= 100 && idle < 60_000, `${idle} ms`);
    leave(source);
    restore(target, moved);
    // Still frozen: what would move on is what has come.
    const [again] = target.path.tcp.save(() => 0);
    assertEquals(
      [again.gap, again.gapEnd, again.recover, again.idle],
      [gap, gapEnd, recover, idle],
    );
    target.adopt(guest);
    assertEquals(target.path.tcp.thaw(repair), 0);
    target.settle();
    guest.in("A", { data: pattern(1500) });
    assertEquals(readAll(target, host, 1500), pattern(1500));
    guest.finish(host);
    assertEquals(Uint8Array.from(guest.received), pattern(8000));
  });
}

Deno.test("a UDP flow keeps its port, its packets' fields and how long it was idle", () => {
  const world = new FlowWorld();
  const { table } = world.path;
  world.driver.post(64, 2048);
  const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
  const peer = new HostUdp(LOOPBACK);
  const out = { from: ip("192.0.2.10"), to: ip("192.0.2.1") };
  world.driver.send(udpPacket(out, 4000, peer.port, pattern(3)));
  world.settle();
  const port = peer.receive()?.port;
  const flow = () => {
    for (let i = 0; i < table.limit; i++) if (table.kind(i) === FlowKind.udp) return i;
    throw new Error("there is no flow");
  };
  const at = flow() * FLOW_WORDS;
  table.words[at + UdpWord.ttl] = 5;
  table.words[at] |= UdpFlag.fragments;
  world.path.now += 50_000;
  assertEquals(move.freeze(), 0);
  const state = move.save();
  const [{ idle }] = state.udp;
  assert(idle >= 50_000 && idle < 60_000, `${idle} ms`);
  move.discard();
  assertEquals(table.count, 0);
  assertEquals(move.restore(state), 0);
  assertEquals(move.save().udp.map((flow) => flow.idle), [idle]);
  const fd = table.fd(flow());
  assert(localAddress(fd));
  assertEquals(lastAddress.port, port);
  assertEquals(getOption(fd, SOL_IP, IP_TTL), 5);
  assertEquals(getOption(fd, SOL_IP, IP_MTU_DISCOVER), PMTUDISC_DONT);
  move.discard();
  peer.close();
  world.close();
});

Deno.test("who was let in before the guest left, and not accepted, moves with it", () => {
  const world = new FlowWorld();
  const { path } = world;
  const first = freePorts(1);
  const rule: ForwardRule = {
    protocol: "tcp",
    address: LOOPBACK,
    first,
    last: first,
    guestFirst: 80,
    weak: false,
  };
  Object.assign(path.config, { forwards: [rule] });
  const forwarder = new Forwarder(path);
  forwarder.open();
  const move = new GuestMove(path, forwarder, () => FACTS);
  move.repair = new OwnRepair();
  // As QEMU has it: the rings are stopped first.
  path.stopQueue(0);
  path.stopQueue(1);
  const peers = [HostTcp.connect(LOOPBACK, first), HostTcp.connect(LOOPBACK, first)];
  for (const { fd } of peers) assert(awaitReady(fd, POLLOUT, 10_000));
  assertEquals(move.freeze(), 0);
  assertEquals(move.save().tcp.map(({ lost }) => lost), ["", ""]);
  move.discard();
  for (const peer of peers) peer.close();
  forwarder.close();
  world.close();
});
