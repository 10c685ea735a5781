/** Values of options: each is read, checked and, if wrong, refused by name. */
import { UsageError } from "../errors.ts";
import { isDomain } from "../host/resolv_conf.ts";
import {
  isBroadcast,
  isIPv4,
  isLoopback,
  isMulticast,
  isUnspecified,
  parseAddress,
  parseMac,
} from "../wire/address.ts";
import type { OptionValue } from "./parse_options.ts";

/** Which families -4 and -6 leave. */
export interface Families {
  readonly ip4: boolean;
  readonly ip6: boolean;
}

/** A decimal number within bounds; `or` is what else would have been right. */
export function readNumber(
  value: OptionValue,
  min: number,
  max: number,
  or = "",
): number {
  const number = /^[0-9]{1,15}$/.test(value.text) ? Number(value.text) : NaN;
  if (!(number >= min && number <= max)) {
    throw new UsageError(
      value.written,
      `expected a number from ${min} to ${max} ${or}`.trim(),
    );
  }
  return number;
}

/** A path, which only must not be empty. */
export function readPath(value: OptionValue): string {
  if (value.text === "") throw new UsageError(value.written, "expected a path");
  return value.text;
}

/** A unicast address of one of the families in use; loopback ones where they make sense. */
export function readAddress(
  value: OptionValue,
  families: Families,
  loopback: "loopback too" | "no loopback",
  text: string = value.text,
): Uint8Array {
  const address = parseAddress(text);
  if (address === undefined) {
    throw new UsageError(value.written, "expected an IPv4 or IPv6 address");
  }
  if (isUnspecified(address) || isMulticast(address) || isBroadcast(address)) {
    throw new UsageError(value.written, "not the address of one host");
  }
  if (loopback === "no loopback" && isLoopback(address)) {
    throw new UsageError(value.written, "a loopback address has no meaning here");
  }
  checkFamily(value, isIPv4(address), families);
  return address;
}

/** Refuses what belongs to a family that is switched off. */
export function checkFamily(value: OptionValue, ip4: boolean, families: Families): void {
  if (ip4 && !families.ip4) {
    throw new UsageError(value.written, "contradicts --ipv6-only");
  }
  if (!ip4 && !families.ip6) {
    throw new UsageError(value.written, "contradicts --ipv4-only");
  }
}

/** A MAC address of one station. */
export function readMac(value: OptionValue): Uint8Array {
  const mac = parseMac(value.text);
  if (mac === undefined) throw new UsageError(value.written, "expected a MAC address");
  if ((mac[0] & 1) !== 0 || mac.every((octet) => octet === 0)) {
    throw new UsageError(value.written, "not the MAC address of one station");
  }
  return mac;
}

/** A host name, or a full name with dots. */
export function readName(value: OptionValue, text: string = value.text): string {
  if (!isDomain(text)) {
    throw new UsageError(value.written, "expected a host or domain name");
  }
  return text;
}

/** An IPv4 netmask, dotted or as a number of bits; returns the number. */
export function readNetmask(value: OptionValue): number {
  if (/^[0-9]+$/.test(value.text)) return readNumber(value, 0, 32);
  const mask = parseAddress(value.text);
  if (mask !== undefined && isIPv4(mask)) {
    const bits = new DataView(mask.buffer, mask.byteOffset).getUint32(12);
    const length = Math.clz32(~bits);
    // All bits from the first zero on must be zero.
    if (length === 32 || bits << length === 0) return length;
  }
  throw new UsageError(value.written, "expected a netmask or a number from 0 to 32");
}

/** `ADDR[/LENGTH]`; the length is as the family counts it. */
export function readPrefix(
  value: OptionValue,
  families: Families,
): { address: Uint8Array; prefixLength?: number } {
  const [text, lengthText, ...more] = value.text.split("/");
  const address = readAddress(value, families, "no loopback", text);
  if (lengthText === undefined) return { address };
  const max = isIPv4(address) ? 32 : 128;
  const length = /^[0-9]{1,3}$/.test(lengthText) ? Number(lengthText) : NaN;
  if (!(length <= max) || more.length > 0) {
    throw new UsageError(value.written, `expected a prefix length from 0 to ${max}`);
  }
  return { address, prefixLength: length };
}
