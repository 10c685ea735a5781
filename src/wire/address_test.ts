import { assertEquals } from "@std/assert";
import { isIP } from "node:net";
import fc from "fast-check";
import {
  contains,
  formatAddress,
  formatMac,
  isBroadcast,
  isIPv4,
  isLinkLocal,
  isLoopback,
  isMulticast,
  isUnspecified,
  maskAddress,
  parseAddress,
  parseMac,
  sameAddress,
} from "./address.ts";

function parsed(text: string): Uint8Array {
  const address = parseAddress(text);
  if (address === undefined) throw new Error(`not an address: ${text}`);
  return address;
}

// Texts of RFC 4291, section 2.2, and RFC 5952, sections 1, 2 and 4.
const TEXTS: [text: string, hex: string, canonical: string][] = [
  ["192.0.2.1", "00000000000000000000ffffc0000201", "192.0.2.1"],
  [
    "ABCD:EF01:2345:6789:ABCD:EF01:2345:6789",
    "abcdef0123456789abcdef0123456789",
    "abcd:ef01:2345:6789:abcd:ef01:2345:6789",
  ],
  ["FF01:0:0:0:0:0:0:101", "ff010000000000000000000000000101", "ff01::101"],
  ["0:0:0:0:0:0:0:1", "00000000000000000000000000000001", "::1"],
  ["::", "00000000000000000000000000000000", "::"],
  ["::FFFF:129.144.52.38", "00000000000000000000ffff81903426", "129.144.52.38"],
  ["0:0:0:0:0:0:13.1.68.3", "0000000000000000000000000d014403", "::d01:4403"],
  ["2001:db8::1:1:1:1:1", "20010db8000000010001000100010001", "2001:db8:0:1:1:1:1:1"],
  ["2001:0:0:1:0:0:0:1", "20010000000000010000000000000001", "2001:0:0:1::1"],
  ["2001:db8:0:0:1:0:0:1", "20010db8000000000001000000000001", "2001:db8::1:0:0:1"],
  ["1:2:3:4:5:6:7::", "00010002000300040005000600070000", "1:2:3:4:5:6:7:0"],
  ["64:ff9b::192.0.2.33", "0064ff9b0000000000000000c0000221", "64:ff9b::c000:221"],
];

Deno.test("parseAddress() and formatAddress() follow RFC 4291 and RFC 5952", () => {
  for (const [text, hex, canonical] of TEXTS) {
    assertEquals(parsed(text).toHex(), hex, text);
    assertEquals(formatAddress(Uint8Array.fromHex("a5" + hex), 1), canonical, text);
  }
});

Deno.test("parseAddress() refuses everything that is not quite an address", () => {
  const wrong = [
    ...["", " ", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", "1..3.4"],
    ...["0x1.2.3.4", "1.2.3.-4", "1.2.3.4e0", ":", ":::", "1::2::3", "1:2:3:4:5:6:7"],
    ...["1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "12345::", "g::"],
    ...["::1.2.3", "1.2.3.4::", "::1.2.3.4:5", "fe80::1%eth0", "::1/64", "[::1]", "1:"],
    ...[":1:2:3:4:5:6:7", "::1:", "::1.2.3.04", "1:2:3:4:5:6:7:1.2.3.4"],
  ];
  for (const text of wrong) assertEquals(parseAddress(text), undefined, text);
});

Deno.test("parseAddress() agrees with node:net on arbitrary text", () => {
  const pieces = fc.constantFrom(
    "::",
    ":",
    ".",
    "0",
    "1",
    "ffff",
    "10",
    "255",
    "256",
    "a",
  );
  const texts = fc.oneof(
    fc.array(pieces, { maxLength: 16 }).map((all) => all.join("")),
    fc.ipV4(),
    fc.ipV6(),
    fc.string(),
  );
  fc.assert(fc.property(texts, (text) => {
    const expected = isIP(text) !== 0 && !text.includes("%");
    assertEquals(parseAddress(text) !== undefined, expected);
  }));
});

Deno.test("formatAddress() writes what the URL standard writes, and parses back", () => {
  const octet = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 255 }));
  const octets = fc.array(octet, { minLength: 16, maxLength: 16 });
  fc.assert(fc.property(octets, (all) => {
    const address = Uint8Array.from(all);
    const text = formatAddress(address);
    assertEquals(parsed(text), address);
    if (!isIPv4(address)) assertEquals(new URL(`http://[${text}]`).hostname, `[${text}]`);
  }));
});

Deno.test("MAC addresses", () => {
  assertEquals(parseMac("9a:55:9A:55:9a:0f")?.toHex(), "9a559a559a0f");
  assertEquals(parseMac("9a-55-9a-55-9a-0f")?.toHex(), "9a559a559a0f");
  assertEquals(formatMac(Uint8Array.fromHex("ff9a559a559a0fff"), 1), "9a:55:9a:55:9a:0f");
  for (const text of ["", "9a:55:9a:55:9a", "9a:55:9a:55:9a-0f", "9a:55:9a:55:9a:0f:1"]) {
    assertEquals(parseMac(text), undefined, text);
  }
});

Deno.test("classes of addresses", () => {
  const all = [
    ...["224.0.0.1", "239.255.255.255", "223.255.255.255", "240.0.0.1", "ff02::1"],
    ...["169.254.0.1", "fe80::1", "febf::1", "fec0::1", "127.3.2.1", "::1", "::2"],
    ...[
      "0.0.0.0",
      "::",
      "::1:0:0:0",
      "255.255.255.255",
      "255.255.255.254",
      "2001:db8::1",
    ],
    "::ff00:0:0",
  ];
  function those(is: (bytes: Uint8Array) => boolean): string[] {
    return all.filter((text) => is(parsed(text)));
  }
  assertEquals(those(isMulticast), ["224.0.0.1", "239.255.255.255", "ff02::1"]);
  assertEquals(those(isLinkLocal), ["169.254.0.1", "fe80::1", "febf::1"]);
  assertEquals(those(isLoopback), ["127.3.2.1", "::1"]);
  assertEquals(those(isUnspecified), ["0.0.0.0", "::"]);
  assertEquals(those(isBroadcast), ["255.255.255.255"]);
});

Deno.test("maskAddress() and contains()", () => {
  assertEquals(formatAddress(maskAddress(parsed("192.0.2.255"), 25)), "192.0.2.128");
  assertEquals(formatAddress(maskAddress(parsed("192.0.2.255"), 0)), "0.0.0.0");
  assertEquals(
    formatAddress(maskAddress(parsed("2001:db8:ffff::1"), 33)),
    "2001:db8:8000::",
  );
  assertEquals(contains(parsed("192.0.2.0"), 24, parsed("192.0.2.7")), true);
  assertEquals(contains(parsed("192.0.2.0"), 24, parsed("192.0.3.7")), false);
  assertEquals(contains(parsed("0.0.0.0"), 0, parsed("8.8.8.8")), true);
  assertEquals(contains(parsed("0.0.0.0"), 0, parsed("2001:db8::1")), false);
  assertEquals(contains(parsed("192.0.2.1"), 32, parsed("192.0.2.1")), true);
  assertEquals(contains(parsed("fe80::"), 10, parsed("febf::1")), true);
  assertEquals(contains(parsed("2001:db8::"), 64, parsed("2001:db8:0:1::")), false);
  assertEquals(sameAddress(parsed("::1"), parsed("::1")), true);
  assertEquals(sameAddress(parsed("::1"), parsed("::2")), false);
});
