import { assert, assertEquals } from "@std/assert";
import golden from "../../tests/golden/netlink.json" with { type: "json" };
import { formatAddress } from "../wire/address.ts";
import {
  AF_INET,
  AF_INET6,
  type Dump,
  dumpRequest,
  DumpType,
  readDump,
} from "./netlink.ts";
import { findTemplate, readHost } from "./routes.ts";

function read(...datagrams: readonly (readonly string[])[]): Dump {
  const dump: Dump = { links: [], addresses: [], routes: [] };
  for (const answer of datagrams) {
    const done = answer.map((hex) => readDump(Uint8Array.fromHex(hex), dump));
    assertEquals(done, answer.map((_, index) => index === answer.length - 1));
  }
  return dump;
}

const show = (address?: Uint8Array) => address && formatAddress(address);
const LINKS = [
  { index: 1, name: "lo", mtu: 65536, loopback: true },
  { index: 2, name: "eth1", mtu: 1500, loopback: false },
  { index: 3, name: "eth0", mtu: 1400, loopback: false },
];

Deno.test("addresses of a captured dump", () => {
  const rows = read(golden.address).addresses.map((entry) =>
    `${entry.index} ${show(entry.address)}/${entry.prefixLength} ${entry.scope}` +
    (entry.usable ? "" : " unusable")
  );
  assertEquals(rows.filter((row) => row.startsWith("3")), [
    "3 192.0.2.2/24 0",
    "3 198.51.100.7/32 0",
    "3 2001:db8::2/64 0",
    "3 2001:db8::9/64 0 unusable",
    "3 fe80::5/64 253",
  ]);
  assertEquals(rows.filter((row) => row.startsWith("1")), [
    "1 127.0.0.1/8 254",
    "1 ::1/128 254",
  ]);
});

Deno.test("unicast routes of the main table of a captured dump", () => {
  const rows = read(golden.route4, golden.route6).routes.map((route) =>
    `${show(route.destination) ?? "default"}/${route.prefixLength} ${route.index}` +
    ` ${show(route.gateway) ?? "-"}`
  );
  assertEquals(rows, [
    "default/0 3 192.0.2.3",
    "192.0.2.0/24 3 -",
    "198.51.100.8/32 3 -",
    "203.0.113.0/24 3 fe80::1",
    "2001:db8::/64 3 -",
    "fe80::/64 2 -",
    "fe80::/64 3 -",
    "default/0 3 fe80::1",
  ]);
});

Deno.test("the template is the interface of the first default route", () => {
  const dump = read(golden.address, golden.route4, golden.route6);
  dump.links.push(...LINKS);
  const ip4 = findTemplate(dump, AF_INET);
  assertEquals(ip4?.interface, "eth0");
  assertEquals(show(ip4?.address?.address), "192.0.2.2");
  assertEquals(show(ip4?.gateway), "192.0.2.3");
  const ip6 = findTemplate(dump, AF_INET6);
  assertEquals(show(ip6?.address?.address), "2001:db8::2");
  assertEquals(show(ip6?.linkLocal), "fe80::5");
  assertEquals(show(ip6?.gateway), "fe80::1");
});

Deno.test("without a default route any interface with a route serves", () => {
  const dump = read(golden.address, golden.route4, golden.route6);
  dump.links.push(...LINKS);
  const routes = dump.routes.filter(({ prefixLength }) => prefixLength > 0);
  const template = findTemplate({ ...dump, routes }, AF_INET);
  assertEquals(template?.interface, "eth0");
  assertEquals(template?.gateway, undefined);
  // Routes to link-local addresses alone don't make an interface one for IPv6.
  const local = routes.filter(({ destination }) => show(destination) === "fe80::");
  assertEquals(findTemplate({ ...dump, routes: local }, AF_INET6), undefined);
});

Deno.test("a named interface is used, whatever its routes", () => {
  const dump = read(golden.address, golden.route4, golden.route6);
  dump.links.push(...LINKS);
  const template = findTemplate(dump, AF_INET, "lo");
  assertEquals(template, {
    interface: "lo",
    address: undefined,
    linkLocal: undefined,
    gateway: undefined,
  });
  assertEquals(findTemplate(dump, AF_INET, "eth9"), undefined);
});

Deno.test("an error ends a dump", () => {
  // NLMSG_ERROR with -EPERM, as netlink(7) lays it out.
  const message = Uint8Array.fromHex(
    "24000000" + "0200" + "0000" + "01000000" + "00000000" + "ffffffff" +
      "14000000" + "1a00" + "0103" + "01000000" + "00000000",
  );
  assert(readDump(message, { links: [], addresses: [], routes: [] }));
});

Deno.test("a request is the shortest that the kernel checks strictly", () => {
  assertEquals(
    dumpRequest(DumpType.route, AF_INET6).toHex(),
    "1c000000" + "1a00" + "0103" + "01000000" + "00000000" + "0a" + "00".repeat(11),
  );
});

Deno.test("the kernel's own answer names the loopback interface", () => {
  const host = readHost();
  const loopback = host.links.find(({ loopback }) => loopback);
  assertEquals(loopback?.name, "lo");
  assert(
    host.addresses.every(({ index }) => host.links.some((link) => link.index === index)),
  );
});
