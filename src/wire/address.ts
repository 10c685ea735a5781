/**
 * Addresses as bytes. An IP address is 16 bytes wherever vuelo keeps one: IPv6 as it is,
 * IPv4 mapped into ::ffff:0:0/96 (RFC 4291, section 2.5.5.2). A MAC address is 6 bytes.
 */

export const ADDRESS_SIZE = 16;
/** Bytes of a MAC address. */
export const MAC_SIZE = 6;

/** Where the four bytes of an IPv4 address lie in its mapped form. */
export const IPV4_AT = 12;

/** Parses an IPv4 dotted quad or IPv6 text (RFC 4291, section 2.2); no zone, no prefix. */
export function parseAddress(text: string): Uint8Array | undefined {
  return text.includes(":") ? parseIPv6(text) : parseIPv4(text);
}

/** Writes an address as RFC 5952 recommends, a mapped one as a dotted quad. */
export function formatAddress(bytes: Uint8Array, at = 0): string {
  if (isIPv4(bytes, at)) return formatQuad(bytes, at + IPV4_AT);
  const groups: number[] = [];
  for (let i = 0; i < 8; i++) groups.push(bytes[at + 2 * i] << 8 | bytes[at + 2 * i + 1]);
  const [start, length] = longestZeroRun(groups);
  const hex = groups.map((group) => group.toString(16));
  if (length < 2) return hex.join(":");
  return `${hex.slice(0, start).join(":")}::${hex.slice(start + length).join(":")}`;
}

/** Parses six octets of two hexadecimal digits, all parted by colons or all by dashes. */
export function parseMac(text: string): Uint8Array | undefined {
  if (!/^[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}$/i.test(text)) return undefined;
  return Uint8Array.from(text.split(/[:-]/), (octet) => parseInt(octet, 16));
}

/** Writes a MAC address in lower case with colons. */
export function formatMac(bytes: Uint8Array, at = 0): string {
  return Array.from(
    bytes.subarray(at, at + MAC_SIZE),
    (octet) => octet.toString(16).padStart(2, "0"),
  ).join(":");
}

/** Maps an IPv4 address of four bytes at `at`, as it lies in a packet, to 16 bytes. */
export function mapIPv4(bytes: Uint8Array, at = 0): Uint8Array {
  const mapped = new Uint8Array(ADDRESS_SIZE);
  mapped[10] = mapped[11] = 0xff;
  for (let i = 0; i < 4; i++) mapped[IPV4_AT + i] = bytes[at + i];
  return mapped;
}

/** Whether the address lies in ::ffff:0:0/96. */
export function isIPv4(bytes: Uint8Array, at = 0): boolean {
  for (let i = 0; i < 10; i++) if (bytes[at + i] !== 0) return false;
  return bytes[at + 10] === 0xff && bytes[at + 11] === 0xff;
}

/** 224.0.0.0/4 (RFC 5771) or ff00::/8. */
export function isMulticast(bytes: Uint8Array, at = 0): boolean {
  return isIPv4(bytes, at) ? bytes[at + IPV4_AT] >> 4 === 0xe : bytes[at] === 0xff;
}

/** 169.254.0.0/16 (RFC 3927) or fe80::/10. */
export function isLinkLocal(bytes: Uint8Array, at = 0): boolean {
  if (isIPv4(bytes, at)) {
    return bytes[at + IPV4_AT] === 169 && bytes[at + IPV4_AT + 1] === 254;
  }
  return bytes[at] === 0xfe && (bytes[at + 1] & 0xc0) === 0x80;
}

/** 127.0.0.0/8 or ::1. */
export function isLoopback(bytes: Uint8Array, at = 0): boolean {
  if (isIPv4(bytes, at)) return bytes[at + IPV4_AT] === 127;
  return isZero(bytes, at, 15) && bytes[at + 15] === 1;
}

/** 0.0.0.0 or ::. */
export function isUnspecified(bytes: Uint8Array, at = 0): boolean {
  return isZero(bytes, at, 10) && isZero(bytes, at + IPV4_AT, 4) &&
    (bytes[at + 10] === 0 && bytes[at + 11] === 0 || isIPv4(bytes, at));
}

