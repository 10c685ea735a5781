import { assertEquals, assertNotEquals } from "@std/assert";
import { Epoll } from "../ffi/event.ts";
import { flowConfig, ip } from "../tests/support/flow_config.ts";
import { udpPacket } from "../tests/support/guest_packets.ts";
import { NetDevice } from "./device.ts";
import { GuestMemory } from "./virtio/guest_memory.ts";

Deno.test("of a guest that has gone the next one inherits nothing", () => {
  const epoll = new Epoll();
  const device = new NetDevice(flowConfig(), epoll, { memory: new GuestMemory(2 ** 30) });
  const { guest } = device.path;
  const known = () => [guest.mac, guest.address4, guest.address6, guest.linkLocal6];
  const before = known().map((bytes) => bytes.slice());
  for (
    const [from, to] of [
      ["192.0.2.77", "192.0.2.1"],
      ["2001:db8::77", "2001:db8::1"],
      ["fe80::77", "fe80::1"],
    ]
  ) {
    const frame = udpPacket({ from: ip(from), to: ip(to) }, 1, 2, new Uint8Array(1));
    guest.learn(new DataView(frame.buffer), frame.length);
  }
  known().forEach((bytes, i) => assertNotEquals(bytes, before[i], "it was learnt"));
  device.closed();
  assertEquals(known(), before);
  epoll.close();
});
