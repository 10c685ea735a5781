/** ICMP (RFC 792): type, code, checksum, then four bytes that depend on the type. */

export const ICMPV4_HEADER_SIZE = 8;
export const ICMPV4_CODE_AT = 1;
export const ICMPV4_CHECKSUM_AT = 2;
/** Echo and echo reply. */
export const ICMPV4_IDENTIFIER_AT = 4;
export const ICMPV4_SEQUENCE_AT = 6;

/** Message types (RFC 792). */
export const IcmpV4Type = {
  echoReply: 0,
  unreachable: 3,
  redirect: 5,
  echo: 8,
  timeExceeded: 11,
  parameterProblem: 12,
} as const;

/** Codes of type unreachable (RFC 792, RFC 1122, RFC 1812). */
export const IcmpV4Unreachable = {
  net: 0,
  host: 1,
  protocol: 2,
  port: 3,
  fragmentationNeeded: 4,
  hostProhibited: 10,
  prohibited: 13,
} as const;

/** Whether a type is an error, which must not be answered by another (RFC 1122). */
export function isIcmpV4Error(type: number): boolean {
  return type === IcmpV4Type.unreachable || type === IcmpV4Type.timeExceeded ||
    type === IcmpV4Type.parameterProblem || type === IcmpV4Type.redirect || type === 4;
}
