/** The configuration that tests of the services start from, and frames as hexadecimal. */
import type { Config } from "../../src/config.ts";
import { parseAddress, parseMac } from "../../src/wire/address.ts";

/** Bytes of an address that the test itself wrote. */
export function ip(text: string): Uint8Array {
  const address = parseAddress(text);
  if (address === undefined) throw new Error(`not an address: ${text}`);
  return address;
}

export function serviceConfig(changes: Partial<Config> = {}): Config {
  const none = ip("::");
  return {
    oneOff: false,
    foreground: true,
    logSize: 0,
    logLevel: "info",
    mtu: 1500,
    ourMac: parseMac("9a:55:9a:55:9a:55") ?? none,
    ip4: {
      address: ip("192.0.2.2"),
      prefixLength: 24,
      gateway: ip("192.0.2.1"),
      ourAddress: ip("192.0.2.1"),
      dns: [],
    },
    ip6: {
      address: ip("2001:db8::2"),
      prefixLength: 64,
      gateway: ip("2001:db8::1"),
      ourAddress: ip("2001:db8::1"),
      dns: [ip("2001:db8::53")],
    },
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
    search: ["example.org"],
    forwards: [],
    migrateFormat: "vuelo",
    queues: 1,
    pollMs: 0,
    ...changes,
  };
}

export function frameOf(hex: string): DataView<ArrayBuffer> {
  return new DataView(
    Uint8Array.from(hex.match(/../g) ?? [], (h) => parseInt(h, 16)).buffer,
  );
}

export function hexOf(view: DataView, length: number, from = 0): string {
  let hex = "";
  for (let i = from; i < length; i++) {
    hex += view.getUint8(i).toString(16).padStart(2, "0");
  }
  return hex;
}
