import { assertEquals } from "@std/assert";
import { type GoldenFrame, goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import { Protocol } from "./ip.ts";
import {
  IPV6_DESTINATION_AT,
  IPV6_HEADER_SIZE,
  IPV6_NEXT_HEADER_AT,
  IPV6_SOURCE_AT,
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
  writeIPv6,
} from "./ipv6.ts";

const IP_AT = 14;

/** An IPv6 packet of `headers`, the first of type `next`, and its length. */
function packet(next: number, headers: string): [DataView, number] {
  const body = Uint8Array.fromHex(headers);
  const bytes = new Uint8Array(IPV6_HEADER_SIZE + body.length + 64).fill(0xa5);
  bytes[0] = 0x60;
  bytes[5] = body.length;
  bytes[IPV6_NEXT_HEADER_AT] = next;
  bytes.set(body, IPV6_HEADER_SIZE);
  return [new DataView(bytes.buffer), IPV6_HEADER_SIZE + body.length];
}

function upper(next: number, headers: string): [protocol: number, offset: number] | -1 {
  const [view, length] = packet(next, headers);
  const found = ipv6Upper(view, 0, length);
  return found === -1 ? -1 : [upperProtocol(found), upperOffset(found)];
}

Deno.test("ipv6Length() demands the whole packet and allows padding", () => {
  const size = goldenFrame("udp6").length - IP_AT;
  const view = goldenView("udp6", 3);
  for (let available = 0; available < size; available++) {
    assertEquals(ipv6Length(view, 3 + IP_AT, available), -1);
  }
  assertEquals(ipv6Length(view, 3 + IP_AT, size), size);
  assertEquals(ipv6Length(view, 3 + IP_AT, size + 9), size);
  view.setUint8(3 + IP_AT, 0x45);
  assertEquals(ipv6Length(view, 3 + IP_AT, size), -1);
});

Deno.test("ipv6Upper() finds the upper layer of what a kernel sent", () => {
  const cases: [GoldenFrame, protocol: number, offset: number][] = [
    ["tcp6Syn", Protocol.tcp, 40],
    ["udp6", Protocol.udp, 40],
    ["mldReport", Protocol.icmpv6, 48],
    ["udp6Extended", Protocol.udp, 56],
    ["udp6FirstFragment", Protocol.fragment, 56],
    ["udp6LastFragment", Protocol.fragment, 56],
  ];
  for (const [name, protocol, offset] of cases) {
    const found = ipv6Upper(goldenView(name, 5), 5 + IP_AT, 82);
    assertEquals([upperProtocol(found), upperOffset(found)], [protocol, offset], name);
  }
});

Deno.test("ipv6Upper() on extension headers of every kind (RFC 8200, section 4)", () => {
  const { hopByHop, routing, fragment, destinationOptions, noNextHeader } = Protocol;
  assertEquals(upper(noNextHeader, ""), [noNextHeader, 40]);
  // Atomic fragment (RFC 6946), then UDP.
  assertEquals(upper(fragment, "1100000000000001" + "0".repeat(16)), [17, 48]);
  // Routing header with Segments Left 0 is passed over, else refused.
  assertEquals(upper(routing, "1100020000000000"), [17, 48]);
  assertEquals(upper(routing, "1100020100000000"), -1);
  // Hop-by-Hop Options in any place but the first is no extension header.
  assertEquals(upper(destinationOptions, "0000010400000000"), [hopByHop, 48]);
  // A header that is longer than the packet, and one that is cut.
  assertEquals(upper(destinationOptions, "1101010400000000"), -1);
  assertEquals(upper(destinationOptions, "11000104"), -1);
  assertEquals(upper(hopByHop, ""), -1);
});

Deno.test("ipv6Upper() gives up on long chains", () => {
  const { destinationOptions } = Protocol;
  const one = "3c00010400000000";
  assertEquals(upper(destinationOptions, one.repeat(7) + "1100010400000000"), [17, 104]);
  assertEquals(upper(destinationOptions, one.repeat(8) + "1100010400000000"), -1);
});

Deno.test("writeIPv6() writes the header that the kernel wrote", () => {
  const frame = goldenFrame("udp6");
  const from = goldenView("udp6");
  const view = new DataView(new ArrayBuffer(64));
  new Uint8Array(view.buffer).fill(0xa5);
  const source = IP_AT + IPV6_SOURCE_AT;
  const destination = IP_AT + IPV6_DESTINATION_AT;
  writeIPv6(view, 5, 11, Protocol.udp, 64, from, source, from, destination);
  // The kernel chose a flow label, vuelo leaves it 0.
  frame.set([0x60, 0, 0, 0], IP_AT);
  assertEquals(new Uint8Array(view.buffer, 5, 40).toHex(), frame.slice(14, 54).toHex());
});
