import { assertEquals } from "@std/assert";
import { GuestRam } from "../../tests/support/mock_driver.ts";
import { GuestMemory } from "./guest_memory.ts";
import { Pcap } from "./pcap.ts";
import { Segments } from "./virtqueue.ts";

const RECORD_HEADER = 16;
const NET_HEADER = 12;

Deno.test("the longest packet that there can be is captured whole", () => {
  const memory = new GuestMemory(2 ** 30);
  const ram = new GuestRam(memory, [{ address: 0, size: 0x20_0000 }]);
  try {
    const length = 14 + 40 + 65_535;
    const offset = memory.translate(0x1000, NET_HEADER + length);
    const bytes = new Uint8Array(memory.buffer, offset, NET_HEADER + length);
    for (let i = NET_HEADER; i < bytes.length; i++) bytes[i] = i * 7 + (i >> 8);
    const pieces = new Segments();
    pieces.offset[0] = offset;
    pieces.length[0] = bytes.length;
    pieces.count = 1;
    let record = new Uint8Array(0);
    const pcap = new Pcap((bytes) => record = bytes.slice(), memory);
    pcap.toGuest(pieces, 0, 1, bytes.length);
    assertEquals(record.length, RECORD_HEADER + length);
    assertEquals(record.subarray(RECORD_HEADER), bytes.subarray(NET_HEADER));
  } finally {
    ram.close();
  }
});
