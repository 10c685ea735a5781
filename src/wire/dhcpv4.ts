/** DHCP messages (RFC 2131, RFC 2132) and the BOOTP messages they grew out of (RFC 951). */

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

/** Fixed fields, before the magic cookie and the options. */
export const BOOTP_FIXED_SIZE = 236;
export const DHCP_OPTIONS_AT = 240;
/** Shortest message that BOOTP clients and relays take (RFC 1542, section 2.1). */
export const BOOTP_MIN_SIZE = 300;
export const DHCP_MAGIC_COOKIE = 0x63825363;

export const BOOTP_XID_AT = 4;
export const BOOTP_FLAGS_AT = 10;
export const BOOTP_CIADDR_AT = 12;
export const BOOTP_YIADDR_AT = 16;
export const BOOTP_GIADDR_AT = 24;
export const BOOTP_CHADDR_AT = 28;
const SNAME_AT = 44;
const SNAME_SIZE = 64;
const FILE_AT = 108;
const FILE_SIZE = 128;

export const BOOTP_REQUEST = 1;
export const BOOTP_REPLY = 2;
export const BROADCAST_FLAG = 0x8000;

/** Message types (RFC 2132, section 9.6). */
export const DhcpMessage = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
  inform: 8,
} as const;

/** Option codes (RFC 2132; RFC 3397; RFC 3442; RFC 4702). */
export const DhcpOption = {
  pad: 0,
  subnetMask: 1,
  router: 3,
  dns: 6,
  hostname: 12,
  mtu: 26,
  requestedAddress: 50,
  leaseTime: 51,
  overload: 52,
  messageType: 53,
  serverId: 54,
  parameterList: 55,
  message: 56,
  maxMessageSize: 57,
  clientId: 61,
  rapidCommit: 80,
  clientFqdn: 81,
  searchList: 119,
  classlessRoutes: 121,
  end: 255,
} as const;

/** Options by code; the parts of one that is there several times are joined (RFC 3396). */
export type DhcpOptions = ReadonlyMap<number, Uint8Array>;

const NO_OPTIONS: DhcpOptions = new Map();

/**
 * Whether `message` is a BOOTP request of an Ethernet client (RFC 951, section 3) that no
 * relay agent has passed on.
 */
export function isBootpRequest(message: DataView): boolean {
  return message.byteLength >= BOOTP_FIXED_SIZE &&
    message.getUint8(0) === BOOTP_REQUEST &&
    message.getUint8(1) === 1 && message.getUint8(2) === 6 &&
    message.getUint32(BOOTP_GIADDR_AT) === 0;
}

/**
 * The options of a message of at least {@link BOOTP_FIXED_SIZE} bytes, also those in the
 * `file` and `sname` fields (option 52; RFC 2131, section 4.1). None without the magic
 * cookie; undefined if an option reaches out of its field.
 */
export function parseDhcpOptions(message: DataView): DhcpOptions | undefined {
  if (
    message.byteLength < DHCP_OPTIONS_AT ||
    message.getUint32(BOOTP_FIXED_SIZE) !== DHCP_MAGIC_COOKIE
  ) return NO_OPTIONS;
  const options = new Map<number, Uint8Array>();
  const rest = message.byteLength - DHCP_OPTIONS_AT;
  if (!collect(message, DHCP_OPTIONS_AT, rest, options)) return undefined;
  const overload = options.get(DhcpOption.overload)?.[0] ?? 0;
  if (overload & 1 && !collect(message, FILE_AT, FILE_SIZE, options)) return undefined;
  if (overload & 2 && !collect(message, SNAME_AT, SNAME_SIZE, options)) return undefined;
  return options;
}

/** Adds the options of one field. Some clients leave the End option out. */
function collect(
  message: DataView,
  start: number,
  length: number,
  options: Map<number, Uint8Array>,
): boolean {
  const end = start + length;
  let at = start;
  while (at < end) {
    const code = message.getUint8(at++);
    if (code === DhcpOption.pad) continue;
    if (code === DhcpOption.end) return true;
    if (at >= end) return false;
    const size = message.getUint8(at++);
    if (at + size > end) return false;
    const value = new Uint8Array(message.buffer, message.byteOffset + at, size);
    const before = options.get(code);
    options.set(code, before === undefined ? value : join(before, value));
    at += size;
  }
  return true;
}

function join(head: Uint8Array, tail: Uint8Array): Uint8Array {
  const joined = new Uint8Array(head.length + tail.length);
  joined.set(head);
  joined.set(tail, head.length);
  return joined;
}

/** Appends options to the message in `bytes`, up to `limit`, keeping a byte for End. */
export class DhcpOptionWriter {
  readonly #bytes: Uint8Array;
  readonly #limit: number;
  #at = DHCP_OPTIONS_AT;

  constructor(bytes: Uint8Array, limit: number) {
    this.#bytes = bytes;
    this.#limit = Math.min(limit, bytes.length) - 1;
  }

  /**
   * Appends one option, in parts of 255 bytes if it is longer (RFC 3396). An option that
   * does not fit is left out whole; the result tells.
   */
  write(code: number, value: ArrayLike<number>): boolean {
    const parts = Math.max(1, Math.ceil(value.length / 255));
    if (this.#at + 2 * parts + value.length > this.#limit) return false;
    for (let part = 0; part < parts; part++) {
      const from = 255 * part;
      const size = Math.min(255, value.length - from);
      this.#bytes[this.#at++] = code;
      this.#bytes[this.#at++] = size;
      for (let i = 0; i < size; i++) this.#bytes[this.#at++] = value[from + i];
    }
    return true;
  }

  /** Writes the End option; returns the length of the message, padding not counted. */
  end(): number {
    this.#bytes[this.#at++] = DhcpOption.end;
    return this.#at;
  }
}
