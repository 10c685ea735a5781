/** Runs of the guest's datagrams that go out as one message: udp(7), UDP_SEGMENT. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { setOption, SOL_SOCKET, SOL_UDP, UDP_GRO } from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { type Addresses, udpPacket } from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { FLOW_WORDS, FlowWord } from "./table.ts";

const FAMILIES: { name: "IPv4" | "IPv6"; out: Addresses; loopback: Uint8Array }[] = [
  {
    name: "IPv4",
    out: { from: ip("192.0.2.10"), to: ip("192.0.2.1") },
    loopback: ip("127.0.0.1"),
  },
  {
    name: "IPv6",
    out: { from: ip("2001:db8::10"), to: ip("fe80::1") },
    loopback: ip("::1"),
  },
];
const GUEST_PORT = 40000;
/** No checksum on what is sent, which rules out UDP_SEGMENT: EINVAL. */
const NO_CHECKSUM = { IPv4: [SOL_SOCKET, 11], IPv6: [SOL_UDP, 101] } as const;

/** IPv6 takes datagrams without a checksum only from those who ask for it. */
const NO_CHECK6_RX = 102;

function pattern(length: number, salt: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + length + salt) & 0xff);
}

/** Sends datagrams of these sizes in one batch of the guest; what the socket gets. */
function through(
  world: FlowWorld,
  server: HostUdp,
  out: Addresses,
  sizes: readonly number[],
): Uint8Array[] {
  sizes.forEach((size, i) => {
    const payload = pattern(size, i);
    world.driver.send(udpPacket(out, GUEST_PORT, server.port, payload));
  });
  world.settle();
  assertEquals(world.driver.sent(), sizes.length);
  const got: Uint8Array[] = [];
  for (let next = server.receive(); next !== undefined; next = server.receive()) {
    got.push(next.bytes);
  }
  return got;
}

function withServer(
  loopback: Uint8Array,
  body: (world: FlowWorld, server: HostUdp) => void,
  prepare?: (fd: number) => void,
): void {
  const world = new FlowWorld({});
  const server = new HostUdp(loopback, prepare);
  try {
    body(world, server);
  } finally {
    server.close();
    world.close();
  }
}

function takesJoined(fd: number): void {
  setOption(fd, SOL_UDP, UDP_GRO, 1);
  setOption(fd, SOL_UDP, NO_CHECK6_RX, 1);
}

for (const { name, out, loopback } of FAMILIES) {
  Deno.test(`${name}: runs of one length are one message, whose last may be shorter`, () => {
    withServer(loopback, (world, server) => {
      const cases: [sizes: number[], messages: number[]][] = [
        [[100, 100, 100], [300]],
        [[100, 100, 40], [240]],
        [[100, 100, 40, 40], [240, 40]],
        [[40, 100, 100], [40, 200]],
        [[1, 1, 0, 1, 1], [2, 0, 2]],
        [Array(120).fill(1), [64, 56]],
        [Array(50).fill(1400), [46 * 1400, 4 * 1400]],
      ];
      for (const [sizes, messages] of cases) {
        const got = through(world, server, out, sizes);
        assertEquals(got.map((bytes) => bytes.length), messages);
        const sent = sizes.flatMap((size, i) => [...pattern(size, i)]);
        assertEquals(got.flatMap((bytes) => [...bytes]), sent);
      }
    }, takesJoined);
  });

  Deno.test(`${name}: datagrams of any lengths arrive as they were sent`, () => {
    withServer(loopback, (world, server) => {
      const size = fc.oneof(
        fc.constantFrom(0, 1, 2, 1000),
        fc.integer({ min: 0, max: 1400 }),
      );
      fc.assert(fc.property(
        fc.array(size, { minLength: 1, maxLength: 100 }),
        (sizes) => {
          const got = through(world, server, out, sizes);
          assertEquals(got, sizes.map((size, i) => pattern(size, i)));
        },
      ));
    });
  });

  Deno.test(`${name}: what the kernel will not cut up goes out one by one`, () => {
    withServer(loopback, (world, server) => {
      const sizes = [100, 100, 100, 30, 200, 200];
      const expected = sizes.map((size, i) => pattern(size, i));
      assertEquals(through(world, server, out, sizes).length, 2);
      const { table, udp } = world.path;
      const fd = table.words[FlowWord.fd]; // the only flow is the first
      assertEquals(table.count, 1);
      assertEquals(table.words[FLOW_WORDS + FlowWord.fd], 0);
      const [level, option] = NO_CHECKSUM[name];
      setOption(fd, level, option, 1);
      const before = udp.counters.sent;
      assertEquals(through(world, server, out, sizes), expected);
      setOption(fd, level, option, 0);
      assertEquals(through(world, server, out, sizes), expected); // it is not tried again
      assertEquals(udp.counters.sent - before, 2 * sizes.length);
      assertEquals(world.path.drops.socket, 0);
    }, takesJoined);
  });
}
