import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import { checksumFault, referenceSum } from "../../tests/support/reference_checksum.ts";
import {
  complement,
  fold,
  MAX_SUM_LENGTH,
  pseudoSum4,
  pseudoSum6,
  sum,
} from "./checksum.ts";

Deno.test("sum() of the example of RFC 1071, section 3", () => {
  const bytes = Uint8Array.fromHex("0001f203f4f5f6f7");
  assertEquals(referenceSum(bytes), 0xddf2);
  assertEquals(sum(new DataView(bytes.buffer), 0, 8), 0xddf2);
});

Deno.test("sum() agrees with the reference at every offset, length and initial", () => {
  const property = fc.property(
    fc.uint8Array({ maxLength: 200 }),
    fc.nat(7),
    fc.nat(0xffff),
    (bytes, at, initial) => {
      const memory = new Uint8Array(at + bytes.length + 9).fill(0xa5);
      memory.set(bytes, at);
      const start = Uint8Array.of(initial >> 8, initial & 0xff);
      const expected = referenceSum(Uint8Array.from([...start, ...bytes]));
      assertEquals(sum(new DataView(memory.buffer), at, bytes.length, initial), expected);
    },
  );
  fc.assert(property);
});

Deno.test("sum() loses no carry on the longest ranges", () => {
  const bytes = new Uint8Array(MAX_SUM_LENGTH).fill(0xff);
  const view = new DataView(bytes.buffer);
  for (const length of [1, 2, 3, 65_534, 65_535, 65_536, MAX_SUM_LENGTH]) {
    const expected = referenceSum(bytes.subarray(0, length));
    assertEquals(sum(view, 0, length), expected, `${length}`);
    assertEquals(sum(view, 0, length, 0xffff), 0xffff === expected ? 0xffff : 0xff00);
  }
});

Deno.test("sum() in parts is the sum of the whole", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(50), (bytes, half) => {
    const cut = Math.min(2 * half, bytes.length & ~1);
    const view = new DataView(bytes.slice().buffer);
    const rest = sum(view, cut, bytes.length - cut, sum(view, 0, cut));
    assertEquals(rest, referenceSum(bytes));
    assertEquals(fold(sum(view, 0, cut) + sum(view, cut, bytes.length - cut)), rest);
  }));
});

Deno.test("checksums that a Linux kernel wrote are found right", () => {
  for (const name of ["tcp4Syn", "tcp4Data", "tcp4OddData", "udp4"] as const) {
    const length = goldenFrame(name).length - 34;
    const view = goldenView(name, 3);
    const pseudo = pseudoSum4(view, 17, view.getUint8(17 + 9), length);
    assertEquals(sum(view, 3 + 34, length, pseudo), 0xffff, name);
    assertEquals(checksumFault(goldenFrame(name)), undefined, name);
  }
  for (const name of ["tcp6Syn", "tcp6OddData", "udp6", "routerSolicitation"] as const) {
    const length = goldenFrame(name).length - 54;
    const view = goldenView(name, 1);
    const pseudo = pseudoSum6(view, 15, view.getUint8(15 + 6), length);
    assertEquals(sum(view, 1 + 54, length, pseudo), 0xffff, name);
    assertEquals(checksumFault(goldenFrame(name)), undefined, name);
  }
});

Deno.test("complement() gives the field that the kernel wrote", () => {
  const view = goldenView("udp4");
  const field = view.getUint16(40);
  view.setUint16(40, 0);
  assertEquals(complement(sum(view, 34, 11, pseudoSum4(view, 14, 17, 11))), field);
});
