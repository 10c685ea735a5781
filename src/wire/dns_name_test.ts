import { assertEquals } from "@std/assert";
import { encodeName, encodeNames, encodeNamesCompressed } from "./dns_name.ts";

Deno.test("the search list of RFC 3397, section 2, compressed as it is there", () => {
  // eng.apple.com. marketing.apple.com.; the RFC prints one option 119 cut in two.
  const printed = "03656e67" + "056170706c65" + "03636f6d" + "00" +
    "096d61726b6574696e67" + "c004";
  const names = ["eng.apple.com.", "marketing.apple.com."];
  assertEquals(encodeNamesCompressed(names).toHex(), printed);
});

Deno.test("equal names and case: a pointer alone", () => {
  assertEquals(encodeNamesCompressed(["a.b", "A.B"]).toHex(), "0161016200" + "c000");
});

Deno.test("names without compression", () => {
  assertEquals(encodeNames(["a.b", "", "b"]).toHex(), "0161016200" + "016200");
  assertEquals(encodeName("a.b.")?.toHex(), "0161016200");
});

Deno.test("names without a wire form are refused", () => {
  const label = "x".repeat(63);
  const longest = `${label}.${label}.${label}.${"x".repeat(61)}`;
  assertEquals(encodeName(longest)?.length, 255);
  for (const name of ["", ".", "a..b", ".a", `${label}x`, `${longest}x`]) {
    assertEquals(encodeName(name), undefined, name);
    assertEquals(encodeNames([name]).length, 0);
    assertEquals(encodeNamesCompressed([name]).length, 0);
  }
});
