/**
 * Frames for tests of the DHCP and DHCPv6 servers, taken apart and put together here
 * without the code under test.
 */
import { assert, assertEquals } from "@std/assert";
import type { Config } from "../../src/config.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { flowConfig } from "./flow_config.ts";
import golden from "../golden/dhcp.json" with { type: "json" };

export const GUEST_MAC = "525400123456";
export const OUR_MAC = "9a5512345678";

/** A captured frame by its name in tests/golden/dhcp.json. */
export function captured(name: Exclude<keyof typeof golden, "source">): Uint8Array {
  return Uint8Array.fromHex(golden[name]);
}

export const CAPTURED_DHCP: readonly Uint8Array[] = Object.entries(golden)
  .filter(([name]) => name !== "source")
  .map(([, hex]) => Uint8Array.fromHex(hex));

export function address(text: string): Uint8Array {
  const bytes = parseAddress(text);
  assert(bytes !== undefined, text);
  return bytes;
}

/** A whole configuration, parts of it replaced by `changes`. */
export function dhcpConfig(changes: Partial<Config> = {}): Config {
  return flowConfig({
    ourMac: Uint8Array.fromHex(OUR_MAC),
    ip4: {
      address: address("10.0.2.15"),
      prefixLength: 24,
      gateway: address("10.0.2.2"),
      ourAddress: address("10.0.2.2"),
      dns: [address("10.0.2.3"), address("192.0.2.53")],
    },
    ip6: {
      address: address("2001:db8::15"),
      prefixLength: 64,
      gateway: address("fe80::1"),
      ourAddress: address("fe80::1"),
      dns: [address("2001:db8::53")],
    },
    search: ["example.org", "lab.example.org"],
    hostname: "guest",
    fqdn: "guest.example.org",
    ...changes,
  });
}

/** One's complement sum, byte pair by byte pair. */
export function onesSum(...parts: readonly Uint8Array[]): number {
  let total = 0;
  for (const part of parts) {
    for (let i = 0; i < part.length; i++) total += part[i] << (i % 2 === 0 ? 8 : 0);
  }
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}

/** Length of the IP header of a frame of either version. */
function ipSize(frame: Uint8Array): number {
  return frame[12] === 0x86 ? 40 : 20;
}

function pseudo(frame: Uint8Array): Uint8Array[] {
  const length = frame.length - 14 - ipSize(frame);
  const addresses = frame[12] === 0x86 ? frame.slice(22, 54) : frame.slice(26, 34);
  return [addresses, Uint8Array.of(0, 17, length >> 8, length & 0xff)];
}

/** Makes lengths and checksums of a frame without IP options right again. */
export function sealed(frame: Uint8Array): Uint8Array {
  const out = frame.slice();
  const view = new DataView(out.buffer);
  const udp = 14 + ipSize(out);
  view.setUint16(udp + 4, out.length - udp);
  if (out[12] === 0x86) view.setUint16(18, out.length - udp);
  else {
    view.setUint16(16, out.length - 14);
    view.setUint16(24, 0);
    view.setUint16(24, ~onesSum(out.slice(14, 34)) & 0xffff);
  }
  view.setUint16(udp + 6, 0);
  view.setUint16(udp + 6, ~onesSum(...pseudo(out), out.slice(udp)) & 0xffff || 0xffff);
  return out;
}

export interface Answer {
  readonly destinationMac: string;
  readonly sourceMac: string;
  readonly source: string;
  readonly destination: string;
  readonly ports: readonly [number, number];
  readonly message: Uint8Array;
}

/** Headers of a reply in hexadecimal, after its lengths and checksums were checked. */
export function takeApart(frame: Uint8Array): Answer {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const six = frame[12] === 0x86;
  const udp = 14 + ipSize(frame);
  assertEquals(view.getUint16(12), six ? 0x86dd : 0x0800);
  assertEquals(view.getUint8(14), six ? 0x60 : 0x45);
  if (!six) assertEquals(onesSum(frame.slice(14, 34)), 0xffff, "IP checksum");
  assertEquals(view.getUint16(six ? 18 : 16), frame.length - (six ? 54 : 14));
  assertEquals(view.getUint8(six ? 20 : 23), 17);
  assertEquals(view.getUint16(udp + 4), frame.length - udp);
  assertEquals(onesSum(...pseudo(frame), frame.slice(udp)), 0xffff, "UDP checksum");
  const size = six ? 16 : 4;
  const from = six ? 22 : 26;
  return {
    destinationMac: frame.slice(0, 6).toHex(),
    sourceMac: frame.slice(6, 12).toHex(),
    source: frame.slice(from, from + size).toHex(),
    destination: frame.slice(from + size, from + 2 * size).toHex(),
    ports: [view.getUint16(udp), view.getUint16(udp + 2)],
    message: frame.slice(udp + 8),
  };
}

/** Options of a DHCP message, `[code, value in hexadecimal]` in their order. */
export function options4(message: Uint8Array): [number, string][] {
  assertEquals(message.slice(236, 240).toHex(), "63825363");
  const options: [number, string][] = [];
  let at = 240;
  while (message[at] !== 255) {
    const length = message[at + 1];
    options.push([message[at], message.slice(at + 2, at + 2 + length).toHex()]);
    at += 2 + length;
    assert(at < message.length, "no End option");
  }
  assert(message.slice(at + 1).every((byte) => byte === 0), "padding");
  return options;
}

/** Options of DHCPv6 in `bytes` likewise. */
export function options6(bytes: Uint8Array): [number, string][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const options: [number, string][] = [];
  let at = 0;
  while (at < bytes.length) {
    const length = view.getUint16(at + 2);
    options.push([view.getUint16(at), bytes.slice(at + 4, at + 4 + length).toHex()]);
    at += 4 + length;
  }
  assertEquals(at, bytes.length);
  return options;
}
