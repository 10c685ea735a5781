/** Bounds as guests and peers meet them: what happens, what is said, and what goes on. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import {
  bindSocket,
  IP_PKTINFO,
  lastAddress,
  listenSocket,
  localAddress,
  openSocket,
  setOption,
  SOL_IP,
} from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { readPacket, udpPacket } from "../../tests/support/guest_packets.ts";
import { HostTcp, LOOPBACK4 } from "../../tests/support/host_tcp.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { logged } from "../../tests/support/logged.ts";
import { inWorld, type TcpWorld } from "../../tests/support/tcp_world.ts";
import { synOptions } from "../../tests/support/tcp_segment.ts";
import { type GivenLimits, limitsOf } from "../config.ts";
import { Bound, BOUNDS_SIZE, FlowBounds } from "./bounds.ts";
import { FlowKind, FlowTable } from "./table.ts";
import { WaitingFlows } from "./waiting.ts";

const FLOWS = 64;
const ECONNRESET = 104;
const SYN = { options: synOptions(1460, 0) };
const bytes = (text: string) => new TextEncoder().encode(text);

function bounded(
  name: string,
  given: GivenLimits,
  body: (world: TcpWorld) => void,
): void {
  inWorld(name, body, { flows: FLOWS, config: { limits: limitsOf(FLOWS, given) } });
}

/** A port that answers no SYN: as many as its queue holds have connected. */
function silentPort(world: TcpWorld): number {
  const fd = openSocket(2, 1, 6);
  assertEquals(bindSocket(fd, LOOPBACK4, 0, 0), 0);
  assertEquals(listenSocket(fd, 0), 0);
  assert(localAddress(fd));
  const { port } = lastAddress;
  for (let i = 0; i < 2; i++) world.keep(HostTcp.connect(LOOPBACK4, port));
  world.keep(new HostTcp(fd));
  return port;
}

/** The guest opens connections that nobody answers. */
function openInVain(world: TcpWorld, count: number) {
  const port = silentPort(world);
  return Array.from({ length: count }, () => world.guest(port).in("S", SYN));
}

/** Data goes both ways. */
function talks({ guest, host }: ReturnType<TcpWorld["connect"]>, world: TcpWorld): void {
  guest.in("AP", { data: bytes("up") });
  assertEquals(host.receive(), bytes("up"));
  host.send(bytes("down"));
  world.until("data", () => guest.received.length === 4);
  guest.in("A");
}

bounded("the oldest half-open connection makes room", { halfOpen: 3 }, (world) => {
  let silent: ReturnType<typeof openInVain> = [];
  const before = world.connect();
  const lines = logged(() => {
    silent = openInVain(world, 10);
    talks(before, world);
    talks(world.connect(), world);
  });
  assertEquals(world.path.bounds.count(Bound.halfOpen), 2, "one made room for the good");
  assertEquals(world.flowOf(silent[0]), -1);
  assert(world.flowOf(silent[9]) >= 0);
  silent[0].in("S", { ...SYN, seq: 0 });
  assert(world.flowOf(silent[0]) >= 0, "the repeated SYN begins anew");
  assertEquals(silent.flatMap((guest) => guest.out()), [], "nobody is told");
  assertEquals(lines.length, 1);
  assertMatch(lines[0], /^warning: 3 half-open connections .*--max-half-open\).*oldest/);
  assertEquals(world.path.drops.evicted, 8);
});

bounded("half-open connections give way where there is no other room", {
  tcp: 4,
  halfOpen: 4,
}, (world) => {
  const lines = logged(() => {
    openInVain(world, 4);
    for (let i = 0; i < 4; i++) talks(world.connect(), world);
    assertEquals(world.flows, 4);
    const late = world.guest(world.listen().port).in("S", SYN);
    assertEquals([world.flows, late.out()], [4, []], "it waits: all of them are good");
  });
  assertMatch(lines[0], /^warning: 4 half-open connections .*--max-half-open/);
  assertMatch(lines[1], /^warning: 4 TCP connections .*--max-tcp.*SYNs wait$/);
  assertEquals(lines.length, 2);
});

