import { assertEquals } from "@std/assert";
import { type GoldenFrame, goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import { referenceSum } from "../../tests/support/reference_checksum.ts";
import { formatAddress, parseAddress } from "./address.ts";
import { DEFAULT_TTL, Protocol } from "./ip.ts";
import {
  IPV4_DESTINATION_AT,
  IPV4_IDENTIFICATION_AT,
  IPV4_SOURCE_AT,
  ipv4ChecksumOk,
  ipv4DontFragment,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4TotalLength,
  readIPv4Address,
  updateIPv4Checksum,
  writeIPv4,
} from "./ipv4.ts";

const IP_AT = 14;

Deno.test("ipv4HeaderLength() demands the whole packet and allows padding", () => {
  const size = goldenFrame("udp4RecordRoute").length - IP_AT;
  const view = goldenView("udp4RecordRoute", 3);
  for (let available = 0; available < size; available++) {
    assertEquals(ipv4HeaderLength(view, 3 + IP_AT, available), -1);
  }
  assertEquals(ipv4HeaderLength(view, 3 + IP_AT, size), 32);
  assertEquals(ipv4HeaderLength(view, 3 + IP_AT, size + 6), 32);
  assertEquals(ipv4ChecksumOk(view, 3 + IP_AT, 32), true);
  assertEquals(ipv4Protocol(view, 3 + IP_AT), Protocol.udp);
  assertEquals(ipv4TotalLength(view, 3 + IP_AT), size);
});

Deno.test("ipv4HeaderLength() refuses wrong versions and lengths", () => {
  const wrong: [at: number, value: number][] = [[0, 0x65], [0, 0x44], [0, 0x40], [
    0,
    0x4f,
  ]];
  for (const [at, value] of wrong) {
    const view = goldenView("udp4");
    view.setUint8(IP_AT + at, value);
    assertEquals(ipv4HeaderLength(view, IP_AT, 31), -1, value.toString(16));
  }
  const view = goldenView("udp4");
  view.setUint16(IP_AT + 2, 19);
  assertEquals(ipv4HeaderLength(view, IP_AT, 31), -1);
});

Deno.test("fragments, and packets that must not become any", () => {
  const cases: [GoldenFrame, fragment: boolean, dontFragment: boolean][] = [
    ["udp4", false, true],
    ["udp4FirstFragment", true, false],
    ["udp4LastFragment", true, false],
  ];
  for (const [name, fragment, dontFragment] of cases) {
    const view = goldenView(name);
    assertEquals(ipv4IsFragment(view, IP_AT), fragment, name);
    assertEquals(ipv4DontFragment(view, IP_AT), dontFragment, name);
  }
});

Deno.test("writeIPv4() writes the header that the kernel wrote", () => {
  const frame = goldenFrame("udp4");
  const addresses = new DataView(new ArrayBuffer(32));
  readIPv4Address(goldenView("udp4"), IP_AT + IPV4_SOURCE_AT, addresses, 0);
  readIPv4Address(goldenView("udp4"), IP_AT + IPV4_DESTINATION_AT, addresses, 16);
  const bytes = new Uint8Array(addresses.buffer);
  assertEquals(formatAddress(bytes), "192.0.2.2");
  assertEquals(bytes.slice(16), parseAddress("192.0.2.1"));
  const view = new DataView(new ArrayBuffer(64));
  new Uint8Array(view.buffer).fill(0xa5);
  writeIPv4(view, 5, 31, Protocol.udp, DEFAULT_TTL, addresses, 0, addresses, 16);
  assertEquals(referenceSum(new Uint8Array(view.buffer, 5, 20)), 0xffff);
  view.setUint16(
    5 + IPV4_IDENTIFICATION_AT,
    goldenView("udp4").getUint16(IP_AT + IPV4_IDENTIFICATION_AT),
  );
  assertEquals(ipv4ChecksumOk(view, 5, 20), false);
  updateIPv4Checksum(view, 5, 20);
  assertEquals(new Uint8Array(view.buffer, 5, 20).toHex(), frame.slice(14, 34).toHex());
});