/** 255.255.255.255; IPv6 has no broadcast. */
export function isBroadcast(bytes: Uint8Array, at = 0): boolean {
  if (!isIPv4(bytes, at)) return false;
  for (let i = IPV4_AT; i < ADDRESS_SIZE; i++) if (bytes[at + i] !== 0xff) return false;
  return true;
}

/** Whether the 16 bytes at `atA` of `a` and at `atB` of `b` are the same. */
export function sameAddress(a: Uint8Array, b: Uint8Array, atA = 0, atB = 0): boolean {
  for (let i = 0; i < ADDRESS_SIZE; i++) if (a[atA + i] !== b[atB + i]) return false;
  return true;
}

/**
 * The address with all bits after the prefix cleared, a new array. `prefixLength` counts
 * as the family writes it: 0 to 32 for a mapped address, else 0 to 128.
 */
export function maskAddress(address: Uint8Array, prefixLength: number): Uint8Array {
  const bits = isIPv4(address) ? 96 + prefixLength : prefixLength;
  return address.slice(0, ADDRESS_SIZE).map((byte, i) => byte & octetMask(bits, i));
}

/** Whether `address` lies in `prefix`/`prefixLength` (0 to 32 for a mapped prefix). */
export function contains(
  prefix: Uint8Array,
  prefixLength: number,
  address: Uint8Array,
  at = 0,
): boolean {
  const bits = isIPv4(prefix) ? 96 + prefixLength : prefixLength;
  for (let i = 0; i < ADDRESS_SIZE; i++) {
    if ((prefix[i] ^ address[at + i]) & octetMask(bits, i)) return false;
  }
  return true;
}

/** The mask of octet `index` under a prefix of `bits` bits. */
function octetMask(bits: number, index: number): number {
  const covered = Math.min(8, Math.max(0, bits - 8 * index));
  return 0xff00 >> covered & 0xff;
}

function isZero(bytes: Uint8Array, at: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (bytes[at + i] !== 0) return false;
  return true;
}

function parseIPv4(text: string): Uint8Array | undefined {
  const quad = parseQuad(text);
  return quad === undefined ? undefined : mapIPv4(Uint8Array.from(quad));
}

/** Four decimal octets without leading zeros, which some readers take for octal. */
function parseQuad(text: string): number[] | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  if (!parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part))) return undefined;
  const octets = parts.map(Number);
  return octets.every((octet) => octet <= 255) ? octets : undefined;
}

function formatQuad(bytes: Uint8Array, at: number): string {
  return `${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`;
}

function parseIPv6(text: string): Uint8Array | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const compressed = halves.length === 2;
  const head = parseGroups(halves[0], !compressed);
  const tail = compressed ? parseGroups(halves[1], true) : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = ADDRESS_SIZE - head.length - tail.length;
  // "::" stands for at least one group (RFC 4291, section 2.2).
  if (compressed ? missing < 2 : missing !== 0) return undefined;
  const bytes = new Uint8Array(ADDRESS_SIZE);
  bytes.set(head, 0);
  bytes.set(tail, ADDRESS_SIZE - tail.length);
  return bytes;
}

/** Octets of groups parted by single colons; a dotted quad may be the `last` group. */
function parseGroups(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const octets: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (/^[0-9a-f]{1,4}$/i.test(group)) {
      const value = parseInt(group, 16);
      octets.push(value >> 8, value & 0xff);
      continue;
    }
    const quad = last && index === groups.length - 1 ? parseQuad(group) : undefined;
    if (quad === undefined) return undefined;
    octets.push(...quad);
  }
  return octets.length <= ADDRESS_SIZE ? octets : undefined;
}

/** Start and length of the first of the longest runs of zero groups. */
function longestZeroRun(groups: readonly number[]): [start: number, length: number] {
  let best: [number, number] = [0, 0];
  for (let i = 0; i < groups.length; i++) {
    let end = i;
    while (end < groups.length && groups[end] === 0) end++;
    if (end - i > best[1]) best = [i, end - i];
    i = Math.max(i, end);
  }
  return best;
}
