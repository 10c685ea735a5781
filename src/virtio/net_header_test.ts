import { assertEquals } from "@std/assert";
import {
  completeChecksum,
  NET_CSUM_OFFSET_AT,
  NET_CSUM_START_AT,
  NET_F_NEEDS_CSUM,
  NET_FLAGS_AT,
} from "./net_header.ts";

/** A header of 20 bytes whose words add up to 0xffff: its checksum is 0 (RFC 1071). */
function complete(offset: number): number {
  const frame = new DataView(new ArrayBuffer(20));
  frame.setUint16(0, 0xfffe);
  frame.setUint16(2, 0x0001);
  const header = new DataView(new ArrayBuffer(12));
  header.setUint8(NET_FLAGS_AT, NET_F_NEEDS_CSUM);
  header.setUint16(NET_CSUM_START_AT, 0, true);
  header.setUint16(NET_CSUM_OFFSET_AT, offset, true);
  completeChecksum(frame, 20, header, 0);
  return frame.getUint16(offset);
}

Deno.test("completeChecksum() writes a checksum of 0 as it is, but for UDP", () => {
  assertEquals(complete(16), 0, "TCP (RFC 1624)");
  assertEquals(complete(6), 0xffff, "UDP (RFC 768)");
});

Deno.test("completeChecksum() leaves alone what lies outside the frame", () => {
  const frame = new DataView(new ArrayBuffer(20));
  const header = new DataView(new ArrayBuffer(12));
  header.setUint8(NET_FLAGS_AT, NET_F_NEEDS_CSUM);
  header.setUint16(NET_CSUM_START_AT, 0xffff, true);
  header.setUint16(NET_CSUM_OFFSET_AT, 0xffff, true);
  completeChecksum(frame, 20, header, 0);
  assertEquals(new Uint8Array(frame.buffer), new Uint8Array(20));
});
