/** Where connections of the guest leave from, and what happens without descriptors. */
import { assertEquals } from "@std/assert";
import { Errno } from "../../../ffi/errno.ts";
import { withoutDescriptors } from "../../../tests/support/descriptor_limit.ts";
import { ip, IP4, IP6 } from "../../../tests/support/flow_config.ts";
import { HostTcp, LOOPBACK4, LOOPBACK6 } from "../../../tests/support/host_tcp.ts";
import { inWorld } from "../../../tests/support/tcp_world.ts";

const GONE = {
  ip4: { ...IP4, outbound: ip("203.0.113.77") },
  ip6: { ...IP6, outbound: ip("2001:db8::77") },
};
const NO_DEVICE = {
  ip4: { ...IP4, outboundInterface: "no-such-if0" },
  ip6: { ...IP6, outboundInterface: "no-such-if0" },
};

for (const [what, config] of [["address", GONE], ["interface", NO_DEVICE]] as const) {
  for (const six of [false, true]) {
    inWorld(
      `the host itself is reached whatever outbound ${what} is set, ${
        six ? "IPv6" : "IPv4"
      }`,
      (world) => {
        const { guest, host } = world.connect({ six });
        host.send(Uint8Array.of(1, 2));
        world.settle();
        assertEquals(guest.received, [1, 2]);
        guest.finish(host);
      },
      { config },
    );
  }
}

inWorld("nothing leaves by another interface than the one asked for", (world) => {
  const guest = world.guest(9);
  guest.to.set(ip("198.51.100.7"));
  guest.in("S");
  assertEquals(guest.out(), ["RA 0+0 1"]);
  assertEquals(world.flows, 0);
}, { config: NO_DEVICE });

inWorld("an outbound address that the host has not is told by ICMP", (world) => {
  const guest = world.guest(9);
  guest.to.set(ip("198.51.100.7"));
  guest.in("S");
  assertEquals(guest.out(), []);
  const [frame] = world.others;
  assertEquals([frame[23], frame[34], frame[35]], [1, 3, 0]);
  assertEquals(world.flows, 0);
}, { config: GONE });

inWorld("there is no port 0 to connect to", (world) => {
  const guest = world.guest(0);
  guest.in("S");
  assertEquals(guest.out(), ["RA 0+0 1"]);
  assertEquals([world.flows, world.path.tcp.counters.refused], [0, 0]);
});

inWorld("a peer of another family than the guest's address is reset", (world) => {
  const listener = world.listen(LOOPBACK6);
  const host = world.keep(HostTcp.connect(LOOPBACK6, listener.port));
  assertEquals(world.path.tcp.onListener(listener.fd, 80, ip("192.0.2.10")), true);
  world.settle();
  assertEquals([world.flows, world.others.length, host.error], [0, 0, Errno.ECONNRESET]);
});

inWorld("without a descriptor a peer waits in the listening socket's queue", (world) => {
  const listener = world.listen();
  const host = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  withoutDescriptors(() => {
    assertEquals(world.path.tcp.onListener(listener.fd, 80), false);
  });
  assertEquals(world.flows, 0);
  assertEquals(host.receive(), new Uint8Array(0)); // neither reset nor closed
  assertEquals(world.path.tcp.onListener(listener.fd, 80), true);
  const guest = world.guest(host.port, { fromPort: 80 });
  world.until("SYN", () => guest.sent.length > 0);
  guest.sent.length = 0;
  guest.in("SA").finish(host);
});

inWorld("without a descriptor the guest's connection is reset", (world) => {
  const listener = world.listen();
  const guest = world.guest(listener.port);
  withoutDescriptors(() => guest.in("S"));
  assertEquals(guest.out(), ["RA 0+0 1"]);
  assertEquals(world.flows, 0);
});