bounded("the oldest connection that the guest does not answer is reset", {
  pendingTcp: 3,
}, (world) => {
  const before = world.connect();
  const listener = world.listen();
  const peers = Array.from(
    { length: 10 },
    () => world.keep(HostTcp.connect(LOOPBACK4, listener.port)),
  );
  const reset = () => peers.filter((peer) => peer.receive() === ECONNRESET).length;
  const lines = logged(() => {
    // While the guest may still answer, connections wait in the kernel.
    for (let i = 0; i < 5; i++) {
      assertEquals(world.path.tcp.onListener(listener.fd, 80), false);
    }
    assertEquals([world.path.bounds.count(Bound.pendingTcp), reset()], [3, 0]);
    for (const more of [false, false, true]) {
      world.advance(1100);
      assertEquals(world.path.tcp.onListener(listener.fd, 80), more);
    }
  });
  assertEquals(world.path.bounds.count(Bound.pendingTcp), 3);
  assertEquals(world.path.drops.evicted, 7);
  const guest = world.guest(peers[9].port, { fromPort: 80 });
  world.advance(1500);
  guest.in("SA", SYN);
  talks({ guest, host: peers[9] }, world);
  talks(before, world);
  assertEquals(world.path.bounds.count(Bound.pendingTcp), 2);
  assertEquals(lines.length, 1);
  assertMatch(lines[0], /^warning: 3 connections to forwarded ports .*--max-pending/);
});

bounded("without buffers of the guest's, connections wait in the kernel", {
  pendingTcp: 2,
}, (world) => {
  world.refill = false;
  const listener = world.listen();
  const peers = [0, 1, 2, 3].map(() =>
    world.keep(HostTcp.connect(LOOPBACK4, listener.port))
  );
  const frame = new DataView(new ArrayBuffer(60));
  for (let i = 0; i < 300 && world.path.sink.send(frame, 60); i++);
  assert(world.path.sink.starved);
  const lines = logged(() => {
    for (let i = 0; i < 2; i++) {
      assertEquals(world.path.tcp.onListener(listener.fd, 80), false);
      world.path.now += 1100;
    }
  });
  assertEquals(world.path.bounds.count(Bound.pendingTcp), 2);
  assertEquals(peers.map((peer) => peer.receive()), peers.map(() => new Uint8Array(0)));
  assertMatch(lines[0], /^warning: 2 connections to forwarded ports/);
  world.path.showFrames();
  world.driver.receive();
  world.post(100);
  world.advance(2200);
  assertEquals(world.path.tcp.onListener(listener.fd, 80), true);
  assertEquals(peers.map((peer) => peer.receive() === ECONNRESET), [
    true,
    true,
    false,
    false,
  ]);
});

bounded("without sockets, SYNs and connections wait until one is free", {
  sockets: 2,
}, (world) => {
  const [one, two] = [world.connect(), world.connect()];
  const listener = world.listen();
  const forwarded = world.listen();
  const peer = world.keep(HostTcp.connect(LOOPBACK4, forwarded.port));
  const late = world.guest(listener.port);
  const lines = logged(() => {
    late.in("S", SYN);
    assertEquals(world.path.tcp.onListener(forwarded.fd, 80), false);
  });
  assertEquals([world.flows, late.out()], [2, []]);
  assertEquals(peer.receive(), new Uint8Array(0), "it is not refused");
  assertEquals(lines.length, 1);
  assertMatch(lines[0], /^warning: 2 sockets are all .*--max-sockets, ulimit -Hn.*wait/);
  one.guest.finish(one.host);
  late.in("S", { ...SYN, seq: 0 });
  world.until("SYN and ACK", () => late.peerIsn !== undefined);
  talks(two, world);
  two.guest.finish(two.host);
  assertEquals(world.path.tcp.onListener(forwarded.fd, 80), true);
  assertEquals(world.flows, 2);
});

