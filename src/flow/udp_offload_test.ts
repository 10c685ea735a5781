/** Datagrams that guest and vuelo leave joined to each other: virtio 1.3, HOST_USO, GUEST_USO. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { setOption, SOL_UDP, UDP_GRO, UDP_SEGMENT } from "../../ffi/socket.ts";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld, type WorldOptions } from "../../tests/support/flow_world.ts";
import {
  type Addresses,
  type Read,
  readPacket,
  udpPacket,
} from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";
import { completeChecksum } from "../virtio/net_header.ts";

const FAMILIES: { name: string; out: Addresses; loopback: Uint8Array; head: number }[] = [
  {
    name: "IPv4",
    out: { from: ip("192.0.2.10"), to: ip("192.0.2.1") },
    loopback: ip("127.0.0.1"),
    head: 14 + 20 + 8,
  },
  {
    name: "IPv6",
    out: { from: ip("2001:db8::10"), to: ip("fe80::1") },
    loopback: ip("::1"),
    head: 14 + 40 + 8,
  },
];
const GUEST_PORT = 40000;

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff);
}

function withServer(
  loopback: Uint8Array,
  options: WorldOptions,
  body: (world: FlowWorld, server: HostUdp) => void,
): void {
  const world = new FlowWorld(options);
  const server = new HostUdp(loopback);
  try {
    body(world, server);
  } finally {
    server.close();
    world.close();
  }
}

/** struct virtio_net_hdr: NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP_L4 (5.1.6.2). */
function netHeader(head: number, size: number): Uint8Array {
  const start = head - 8;
  return Uint8Array.of(1, 5, head, 0, size & 0xff, size >> 8, start, 0, 6, 0, 0, 0);
}

/** A frame as the guest reads it, the checksum that was left to it completed. */
function completed(of: { header: Uint8Array; frame: Uint8Array }): Read {
  const { header, frame } = of;
  const view = new DataView(frame.buffer, frame.byteOffset);
  completeChecksum(view, frame.length, new DataView(header.buffer), header.byteOffset);
  return readPacket(frame);
}

function received(server: HostUdp): Uint8Array[] {
  const got: Uint8Array[] = [];
  for (let next = server.receive(); next !== undefined; next = server.receive()) {
    got.push(next.bytes);
  }
  return got;
}

for (const { name, out, loopback, head } of FAMILIES) {
  Deno.test(`${name}: a frame of the guest is cut into datagrams`, () => {
    withServer(loopback, {}, (world, server) => {
      const cut = (payload: Uint8Array, size: number, cuts = [12]) => {
        const frame = udpPacket(out, GUEST_PORT, server.port, payload);
        world.driver.send(frame, cuts, netHeader(head, size));
        world.settle();
        assertEquals(world.driver.sent(), 1);
        return received(server);
      };
      const bytes = pattern(1000);
      assertEquals(cut(bytes.subarray(0, 250), 100), [
        bytes.subarray(0, 100),
        bytes.subarray(100, 200),
        bytes.subarray(200, 250),
      ]);
      // Descriptors end in the middle of datagrams, and of headers.
      const odd = cut(bytes.subarray(0, 250), 100, [
        3,
        30,
        12 + head + 7,
        12 + head + 155,
      ]);
      assertEquals(odd.map(({ length }) => length), [100, 100, 50]);
      assertEquals(cut(bytes.subarray(0, 100), 100), [bytes.subarray(0, 100)]);
      assertEquals(cut(bytes.subarray(0, 20), 100), [bytes.subarray(0, 20)]);
      assertEquals(cut(bytes.subarray(0, 0), 100), [new Uint8Array(0)]);
      // What is cut goes out together again, in the 64 that any kernel takes.
      setOption(server.fd, SOL_UDP, UDP_GRO, 1);
      assertEquals(cut(bytes, 10).map(({ length }) => length), [640, 360]);
      assertEquals(world.path.drops.malformed, 0);
    });
  });

  Deno.test(`${name}: whatever a net header says, datagrams are the payload or nothing`, () => {
    withServer(loopback, {}, (world, server) => {
      const header = fc.oneof(
        fc.uint8Array({ minLength: 12, maxLength: 12 }),
        fc.tuple(fc.integer({ max: 0xffff, min: 0 }), fc.nat(255), fc.nat(255))
          .map(([size, start, length]) => {
            const bytes = netHeader(head, size);
            bytes[2] = length;
            bytes[6] = start;
            return bytes;
          }),
      );
      fc.assert(
        fc.property(header, fc.integer({ min: 0, max: 1400 }), (header, length) => {
          const payload = pattern(length);
          const before = world.path.drops.malformed;
          const frame = udpPacket(out, GUEST_PORT, server.port, payload);
          world.driver.send(frame, [12], header);
          world.settle();
          assertEquals(world.driver.sent(), 1);
          const got = received(server);
          const size = header[4] | (header[5] << 8);
          const many = (header[1] & 0x7f) === 5 && size < length;
          if (many && (size === 0 || length / size > 128)) {
            assertEquals([got.length, world.path.drops.malformed], [0, before + 1]);
            return;
          }
          assertEquals(got.length, many ? Math.ceil(length / size) : 1);
          assertEquals(got.flatMap((bytes) => [...bytes]), [...payload]);
        }),
      );
    });
  });

  for (const buffer of [1526, 300]) {
    Deno.test(`${name}: joined datagrams are one frame, buffers of ${buffer}`, () => {
      const options = { guestChecksum: true, largeDatagrams: true };
      withServer(loopback, options, (world, server) => {
        const { driver, path } = world;
        driver.post(250, buffer);
        driver.send(udpPacket(out, GUEST_PORT, server.port, pattern(1)));
        world.settle();
        driver.sent();
        const { port } = server.receive()!;
        const send = (length: number, size: number) => {
          setOption(server.fd, SOL_UDP, UDP_SEGMENT, size);
          server.send(pattern(length), loopback, port);
        };
        send(3000, 1000);
        send(250, 100);
        send(77, 0);
        send(1501 - head + 14, 1501 - head + 14);
        send(2 * (1501 - head + 14), 1501 - head + 14);
        send(10000, 1400);
        world.settle();
        const frames = driver.receive();
        assertEquals(
          frames.map((frame) => completed(frame).payload),
          [3000, 250, 77, 10000].map(pattern),
        );
        const headers = frames.map(({ header }) => header.subarray(0, 10));
        const whole = Uint8Array.of(1, 0, 0, 0, 0, 0, head - 8, 0, 6, 0);
        assertEquals(headers, [
          netHeader(head, 1000).subarray(0, 10),
          netHeader(head, 100).subarray(0, 10),
          whole,
          netHeader(head, 1400).subarray(0, 10),
        ]);
        assertEquals(path.drops.tooBig, 2); // each beyond the guest's MTU
        // Its driver starts anew and does not take them any more.
        const plain = { largeReceive4: false, largeReceive6: false, eventIdx: false };
        path.setOffloads({ mergeable: true, guestChecksum: true, ...plain });
        send(250, 100);
        world.settle();
        const lengths = driver.receive().map((frame) => completed(frame).payload.length);
        assertEquals(lengths, [100, 100, 50]);
      });
    });
  }
}
