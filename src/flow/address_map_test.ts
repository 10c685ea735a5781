import { assertEquals } from "@std/assert";
import { flowConfig, ip, IP4, IP6 } from "../../tests/support/flow_config.ts";
import type { Config } from "../config.ts";
import { GuestState } from "../services/guest_state.ts";
import { formatAddress } from "../wire/address.ts";
import { Protocol } from "../wire/ip.ts";
import { AddressMap } from "./address_map.ts";

const PLAIN = flowConfig();
/** --no-map-gw */
const UNMAPPED = flowConfig({
  ip4: { ...IP4, mapHostLoopback: undefined },
  ip6: { ...IP6, mapHostLoopback: undefined },
});
const MAPPED = flowConfig({
  ip4: {
    ...IP4,
    mapGuestAddress: ip("192.0.2.77"),
    dnsForward: ip("192.0.2.53"),
    dnsHost: ip("127.0.0.53"),
  },
  ip6: {
    ...IP6,
    mapHostLoopback: ip("2001:db8::1"),
    mapGuestAddress: ip("2001:db8::77"),
    dnsForward: ip("2001:db8::1"),
    dnsHost: ip("2001:db8:53::1"),
  },
});
const FOUR = flowConfig({ ip6: undefined });
const NO_ADDRESS6 = flowConfig({ ip6: { ...IP6, address: ip("::") } });

const { tcp: TCP, udp: UDP, icmp: ICMP } = Protocol;

function mapOf(config: Config): AddressMap {
  const guest = new GuestState(config);
  guest.linkLocal6.set(ip("fe80::10"));
  return new AddressMap(config, guest);
}

/** What the guest sends to, and where that goes; null: nowhere. */
const OUTWARD: [Config, string, number, number, string | null][] = [
  [PLAIN, "198.51.100.7", 80, TCP, "198.51.100.7"],
  [PLAIN, "2001:db8:9::7", 80, UDP, "2001:db8:9::7"],
  [PLAIN, "192.0.2.1", 80, TCP, "127.0.0.1"],
  [PLAIN, "192.0.2.1", 0, ICMP, "127.0.0.1"],
  [PLAIN, "fe80::1", 53, UDP, "::1"],
  [PLAIN, "fe80::2", 80, TCP, "fe80::2"],
  [PLAIN, "192.0.2.2", 80, TCP, "192.0.2.2"],
  [PLAIN, "192.0.2.10", 80, TCP, null],
  [PLAIN, "2001:db8::10", 80, TCP, null],
  [PLAIN, "fe80::10", 80, TCP, null],
  [PLAIN, "127.0.0.1", 80, TCP, null],
  [PLAIN, "127.9.9.9", 80, UDP, null],
  [PLAIN, "::1", 80, TCP, null],
  [PLAIN, "0.0.0.0", 80, TCP, null],
  [PLAIN, "::", 80, TCP, null],
  [PLAIN, "224.0.0.251", 5353, UDP, null],
  [PLAIN, "255.255.255.255", 9, UDP, null],
  [PLAIN, "ff02::fb", 5353, UDP, null],
  [UNMAPPED, "192.0.2.1", 80, TCP, "192.0.2.1"],
  [UNMAPPED, "fe80::1", 80, TCP, "fe80::1"],
  [MAPPED, "192.0.2.53", 53, UDP, "127.0.0.53"],
  [MAPPED, "192.0.2.53", 53, TCP, "127.0.0.53"],
  [MAPPED, "192.0.2.53", 853, TCP, "127.0.0.53"],
  [MAPPED, "192.0.2.53", 80, TCP, "192.0.2.53"],
  [MAPPED, "192.0.2.53", 0, ICMP, "192.0.2.53"],
  [MAPPED, "192.0.2.77", 80, TCP, "192.0.2.10"],
  [MAPPED, "2001:db8::77", 80, TCP, "2001:db8::10"],
  // The forwarded resolver goes before the host where both have one address.
  [MAPPED, "2001:db8::1", 53, UDP, "2001:db8:53::1"],
  [MAPPED, "2001:db8::1", 80, UDP, "::1"],
  [FOUR, "2001:db8:9::7", 80, UDP, null],
  [FOUR, "198.51.100.7", 80, UDP, "198.51.100.7"],
];

Deno.test("AddressMap.outward() maps as the options say", () => {
  const to = new Uint8Array(16);
  for (const [config, from, port, protocol, expected] of OUTWARD) {
    const key = new Uint8Array(40);
    key.set(ip(from), 8);
    const result = mapOf(config).outward(key, 8, port, protocol, to);
    const found = result === -1 ? null : formatAddress(to);
    assertEquals([from, port, found], [from, port, expected]);
    if (expected !== null) assertEquals(result, port);
  }
});

/** A peer, and how the guest sees it. */
const INWARD: [Config, string, string | null][] = [
  [PLAIN, "198.51.100.7", "198.51.100.7"],
  [PLAIN, "2001:db8:9::7", "2001:db8:9::7"],
  [PLAIN, "fe80::abcd", "fe80::abcd"],
  [PLAIN, "127.0.0.1", "192.0.2.1"],
  [PLAIN, "127.0.0.53", "192.0.2.1"],
  [PLAIN, "::1", "fe80::1"],
  [PLAIN, "192.0.2.10", "192.0.2.1"],
  [PLAIN, "2001:db8::10", "fe80::1"],
  [PLAIN, "fe80::10", "fe80::1"],
  [PLAIN, "0.0.0.0", null],
  [PLAIN, "ff02::1", null],
  [UNMAPPED, "127.0.0.1", "192.0.2.1"],
  [UNMAPPED, "::1", "fe80::1"],
  [UNMAPPED, "192.0.2.10", "192.0.2.1"],
  [MAPPED, "192.0.2.10", "192.0.2.77"],
  [MAPPED, "2001:db8::10", "2001:db8::77"],
  [MAPPED, "127.0.0.1", "192.0.2.1"],
  [MAPPED, "::1", "2001:db8::1"],
  [FOUR, "2001:db8:9::7", null],
  [NO_ADDRESS6, "::1", "fe80::1"],
];

Deno.test("AddressMap.inward() shows peers as the options say", () => {
  for (const [config, peer, expected] of INWARD) {
    const to = new Uint8Array(16);
    const shown = mapOf(config).inward(ip(peer), 0, to);
    assertEquals([peer, shown ? formatAddress(to) : null], [peer, expected]);
  }
});

Deno.test("AddressMap follows an address that the guest took by itself", () => {
  const config = flowConfig();
  const guest = new GuestState(config);
  const map = new AddressMap(config, guest);
  guest.address4.set(ip("192.0.2.99"));
  const to = new Uint8Array(16);
  assertEquals(map.outward(ip("192.0.2.99"), 0, 80, TCP, to), -1);
  // The address it was given is the host's alone now.
  assertEquals(map.outward(ip("192.0.2.10"), 0, 80, TCP, to), 80);
  assertEquals(map.inward(ip("192.0.2.99"), 0, to), true);
  assertEquals(formatAddress(to), "192.0.2.1");
});
