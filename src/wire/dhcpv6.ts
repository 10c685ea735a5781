/** DHCPv6 messages (RFC 8415): a type, a transaction id of three bytes, then options. */

export const DHCPV6_CLIENT_PORT = 546;
export const DHCPV6_SERVER_PORT = 547;
/** Type and transaction id. */
export const DHCPV6_HEADER_SIZE = 4;
const OPTION_HEADER_SIZE = 4;

/** All_DHCP_Relay_Agents_and_Servers, ff02::1:2 (RFC 8415, section 7.1). */
export const ALL_DHCP_SERVERS: Uint8Array = Uint8Array.of(
  ...[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2],
);

/** Message types (RFC 8415, section 7.3). */
export const Dhcpv6Message = {
  solicit: 1,
  advertise: 2,
  request: 3,
  confirm: 4,
  renew: 5,
  rebind: 6,
  reply: 7,
  release: 8,
  decline: 9,
  informationRequest: 11,
} as const;

/** Option codes (RFC 8415, section 21; RFC 3646; RFC 4704). */
export const Dhcpv6Option = {
  clientId: 1,
  serverId: 2,
  iaNa: 3,
  iaTa: 4,
  iaAddress: 5,
  requested: 6,
  preference: 7,
  statusCode: 13,
  rapidCommit: 14,
  dns: 23,
  searchList: 24,
  iaPd: 25,
  clientFqdn: 39,
} as const;

/** Status codes (RFC 8415, section 21.13). */
export const Dhcpv6Status = {
  success: 0,
  noAddrsAvail: 2,
  noBinding: 3,
  notOnLink: 4,
  useMulticast: 5,
  noPrefixAvail: 6,
} as const;

/** One option: its data lies at `at` of the view it was parsed from, `length` bytes. */
export interface Dhcpv6OptionAt {
  readonly code: number;
  readonly at: number;
  readonly length: number;
}

/** Options from `start` to `end`; undefined if they do not fill that range exactly. */
export function parseDhcpv6Options(
  view: DataView,
  start: number,
  end: number,
): Dhcpv6OptionAt[] | undefined {
  const options: Dhcpv6OptionAt[] = [];
  let at = start;
  while (at < end) {
    if (at + OPTION_HEADER_SIZE > end) return undefined;
    const code = view.getUint16(at);
    const length = view.getUint16(at + 2);
    at += OPTION_HEADER_SIZE;
    if (at + length > end) return undefined;
    options.push({ code, at, length });
    at += length;
  }
  return at === end ? options : undefined;
}

/** Bytes before the options of an identity association: IAID, and T1 and T2 if any. */
export function iaHeaderSize(code: number): number {
  return code === Dhcpv6Option.iaTa ? 4 : 12;
}

/** One option of `value`, header included. */
export function dhcpv6Option(code: number, ...value: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of value) length += part.length;
  const option = new Uint8Array(OPTION_HEADER_SIZE + length);
  const view = new DataView(option.buffer);
  view.setUint16(0, code);
  view.setUint16(2, length);
  let at = OPTION_HEADER_SIZE;
  for (const part of value) {
    option.set(part, at);
    at += part.length;
  }
  return option;
}

/** A Status Code option without text (RFC 8415, section 21.13). */
export function statusOption(status: number): Uint8Array {
  return dhcpv6Option(Dhcpv6Option.statusCode, Uint8Array.of(0, status));
}

/** An IA Address option (RFC 8415, section 21.6); one lifetime in seconds for both. */
export function iaAddressOption(address: Uint8Array, lifetime: number): Uint8Array {
  const lifetimes = new Uint8Array(8);
  const view = new DataView(lifetimes.buffer);
  view.setUint32(0, lifetime);
  view.setUint32(4, lifetime);
  return dhcpv6Option(Dhcpv6Option.iaAddress, address, lifetimes);
}
