/** UDP between a driver's rings and real sockets on loopback. */
import { assert, assertEquals } from "@std/assert";
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import {
  IP_PKTINFO,
  IP_RECVERR,
  IPV6_RECVERR,
  IPV6_RECVPKTINFO,
  IPV6_V6ONLY,
  setOption,
  SOL_IP,
  SOL_IPV6,
} from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld, type WorldOptions } from "../../tests/support/flow_world.ts";
import {
  type Addresses,
  readPacket,
  udpPacket,
} from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { eventData, EventKind } from "./context.ts";

const GUEST4 = ip("192.0.2.10");
const HOST4 = ip("192.0.2.1");
const GUEST6 = ip("2001:db8::10");
const HOST6 = ip("fe80::1");
const OUT4: Addresses = { from: GUEST4, to: HOST4 };
const OUT6: Addresses = { from: GUEST6, to: HOST6 };
const FAMILIES = [
  { name: "IPv4", out: OUT4, loopback: ip("127.0.0.1"), headers: 28 },
  { name: "IPv6", out: OUT6, loopback: ip("::1"), headers: 48 },
] as const;
const GUEST_PORT = 40000;

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + length) & 0xff);
}

function withWorld(options: WorldOptions, body: (world: FlowWorld) => void): void {
  const world = new FlowWorld(options);
  try {
    body(world);
  } finally {
    world.close();
  }
}

function withSocket(
  address: Uint8Array,
  body: (socket: HostUdp) => void,
  prepare?: (fd: number) => void,
): void {
  const socket = new HostUdp(address, prepare);
  try {
    body(socket);
  } finally {
    socket.close();
  }
}

/** Sends datagrams of these sizes out and back; checks every byte and address. */
function echo(
  world: FlowWorld,
  server: HostUdp,
  out: Addresses,
  sizes: readonly number[],
  cuts: readonly number[],
): void {
  for (const size of sizes) {
    world.driver.send(udpPacket(out, GUEST_PORT, server.port, pattern(size)), cuts);
  }
  world.settle();
  assertEquals(world.driver.sent(), sizes.length);
  for (const size of sizes) {
    const got = server.receive();
    assert(got !== undefined, `nothing came of ${size} bytes`);
    assertEquals(got.bytes, pattern(size));
    server.send(got.bytes, got.from, got.port);
  }
  world.settle();
  const packets = world.frames().map(readPacket);
  assertEquals(packets.map(({ payload }) => payload), sizes.map(pattern));
  for (const { from, to, transport } of packets) {
    assertEquals([from, to], [out.to, out.from]);
    const ports = [transport.getUint16(0), transport.getUint16(2)];
    assertEquals(ports, [server.port, GUEST_PORT]);
  }
}