inWorld("at the bound of all flows peers are reset and SYNs wait", (world) => {
  const [one, two] = [world.connect(), world.connect()];
  const forwarded = world.listen();
  const peer = world.keep(HostTcp.connect(LOOPBACK4, forwarded.port));
  const late = world.guest(world.listen().port);
  const lines = logged(() => {
    late.in("S", SYN);
    assertEquals(world.path.tcp.onListener(forwarded.fd, 80), true);
  });
  assertEquals([world.flows, late.out()], [2, []]);
  assertEquals(peer.receive(), ECONNRESET);
  assertEquals(lines.length, 1);
  assertMatch(
    lines[0],
    /^warning: 2 flows are all .*--max-flows\): peers are refused, the/,
  );
  one.guest.finish(one.host);
  late.in("S", { ...SYN, seq: 0 });
  world.until("SYN and ACK", () => late.peerIsn !== undefined);
  talks(two, world);
}, { flows: FLOWS, config: { limits: { ...limitsOf(FLOWS), flows: 2 } } });

bounded("flows of one kind leave room for the others", { tcp: 2 }, (world) => {
  for (let i = 0; i < 2; i++) talks(world.connect(), world);
  const lines = logged(() => {
    world.guest(world.listen().port).in("S", SYN);
    const { table } = world.path;
    const udp = table.admit(FlowKind.udp, true);
    assert(udp >= 0);
    table.release(udp);
  });
  assertMatch(lines[0], /^warning: 2 TCP connections are all there may be/);
});

function udpWorld(given: GivenLimits, body: (world: FlowWorld) => void): void {
  const world = new FlowWorld({ config: { limits: limitsOf(1024, given) } });
  try {
    world.driver.post(250, 1526);
    body(world);
  } finally {
    world.close();
  }
}

const OUT = { from: ip("192.0.2.10"), to: ip("192.0.2.1") };

Deno.test("the oldest UDP sender that the guest does not answer is forgotten", () => {
  udpWorld({ udp: 4, pendingUdp: 3 }, (world) => {
    const forwarded = new HostUdp(
      LOOPBACK4,
      (fd) => void setOption(fd, SOL_IP, IP_PKTINFO, 1),
    );
    const peers = Array.from({ length: 10 }, () => new HostUdp(LOOPBACK4));
    const hosts = [new HostUdp(LOOPBACK4), new HostUdp(LOOPBACK4)];
    const lines = logged(() => {
      for (const peer of peers) {
        peer.send(bytes("flood"), LOOPBACK4, forwarded.port);
        world.path.udp.onListener(5, forwarded.fd, 8080);
        world.settle();
      }
    });
    assertEquals(world.frames().length, 10, "the guest gets all of them");
    assertEquals(world.path.bounds.count(Bound.pendingUdp), 3);
    assertEquals(world.path.table.count, 3);
    assertEquals(lines.length, 1);
    assertMatch(lines[0], /^warning: 3 senders to forwarded UDP ports .*--max-pending/);
    // The guest's own find room, and so does its answer.
    world.driver.send(udpPacket(OUT, 8080, peers[9].port, bytes("answer")));
    for (const [i, host] of hosts.entries()) {
      world.driver.send(udpPacket(OUT, 4000 + i, host.port, bytes("own")));
    }
    assertMatch(logged(() => world.settle())[0], /4 UDP flows/);
    assertEquals(peers[9].receive()?.bytes, bytes("answer"));
    assertEquals(
      hosts.map((host) => host.receive()?.bytes),
      hosts.map(() => bytes("own")),
    );
    assertEquals(world.path.table.count, 4);
    assertEquals(world.path.bounds.count(Bound.pendingUdp), 1);
    for (const socket of [forwarded, ...peers, ...hosts]) socket.close();
  });
});

