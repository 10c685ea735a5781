import { assertEquals } from "@std/assert";
import { ip } from "../../tests/support/flow_config.ts";
import { FlowWorld } from "../../tests/support/flow_world.ts";
import { udpPacket } from "../../tests/support/guest_packets.ts";
import { HostUdp } from "../../tests/support/host_udp.ts";

const SOURCE_AT = 14 + 8;
const DESTINATION_AT = 14 + 24;

Deno.test("IPv6 packets from or to addresses of IPv4 are malformed", () => {
  const world = new FlowWorld();
  const server = new HostUdp(ip("127.0.0.1"));
  try {
    const frame = udpPacket(
      { from: ip("2001:db8::10"), to: ip("2001:db8::20") },
      40000,
      server.port,
      Uint8Array.of(1, 2, 3),
    );
    const send = (at: number, address: string) => {
      const changed = frame.slice();
      changed.set(ip(address), at);
      world.driver.send(changed);
      world.settle();
    };
    send(DESTINATION_AT, "192.0.2.1"); // which leads to loopback
    send(SOURCE_AT, "192.0.2.10");
    assertEquals(server.receive(), undefined);
    assertEquals([world.path.table.count, world.path.drops.malformed], [0, 2]);
  } finally {
    server.close();
    world.close();
  }
});
