import { assertEquals } from "@std/assert";
import { crc32c } from "./crc32c.ts";

/** RFC 3720, B.4; the CRC of the last line is that of an iSCSI read command. */
const VECTORS: readonly [Uint8Array, number][] = [
  [new Uint8Array(32), 0x8a9136aa],
  [new Uint8Array(32).fill(0xff), 0x62a8ab43],
  [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  [Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
  [
    Uint8Array.from(
      ("01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 " +
        "28000000 00000000 02000000 00000000").replaceAll(" ", "").match(/../g) ?? [],
      (hex) => parseInt(hex, 16),
    ),
    0xd9963a56,
  ],
];

Deno.test("CRC32C of the examples of RFC 3720, B.4", () => {
  for (const [bytes, expected] of VECTORS) assertEquals(crc32c(bytes), expected);
});

Deno.test("CRC32C in pieces is that of the whole", () => {
  const [bytes, expected] = VECTORS[2];
  for (let cut = 0; cut <= bytes.length; cut++) {
    assertEquals(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), expected);
  }
  assertEquals(crc32c(new Uint8Array()), 0);
});
