/** What IPv4 and IPv6 share: numbers of upper-layer protocols (IANA, RFC 5237). */

export const Protocol = {
  hopByHop: 0,
  icmp: 1,
  tcp: 6,
  udp: 17,
  routing: 43,
  fragment: 44,
  icmpv6: 58,
  noNextHeader: 59,
  destinationOptions: 60,
} as const;

/** TTL and hop limit of what vuelo itself sends (RFC 1700). */
export const DEFAULT_TTL = 64;
