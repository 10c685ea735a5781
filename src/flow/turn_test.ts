/** One busy flow does not keep a turn for itself: others have theirs, the rest follows. */
import { assert, assertEquals } from "@std/assert";
import { awaitReady, POLLIN } from "../../ffi/pipe.ts";
import { IP_PKTINFO, setOption, SOL_IP } from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { readPacket, udpPacket } from "../../tests/support/guest_packets.ts";
import { LOOPBACK4, LOOPBACK6 } from "../../tests/support/host_tcp.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { inWorld, pattern } from "../../tests/support/tcp_world.ts";
import { limitsOf } from "../config.ts";

const OUT = { from: ip("192.0.2.10"), to: ip("192.0.2.1") };
const DATAGRAMS = 120;
const BUDGET = 16;
const LISTENER = 5;
const PATIENCE_MS = 10_000;

/** Lengths of the datagrams that have come to the guest. */
function lengths(world: FlowWorld): number[] {
  return world.frames().map((frame) => readPacket(frame).payload.length);
}

/** One turn of the loop, with what sockets have to say. */
function turn(world: FlowWorld): void {
  const count = world.epoll.wait(0);
  world.path.now = performance.now();
  for (let i = 0; i < count; i++) world.event(i);
  world.path.turn();
}

/** What was sent on loopback before is there once this socket has something, too. */
function arrived(fd: number): void {
  assert(awaitReady(fd, POLLIN, PATIENCE_MS), "nothing has come");
}

/** All turns that follow one another without waiting. */
function rest(world: FlowWorld): number[] {
  const all: number[] = [];
  for (let i = 0; i < DATAGRAMS && world.path.timeout() === 0; i++) {
    turn(world);
    all.push(...lengths(world));
  }
  return all;
}

function udpWorld(body: (world: FlowWorld) => void): void {
  const world = new FlowWorld({ config: { limits: limitsOf(1024, { budget: BUDGET }) } });
  try {
    world.driver.post(250, 1526);
    body(world);
  } finally {
    world.close();
  }
}

Deno.test("a busy UDP flow leaves room for others in each turn", () => {
  udpWorld((world) => {
    const [busy, other] = [new HostUdp(LOOPBACK4), new HostUdp(LOOPBACK4)];
    const ports = [busy, other].map((host, i) => {
      world.driver.send(udpPacket(OUT, 4000 + i, host.port, new Uint8Array(1)));
      world.settle();
      return host.receive()!.port;
    });
    const one = new Uint8Array(1);
    for (let i = 0; i < DATAGRAMS; i++) busy.send(one, LOOPBACK4, ports[0]);
    other.send(new Uint8Array(2), LOOPBACK4, ports[1]);
    const { path: { table } } = world;
    arrived(table.fd(table.limit - 1));
    turn(world);
    const first = lengths(world);
    assert(first.includes(2), "the other has its turn");
    assert(first.length < DATAGRAMS, `${first.length} in one turn`);
    assertEquals(first.length + rest(world).length, DATAGRAMS + 1);
    for (const host of [busy, other]) host.close();
  });
});

Deno.test("a flood towards a forwarded UDP port is taken a share at a time", () => {
  udpWorld((world) => {
    const forwarded = new HostUdp(
      LOOPBACK4,
      (fd) => void setOption(fd, SOL_IP, IP_PKTINFO, 1),
    );
    const peer = new HostUdp(LOOPBACK4);
    const one = new Uint8Array(1);
    for (let i = 0; i < DATAGRAMS; i++) peer.send(one, LOOPBACK4, forwarded.port);
    const last = new HostUdp(LOOPBACK4);
    peer.send(one, LOOPBACK4, last.port);
    arrived(last.fd);
    world.path.udp.onListener(LISTENER, forwarded.fd, 8080);
    world.path.showFrames();
    const first = lengths(world);
    assert(first.length < DATAGRAMS / 2, `${first.length} at once`);
    assertEquals(first.length + rest(world).length, DATAGRAMS);
    for (const host of [forwarded, peer, last]) host.close();
  });
});

for (const six of [false, true]) {
  inWorld(`a busy TCP connection leaves room for others in each turn, ${six ? 6 : 4}`, (
    world,
  ) => {
    const address = six ? LOOPBACK6 : LOOPBACK4;
    const [busy, other] = [0, 1].map(() =>
      world.connect({ six, listener: world.listen(address) })
    );
    const data = pattern(60_000);
    assertEquals(busy.host.send(data), data.length);
    other.host.send(pattern(100));
    arrived(world.path.table.fd(world.flowOf(other.guest)));
    world.turn();
    assertEquals(other.guest.received.length, 100, "the other has its turn");
    const { length } = busy.guest.received;
    assert(length > 0 && length < data.length, `${length} bytes in one turn`);
    assertEquals(world.path.timeout(), 0, "the rest comes right after");
    world.until("the rest", () => busy.guest.received.length === data.length);
  }, { config: { limits: limitsOf(64, { budget: 1 }) } });
}