for (const { name, out, loopback, headers } of FAMILIES) {
  const most = 1500 - headers;
  const sizes = [0, 1, 2, 3, 7, 8, 63, 64, 511, 1000, most - 1, most];
  const shapes = [
    { shape: "one buffer a frame", mergeable: true, buffer: [1526] },
    { shape: "not mergeable", mergeable: false, buffer: [12, 1514] },
    { shape: "frames over many small buffers", mergeable: true, buffer: [100] },
    { shape: "buffers cut anywhere", mergeable: false, buffer: [5, 30, 13, 1, 1477] },
  ];
  for (const { shape, mergeable, buffer } of shapes) {
    Deno.test(`${name}: echo, ${shape}`, () => {
      withWorld({ mergeable, ring: { start: 65500 } }, (world) => {
        world.driver.post(Math.floor(256 / buffer.length), ...buffer);
        withSocket(loopback, (server) => {
          echo(world, server, out, sizes, [12]);
          assertEquals(world.path.table.count, 1);
          assertEquals(world.path.udp.counters.opened, 1);
        });
      });
    });
  }

  Deno.test(`${name}: frames of the guest cut into any descriptors`, () => {
    withWorld({}, (world) => {
      world.driver.post(250, 1526);
      withSocket(loopback, (server) => {
        echo(world, server, out, [300, 0, 5], []);
        echo(world, server, out, [300, 1, 5], [1, 12, 13, 40, 41, 53, 54, 62, 63, 70]);
      });
    });
  });

  Deno.test(`${name}: a closed port is told to the guest as port unreachable`, () => {
    withWorld({}, (world) => {
      world.driver.post(8, 1526);
      let port = 0;
      withSocket(loopback, (server) => port = server.port);
      const sent = udpPacket(out, GUEST_PORT, port, pattern(20));
      world.driver.send(sent);
      world.settle();
      const [told] = world.frames().map(readPacket);
      assert(told !== undefined, "the guest was told nothing");
      const expected = name === "IPv4" ? [1, 3, 3] : [58, 1, 4];
      const { protocol, transport, from, to } = told;
      assertEquals([protocol, transport.getUint8(0), transport.getUint8(1)], expected);
      assertEquals([from, to], [out.to, out.from]);
      // Addresses and ports of the quoted packet are those that the guest used.
      const ends = name === "IPv4" ? 12 : 8;
      const headers = name === "IPv4" ? 24 : 44;
      assertEquals(
        told.payload.slice(ends, headers),
        sent.slice(14 + ends, 14 + headers),
      );
    });
  });

  Deno.test(`${name}: datagrams beyond the MTU are dropped, the others arrive`, () => {
    withWorld({ mergeable: false }, (world) => {
      world.driver.post(64, 1526);
      withSocket(loopback, (server) => {
        world.driver.send(udpPacket(out, GUEST_PORT, server.port, pattern(1)));
        world.settle();
        const hello = server.receive();
        assert(hello !== undefined);
        const sizes = [10, most + 1, 20, 5000, most, 30];
        for (const size of sizes) server.send(pattern(size), hello.from, hello.port);
        world.settle();
        const got = world.frames().map((frame) => readPacket(frame).payload);
        assertEquals(got, [10, 20, most, 30].map(pattern));
        assertEquals(world.path.drops.tooBig, 2);
      });
    });
  });

  Deno.test(`${name}: what finds no receive buffer waits in the socket`, () => {
    withWorld({}, (world) => {
      withSocket(loopback, (server) => {
        world.driver.send(udpPacket(out, GUEST_PORT, server.port, pattern(1)));
        world.settle();
        const hello = server.receive();
        assert(hello !== undefined);
        for (let i = 0; i < 100; i++) {
          server.send(pattern(i), hello.from, hello.port);
        }
        world.settle();
        assertEquals(world.frames(), []);
        assertEquals(world.path.udp.waiting, 1);
        const got: Uint8Array[] = [];
        while (got.length < 100) {
          world.driver.post(7, 1526);
          world.path.kicked(0);
          world.settle();
          const some = world.frames().map((frame) => readPacket(frame).payload);
          assert(some.length > 0, `only ${got.length} came`);
          got.push(...some);
        }
        assertEquals(got, Array.from({ length: 100 }, (_, i) => pattern(i)));
      });
    });
  });

  Deno.test(`${name}: a forwarded port, with replies from the address sent to`, () => {
    withWorld({}, (world) => {
      world.driver.post(250, 1526);
      const any = name === "IPv4" ? ip("0.0.0.0") : ip("::");
      withSocket(any, (listener) => {
        withSocket(loopback, (peer) => {
          forwarded(world, listener, peer, loopback, out);
        });
      }, prepareListener);
    });
  });
}

function prepareListener(fd: number): void {
  setOption(fd, SOL_IP, IP_RECVERR, 1);
  setOption(fd, SOL_IPV6, IPV6_RECVERR, 1);
  setOption(fd, SOL_IP, IP_PKTINFO, 1);
  setOption(fd, SOL_IPV6, IPV6_V6ONLY, 0);
  setOption(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1);
}

function watch(world: FlowWorld, listener: HostUdp): void {
  const data = eventData(EventKind.udpListener, 5);
  world.epoll.add(listener.fd, EPOLLIN + EPOLLET, data);
  const event = world.event.bind(world);
  world.event = (i) => {
    if (world.epoll.data(i) !== data) return event(i);
    const events = world.epoll.events(i);
    world.path.udp.onListener(5, listener.fd, 8080, undefined, events);
  };
}