Deno.test("at the bound new UDP flows are dropped, those there go on", () => {
  udpWorld({ udp: 2 }, (world) => {
    const host = new HostUdp(LOOPBACK4);
    const lines = logged(() => {
      for (const port of [1, 2, 3, 4, 1, 2]) {
        world.driver.send(udpPacket(OUT, port, host.port, bytes("to")));
      }
      world.settle();
    });
    let came = 0;
    for (let got = host.receive(); got !== undefined; got = host.receive()) {
      host.send(bytes("fro"), got.from, got.port);
      came++;
    }
    world.settle();
    assertEquals([came, world.path.drops.flows], [4, 2]);
    assertEquals(world.frames().map(readPacket).length, 4);
    assertEquals(lines.length, 1);
    assertMatch(
      lines[0],
      /^warning: 2 UDP flows .*--max-udp\): datagrams .* are dropped$/,
    );
    host.close();
  });
});

Deno.test("a turn takes no more frames of the guest than its budget", () => {
  udpWorld({ budget: 16 }, (world) => {
    const host = new HostUdp(LOOPBACK4);
    for (let i = 0; i < 100; i++) {
      world.driver.send(udpPacket(OUT, 1, host.port, bytes("x")));
    }
    const lines = logged(() => {
      world.path.kicked(1);
      world.path.turn();
      assertEquals(world.path.source.taken, 16);
      assertEquals(world.path.timeout(), 0, "the rest comes right after");
      while (world.path.timeout() === 0) world.settle();
    }, "debug");
    assertEquals(world.path.source.taken, 100);
    assertEquals(lines.filter((line) => line.includes("--budget")).length, 1);
    host.close();
  });
});

Deno.test("threads count together, and what moves between them stays counted", () => {
  const memory = new SharedArrayBuffer(BOUNDS_SIZE);
  const limits = limitsOf(8, { tcp: 4, udp: 4, sockets: 5 });
  const tables = [0, 1].map(() =>
    new FlowTable(8, undefined, new FlowBounds(limits, memory))
  );
  const [one, two] = tables;
  const flows = [0, 1, 2].map(() => one.admit(FlowKind.tcp, true));
  const other = two.admit(FlowKind.tcp, true);
  assert(flows.every((flow) => flow >= 0) && other >= 0);
  for (const table of tables) {
    assertEquals(table.admit(FlowKind.tcp, true), -1);
    assertEquals(table.bounds.met, Bound.tcp);
  }
  assert(two.admit(FlowKind.udp, true) >= 0);
  assertEquals(one.admit(FlowKind.udp, true), -1);
  assertEquals(one.bounds.met, Bound.sockets);
  // From the first thread to the second.
  one.release(flows[0], true);
  assertEquals(two.admit(FlowKind.tcp, false), -1, "it is on its way");
  const moved = two.allocate(FlowKind.tcp, true);
  two.ownSocket(moved, true);
  assertEquals(one.bounds.count(Bound.tcp), 4);
  two.release(moved);
  assertEquals([Bound.flows, Bound.tcp, Bound.sockets].map((b) => one.bounds.count(b)), [
    4,
    3,
    4,
  ]);
  assert(one.admit(FlowKind.tcp, true) >= 0);
});

Deno.test("flows that wait leave in the order of their coming, or before", () => {
  const step = fc.tuple(
    fc.constantFrom("enter", "leave", "oldest"),
    fc.nat(15),
    fc.nat(2),
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
    const bounds = new FlowBounds();
    const waiting = new WaitingFlows(16, bounds);
    const model: number[][] = [[], [], []];
    for (const [what, flow, list] of steps) {
      const bound = Bound.halfOpen + list;
      if (what === "oldest") {
        assertEquals(waiting.oldest(bound), model[list][0] ?? -1);
        continue;
      }
      for (const flows of model) {
        if (flows.includes(flow)) flows.splice(flows.indexOf(flow), 1);
      }
      if (what === "enter") {
        model[list].push(flow);
        waiting.enter(flow, bound);
      } else waiting.leave(flow);
      assertEquals(model.map((_, i) => bounds.count(Bound.halfOpen + i)), [
        ...model.map(({ length }) => length),
      ]);
    }
  }));
});
