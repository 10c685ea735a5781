import { assertEquals } from "@std/assert";
import { goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import {
  UDP_CHECKSUM_AT,
  UDP_HEADER_SIZE,
  udpChecksum,
  udpLength,
  writeUdp,
} from "./udp.ts";

/** Where UDP starts in a frame of IPv4 without options. */
const UDP_AT = 34;

Deno.test("udpLength() demands the whole datagram and allows padding", () => {
  const view = goldenView("udp4", 3);
  for (let available = 0; available < 11; available++) {
    assertEquals(udpLength(view, 3 + UDP_AT, available), -1);
  }
  assertEquals(udpLength(view, 3 + UDP_AT, 11), 11);
  assertEquals(udpLength(view, 3 + UDP_AT, 20), 11);
  for (const length of [0, 7]) {
    view.setUint16(3 + UDP_AT + 4, length);
    assertEquals(udpLength(view, 3 + UDP_AT, 20), -1);
  }
});

Deno.test("writeUdp() writes the header that the kernel wrote", () => {
  const golden = goldenView("udp4");
  const view = new DataView(new ArrayBuffer(16));
  new Uint8Array(view.buffer).fill(0xa5);
  writeUdp(view, 3, 0xab07, 7777, 11);
  assertEquals(view.getUint16(3 + UDP_CHECKSUM_AT), 0);
  view.setUint16(3 + UDP_CHECKSUM_AT, golden.getUint16(UDP_AT + UDP_CHECKSUM_AT));
  assertEquals(
    new Uint8Array(view.buffer, 3, UDP_HEADER_SIZE).toHex(),
    goldenFrame("udp4").slice(UDP_AT, UDP_AT + UDP_HEADER_SIZE).toHex(),
  );
  assertEquals(udpChecksum(0), 0xffff);
  assertEquals(udpChecksum(0x1234), 0x1234);
});