/** A peer's datagrams reach the guest's port 8080, and the guest's answers the peer. */
function forwarded(
  world: FlowWorld,
  listener: HostUdp,
  peer: HostUdp,
  loopback: Uint8Array,
  out: Addresses,
): void {
  watch(world, listener);
  for (const size of [0, 1, 1000]) peer.send(pattern(size), loopback, listener.port);
  world.settle();
  const packets = world.frames().map(readPacket);
  assertEquals(packets.map(({ payload }) => payload), [0, 1, 1000].map(pattern));
  for (const { from, to, transport } of packets) {
    assertEquals([from, to], [out.to, out.from]);
    assertEquals([transport.getUint16(0), transport.getUint16(2)], [peer.port, 8080]);
  }
  // Of these, some go out together: each message names the address to come from.
  const answers = [77, 77, 20, 0, 300, 300, 300];
  for (const size of answers) {
    world.driver.send(udpPacket(out, 8080, peer.port, pattern(size)));
  }
  world.settle();
  for (const size of answers) {
    const answer = peer.receive();
    assert(answer !== undefined, "the guest's answer did not arrive");
    assertEquals(answer.bytes, pattern(size));
    assertEquals([answer.from, answer.port], [loopback, listener.port]);
  }
  assertEquals(world.path.table.count, 1);
}

Deno.test("a listener of both families tells them apart, whichever comes", () => {
  withWorld({}, (world) => {
    world.driver.post(250, 1526);
    withSocket(ip("::"), (listener) => {
      watch(world, listener);
      withSocket(ip("127.0.0.1"), (peer4) => {
        withSocket(ip("::1"), (peer6) => {
          const sent = [4, 6, 6, 4, 4, 6].map((family, i) => {
            const [peer, to] = family === 4
              ? [peer4, ip("127.0.0.1")]
              : [peer6, ip("::1")];
            peer.send(pattern(100 + i), to, listener.port);
            return pattern(100 + i);
          });
          world.settle();
          const packets = world.frames().map(readPacket);
          assertEquals(packets.map(({ payload }) => payload), sent);
          const to = packets.map((packet) => packet.to);
          assertEquals(to, [GUEST4, GUEST6, GUEST6, GUEST4, GUEST4, GUEST6]);
          // Both are answered through the one socket.
          world.driver.send(udpPacket(OUT4, 8080, peer4.port, pattern(4)));
          world.driver.send(udpPacket(OUT6, 8080, peer6.port, pattern(6)));
          world.settle();
          assertEquals(peer4.receive()?.bytes, pattern(4));
          assertEquals(peer6.receive()?.bytes, pattern(6));
        });
      });
    }, prepareListener);
  });
});

/** Makes peers known to the guest through the listener; their ports. */
function introduce(
  world: FlowWorld,
  listener: HostUdp,
  peers: readonly HostUdp[],
  to: Uint8Array,
): number[] {
  for (const peer of peers) peer.send(pattern(3), to, listener.port);
  world.settle();
  assertEquals(world.frames().length, peers.length);
  return peers.map(({ port }) => port);
}

