/** Sockets that raise no events while datagrams come fast. */
import { assert, assertEquals } from "@std/assert";
import { Epoll, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { readPacket, udpPacket } from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { eventData, EventKind } from "./context.ts";
import { PacedSockets } from "./paced_sockets.ts";

const LOOPBACK = ip("127.0.0.1");
const DATA = 0x0200_0007;
const HIGH = 5;

function withSocket(body: (paced: PacedSockets, epoll: Epoll, socket: HostUdp) => void) {
  const epoll = new Epoll();
  const socket = new HostUdp(LOOPBACK);
  epoll.add(socket.fd, EPOLLIN + EPOLLET, DATA, HIGH);
  try {
    body(new PacedSockets(epoll), epoll, socket);
  } finally {
    socket.close();
    epoll.close();
  }
}

function send(socket: HostUdp): void {
  socket.send(new Uint8Array(1), LOOPBACK, socket.port);
}

Deno.test("a socket that gets many datagrams in little time raises no events", () => {
  withSocket((paced, epoll, socket) => {
    paced.note(socket.fd, DATA, HIGH, 99, 10);
    assertEquals([paced.count, paced.untilDue(10)], [0, -1]);
    paced.note(socket.fd, DATA, HIGH, 99, 12); // that was too long ago
    assertEquals(paced.count, 0);
    paced.note(socket.fd, DATA, HIGH, 1, 12.5);
    assertEquals(paced.count, 1);
    send(socket);
    assertEquals(epoll.wait(0), 0);
    assertEquals(paced.due(12.5), false);
    assertEquals(paced.due(13), true);
    assertEquals(paced.due(13), false);
    assertEquals(paced.data(0), DATA);
  });
});

Deno.test("what came when a socket goes back to events is one", () => {
  withSocket((paced, epoll, socket) => {
    paced.note(socket.fd, DATA, HIGH, 100, 0);
    send(socket);
    paced.looked(0, 50);
    assertEquals([paced.count, epoll.wait(0)], [1, 0]);
    paced.looked(0, 0);
    assertEquals(paced.count, 0);
    assertEquals(epoll.wait(0), 1);
    assertEquals([epoll.data(0), epoll.high(0)], [DATA, HIGH]);
  });
});

Deno.test("a socket that is forgotten leaves the others", () => {
  withSocket((paced, epoll, socket) => {
    const others = [1, 2, 3].map(() => new HostUdp(LOOPBACK));
    others.forEach(({ fd }, i) => epoll.add(fd, EPOLLIN + EPOLLET, i));
    paced.note(socket.fd, DATA, HIGH, 100, 0);
    others.forEach(({ fd }, i) => paced.note(fd, i, 0, 100, 0));
    paced.note(socket.fd, DATA, HIGH, 100, 0);
    assertEquals(paced.count, 4);
    paced.forget(socket.fd);
    paced.forget(socket.fd);
    const left = [0, 1, 2].map((i) => paced.data(i));
    assertEquals(left.toSorted(), [0, 1, 2]);
    for (const other of others) other.close();
    paced.looked(0, 0); // closed meanwhile: nothing to watch
    assertEquals(paced.count, 2);
  });
});

Deno.test("a flow's datagrams reach the guest without events while they come fast", () => {
  const world = new FlowWorld({});
  const server = new HostUdp(LOOPBACK);
  try {
    const { path, driver } = world;
    driver.post(250, 1526);
    const out = { from: ip("192.0.2.10"), to: ip("192.0.2.1") };
    driver.send(udpPacket(out, 40000, server.port, new Uint8Array(1)));
    world.settle();
    const { port } = server.receive()!;
    const flood = (count: number, salt: number) => {
      for (let i = 0; i < count; i++) {
        server.send(Uint8Array.of(salt, i), LOOPBACK, port);
      }
      return Array.from({ length: count }, (_, i) => [salt, i]);
    };
    const payloads = () => world.frames().map((f) => [...readPacket(f).payload]);
    const first = flood(110, 1);
    assertEquals(world.epoll.wait(0), 1);
    world.event(0);
    path.turn();
    const second = flood(20, 2);
    // Were it for events, nothing would come.
    assertEquals(world.epoll.wait(0), 0);
    assert(path.timeout() < 0.1, `the loop would wait ${path.timeout()} ms`);
    path.now += 1;
    path.turn();
    assertEquals(payloads(), [...first, ...second]);
    path.now += 1;
    path.turn(); // nothing any more
    const third = flood(2, 3);
    world.settle();
    assertEquals(payloads(), third);
  } finally {
    server.close();
    world.close();
  }
});

Deno.test("so do those of a forwarded port, until it is closed", () => {
  const world = new FlowWorld({});
  const listener = new HostUdp(LOOPBACK);
  const peer = new HostUdp(LOOPBACK);
  try {
    const { path, driver, epoll } = world;
    driver.post(250, 1526);
    epoll.add(listener.fd, EPOLLIN + EPOLLET, eventData(EventKind.udpListener, 3));
    const flood = (count: number) => {
      for (let i = 0; i < count; i++) {
        peer.send(new Uint8Array(i), LOOPBACK, listener.port);
      }
    };
    flood(120);
    assertEquals(epoll.wait(0), 1);
    path.udp.onListener(3, listener.fd, 8080, undefined, epoll.events(0));
    path.turn();
    assertEquals(world.frames().length, 120);
    flood(12);
    assertEquals(epoll.wait(0), 0);
    path.now += 1;
    path.turn();
    assertEquals(world.frames().length, 12);
    assert(path.udp.untilPoll() >= 0);
    path.udp.forgetListener(3);
    assertEquals(path.udp.untilPoll(), -1);
    // Nobody looks any more.
    flood(1);
    path.now += 1;
    path.turn();
    assertEquals(world.frames().length, 0);
  } finally {
    peer.close();
    listener.close();
    world.close();
  }
});
