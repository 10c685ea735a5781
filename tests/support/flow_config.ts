/** A complete configuration for tests, with documentation addresses. */
import type { Config, FamilyConfig } from "../../src/config.ts";
import { parseAddress, parseMac } from "../../src/wire/address.ts";

/** An address as 16 bytes. */
export function ip(text: string): Uint8Array {
  const bytes = parseAddress(text);
  if (bytes === undefined) throw new Error(`'${text}' is no address`);
  return bytes;
}

export const OUR_MAC = parseMac("9a:55:9a:55:9a:55") as Uint8Array;

export const IP4: FamilyConfig = {
  address: ip("192.0.2.10"),
  prefixLength: 24,
  gateway: ip("192.0.2.1"),
  ourAddress: ip("192.0.2.1"),
  dns: [],
  mapHostLoopback: ip("192.0.2.1"),
};
export const IP6: FamilyConfig = {
  address: ip("2001:db8::10"),
  prefixLength: 64,
  gateway: ip("fe80::1"),
  ourAddress: ip("fe80::1"),
  dns: [],
  mapHostLoopback: ip("fe80::1"),
};

/** @param changes replace what is said here */
export function flowConfig(changes: Partial<Config> = {}): Config {
  return {
    oneOff: false,
    foreground: true,
    logSize: 0,
    logLevel: "info",
    mtu: 1500,
    ourMac: OUR_MAC,
    ip4: IP4,
    ip6: IP6,
    ourLinkLocal: ip("fe80::1"),
    tcp: true,
    udp: true,
    icmp: true,
    dhcp: true,
    dhcpv6: true,
    ndp: true,
    ra: true,
    dhcpDns: true,
    dhcpSearch: true,
    search: [],
    forwards: [],
    migrateFormat: "vuelo",
    queues: 1,
    sandbox: "none",
    pollMs: 0,
    ...changes,
  };
}