for (const { name, out, loopback } of FAMILIES) {
  for (const any of ["::", "own family"]) {
    const where = any === "::" ? "a listener of both families" : "a listener";
    Deno.test(`${name}: peers that are gone are told of by ICMP through ${where}`, () => {
      withWorld({}, (world) => {
        world.driver.post(250, 1526);
        withSocket(any === "::" ? ip("::") : loopback, (listener) => {
          watch(world, listener);
          const gone = [new HostUdp(loopback), new HostUdp(loopback)];
          withSocket(loopback, (alive) => {
            const [first, second] = introduce(world, listener, gone, loopback);
            introduce(world, listener, [alive], loopback);
            for (const peer of gone) peer.close();
            const answer = (port: number, size: number) => {
              const frame = udpPacket(out, 8080, port, pattern(size));
              world.driver.send(frame);
              return frame;
            };
            // The living peer is reached whatever the others' answers met.
            const lost = [answer(first, 30), answer(second, 31)];
            answer(alive.port, 32);
            lost.push(answer(first, 33));
            answer(alive.port, 34);
            alive.send(pattern(35), loopback, listener.port);
            world.settle();
            assertEquals(alive.receive()?.bytes, pattern(32));
            assertEquals(alive.receive()?.bytes, pattern(34));
            const packets = world.frames().map(readPacket);
            const told = packets.filter(({ protocol }) => protocol !== 17);
            const data = packets.filter(({ protocol }) => protocol === 17);
            assertEquals(data.map(({ payload }) => payload), [pattern(35)]);
            const expected = name === "IPv4" ? 0x0303 : 0x0104;
            const types = told.map(({ transport }) => transport.getUint16(0));
            assertEquals(types, lost.map(() => expected));
            const start = name === "IPv4" ? 20 : 40; // ports and length of the quoted one
            const quoted = told.map(({ payload }) => payload.slice(start, start + 6));
            const sent = lost.map((f) => f.slice(14 + start, 14 + start + 6));
            const order = (list: Uint8Array[]) => list.map((b) => b.toHex()).toSorted();
            assertEquals(order(quoted), order(sent));
            assertEquals(
              told.map(({ from, to }) => [from, to]),
              lost.map(() => [out.to, out.from]),
            );
          });
        }, any === "::" ? prepareListener : prepareOwn(name));
      });
    });
  }
}

/** As prepareListener(), of a socket of one family. */
function prepareOwn(name: string): (fd: number) => void {
  return (fd) => {
    prepareListener(fd);
    if (name === "IPv6") setOption(fd, SOL_IPV6, IPV6_V6ONLY, 1);
  };
}

Deno.test("flows idle for long end, those in use stay", () => {
  withWorld({}, (world) => {
    withSocket(ip("127.0.0.1"), (server) => {
      const { path } = world;
      const send = (port: number) =>
        world.driver.send(udpPacket(OUT4, port, server.port, pattern(1)));
      send(1000);
      send(2000);
      path.kicked(1);
      path.now = 1e6;
      path.turn();
      assertEquals(path.table.count, 2);
      path.now += 200_000;
      send(2000);
      path.kicked(1);
      path.turn();
      assertEquals(path.table.count, 2); // RFC 4787, REQ-5: two minutes at least
      path.now += 150_000;
      path.turn();
      assertEquals(path.table.count, 1);
      path.now += 200_000;
      path.turn();
      assertEquals(path.table.count, 0);
    });
  });
});

Deno.test("malformed and unreachable datagrams are counted and dropped", () => {
  withWorld({}, (world) => {
    world.driver.post(8, 1526);
    const good = udpPacket(OUT4, GUEST_PORT, 9, pattern(30));
    const damaged: [string, (frame: Uint8Array) => void][] = [
      ["UDP length beyond the packet", (frame) => frame.set([0, 39], 38)],
      ["UDP length below the header", (frame) => frame.set([0, 7], 38)],
      ["port 0", (frame) => frame.set([0, 0], 36)],
      ["IP checksum", (frame) => frame[24] ^= 1],
    ];
    for (const [, damage] of damaged) {
      const frame = good.slice();
      damage(frame);
      world.driver.send(frame);
    }
    for (let length = 0; length < good.length; length++) {
      world.driver.send(good.slice(0, length), [12]);
    }
    world.settle();
    assertEquals(world.path.table.count, 0);
    assertEquals(world.driver.sent(), damaged.length + good.length);
    // Frames shorter than an Ethernet header are bad chains, counted by the source.
    assertEquals(world.path.source.badChains, 14);
    assertEquals(world.path.drops.malformed, damaged.length + good.length - 14);
    // Nowhere to go: loopback as such is not the guest's to reach.
    world.driver.send(
      udpPacket({ from: GUEST4, to: ip("127.0.0.1") }, GUEST_PORT, 9, pattern(1)),
    );
    world.settle();
    assertEquals(world.path.table.count, 0);
  });
});
