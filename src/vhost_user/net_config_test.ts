import { assertEquals } from "@std/assert";
import { NetConfig } from "./net_config.ts";

// By hand from virtio 1.3, 5.1.4: MAC, link up, 2 pairs, MTU 1500, speed and duplex
// unknown, no RSS.
const GOLDEN = "525400123456" + "0100" + "0200" + "dc05" + "ffffffff" + "ff" +
  "0000000000000000000000";

Deno.test("NetConfig lays out struct virtio_net_config", () => {
  const config = new NetConfig(Uint8Array.fromHex("525400123456"), 2, 1500);
  assertEquals(config.read(0, 28)?.toHex(), GOLDEN);
  assertEquals(config.read(6, 2)?.toHex(), "0100");
  assertEquals(config.read(28, 0)?.length, 0);
  assertEquals(config.read(27, 2), null);
  assertEquals(config.read(2 ** 32 - 1, 2), null);
  config.mtu = 65535;
  assertEquals(config.mtu, 65535);
  assertEquals(config.read(10, 2)?.toHex(), "ffff");
});
