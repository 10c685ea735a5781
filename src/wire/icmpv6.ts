/** ICMPv6 (RFC 4443): type, code, checksum, then four bytes that depend on the type. */

export const ICMPV6_HEADER_SIZE = 8;
export const ICMPV6_CODE_AT = 1;
export const ICMPV6_CHECKSUM_AT = 2;
/** Echo request and reply. */
export const ICMPV6_IDENTIFIER_AT = 4;

/** Message types (RFC 4443; RFC 4861, section 4). */
export const IcmpV6Type = {
  unreachable: 1,
  packetTooBig: 2,
  timeExceeded: 3,
  parameterProblem: 4,
  echo: 128,
  echoReply: 129,
  routerSolicitation: 133,
  routerAdvertisement: 134,
  neighbourSolicitation: 135,
  neighbourAdvertisement: 136,
  redirect: 137,
} as const;

/** Whether a type is an error, which must not be answered by another; redirect too. */
export function isIcmpV6Error(type: number): boolean {
  return type < 128 || type === IcmpV6Type.redirect;
}
