/** Datagrams that outgrow the room made for them, between rings and loopback sockets. */
import { assert, assertEquals } from "@std/assert";
import { EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { IPV6_RECVPKTINFO, IPV6_V6ONLY, setOption, SOL_IPV6 } from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { readPacket, udpPacket } from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { eventData, EventKind } from "./context.ts";

const FAMILIES = [
  { from: ip("192.0.2.10"), to: ip("192.0.2.1"), loopback: ip("127.0.0.1"), headers: 28 },
  { from: ip("2001:db8::10"), to: ip("fe80::1"), loopback: ip("::1"), headers: 48 },
] as const;
/** Around the room that is made at first, and far from it either way. */
const SIZES = [
  10,
  1452,
  1453,
  9000,
  0,
  1472,
  1473,
  65000,
  1,
  8952,
  8953,
  8972,
  8973,
  1400,
];

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + length) & 0xff);
}

interface Case {
  readonly mtu: number;
  /** Receive buffers: how many, and the lengths of each one's pieces. */
  readonly count: number;
  readonly buffer: readonly number[];
}

const CASES: readonly Case[] = [
  { mtu: 65520, count: 250, buffer: [1536] },
  { mtu: 65520, count: 60, buffer: [12, 4084] },
  { mtu: 9000, count: 120, buffer: [700, 1, 835] },
  { mtu: 65520, count: 4, buffer: [65550] },
];

/** Runs with sockets that are closed afterwards. */
function run(
  mtu: number,
  body: (world: FlowWorld, open: (address: Uint8Array) => HostUdp) => void,
): void {
  const world = new FlowWorld({ config: { mtu } });
  const sockets: HostUdp[] = [];
  try {
    body(world, (address) => {
      const both = (fd: number) => {
        setOption(fd, SOL_IPV6, IPV6_V6ONLY, 0);
        setOption(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1);
      };
      const socket = new HostUdp(address, both);
      sockets.push(socket);
      return socket;
    });
  } finally {
    world.close();
    for (const socket of sockets) socket.close();
  }
}

/** Payloads that come, with new buffers as long as something does. */
function collect(world: FlowWorld, { count, buffer }: Case): Uint8Array[] {
  const got: Uint8Array[] = [];
  for (let last = -1; last !== got.length;) {
    last = got.length;
    const free = Math.floor(world.driver.rx.free / buffer.length);
    world.driver.post(Math.min(count, free), ...buffer);
    world.path.kicked(0);
    world.settle();
    got.push(...world.frames().map((frame) => readPacket(frame).payload));
  }
  return got;
}

for (const [index, { from, to, loopback, headers }] of FAMILIES.entries()) {
  for (const shape of CASES) {
    const { mtu, count, buffer } = shape;
    const name = `${index === 0 ? "IPv4" : "IPv6"}, MTU ${mtu}, ${count} buffers of ${
      buffer.join("+")
    }`;
    Deno.test(`datagrams of all sizes in one batch: ${name}`, () => {
      run(mtu, (world, open) => {
        const server = open(loopback);
        world.driver.send(udpPacket({ from, to }, 4000, server.port, pattern(1)));
        world.settle();
        const hello = server.receive();
        assert(hello !== undefined);
        // Twice: the second time, it is known what sizes come.
        for (let i = 0; i < 2; i++) {
          for (const size of SIZES) server.send(pattern(size), hello.from, hello.port);
          const fitting = SIZES.filter((size) => size + headers <= mtu);
          assertEquals(collect(world, shape).map((got) => got.length), fitting);
          assertEquals(
            world.path.drops.tooBig,
            (i + 1) * (SIZES.length - fitting.length),
          );
        }
        for (const size of SIZES) server.send(pattern(size), hello.from, hello.port);
        const fitting = SIZES.filter((size) => size + headers <= mtu);
        assertEquals(collect(world, shape), fitting.map(pattern));
        assertEquals(world.path.drops.noBuffer, 0);
      });
    });
  }
}

Deno.test("datagrams of all sizes and both families through one listening socket", () => {
  for (const shape of CASES) {
    run(shape.mtu, (world, open) => {
      const listener = open(ip("::"));
      const data = eventData(EventKind.udpListener, 3);
      world.epoll.add(listener.fd, EPOLLIN + EPOLLET, data);
      const event = world.event.bind(world);
      world.event = (i) => {
        if (world.epoll.data(i) !== data) event(i);
        else world.path.udp.onListener(3, listener.fd, 8080);
      };
      const peers = FAMILIES.map(({ loopback }) => open(loopback));
      for (let turn = 0; turn < 3; turn++) {
        const expected: Uint8Array[] = [];
        for (const [i, size] of SIZES.entries()) {
          const which = (i + turn) % 3 === 0 ? 0 : 1;
          const { loopback, headers } = FAMILIES[which];
          peers[which].send(pattern(size), loopback, listener.port);
          if (size + headers <= shape.mtu) expected.push(pattern(size));
        }
        const got = collect(world, shape);
        const lengths = (all: readonly Uint8Array[]) => all.map(({ length }) => length);
        assertEquals(lengths(got), lengths(expected));
        assertEquals(got, expected);
      }
      assertEquals(world.path.drops.noBuffer, 0);
    });
  }
});
