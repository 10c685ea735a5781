import { assertEquals } from "@std/assert";
import { goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import {
  BROADCAST_MAC,
  ETHERNET_HEADER_SIZE,
  EtherType,
  etherType,
  isGroupMac,
  isMac,
  writeEthernet,
} from "./ethernet.ts";

Deno.test("an Ethernet header is read and written as the kernel wrote it", () => {
  const frame = goldenFrame("udp4");
  const view = goldenView("udp4", 5);
  assertEquals(etherType(view, 5), EtherType.ipv4);
  assertEquals(isGroupMac(view, 5), false);
  const destination = frame.slice(0, 6);
  const source = frame.slice(6, 12);
  assertEquals(isMac(view, 5, destination), true);
  assertEquals(isMac(view, 5, source), false);
  const copy = new Uint8Array(ETHERNET_HEADER_SIZE);
  writeEthernet(new DataView(copy.buffer), 0, destination, source, EtherType.ipv4);
  assertEquals(copy.toHex(), frame.slice(0, ETHERNET_HEADER_SIZE).toHex());
});

Deno.test("isGroupMac() knows multicast and broadcast", () => {
  assertEquals(isGroupMac(goldenView("mldReport"), 0), true);
  assertEquals(isGroupMac(new DataView(BROADCAST_MAC.slice().buffer), 0), true);
});
