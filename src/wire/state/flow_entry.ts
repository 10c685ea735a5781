/**
 * An entry of the flow table: 32 words of 32 bits. It is sent as it lies when the guest
 * moves, which makes its layout a wire format: it changes with a new version only.
 */
import { formatAddress } from "../address.ts";

/** Bytes of an entry. */
export const FLOW_SIZE = 128;
/** 32-bit words of an entry: word W of flow F is `words[F * FLOW_WORDS + W]`. */
export const FLOW_WORDS = 32;

export const FlowKind = { free: 0, tcp: 1, udp: 2, ping4: 3, ping6: 4 } as const;
export const Side = { guest: 0, host: 1 } as const;

/** Words of an entry that all kinds share. */
export const FlowWord = {
  /** Kind in bits 0 to 7, the kind's state in 8 to 15, its flags in 16 to 31. */
  kind: 0,
  /** Ports of the guest side: our in the upper half, the endpoint's in the lower. */
  guestPorts: 1,
  /** Addresses as four words each in memory order: 16 bytes, IPv4 mapped. */
  guestOur: 2,
  guestEndpoint: 6,
  hostPorts: 10,
  hostOur: 11,
  hostEndpoint: 15,
  /** Socket, or -1. */
  fd: 19,
  /** Words from here on belong to the kind. */
  own: 20,
} as const;

/** Words of a UDP flow (from FlowWord.own on). */
export const UdpWord = {
  /** TTL or hop limit set on the socket; starts as 64, the default. */
  ttl: FlowWord.own,
  /** Datagrams to make room for in the next receive. */
  hint: FlowWord.own + 1,
  /** Listener that the flow came through and sends through, plus 1; 0: its own socket. */
  listener: FlowWord.own + 2,
  /** Interface index of a link-local peer. */
  scope: FlowWord.own + 3,
  /** Bytes of payload to make room for in the next receive. */
  size: FlowWord.own + 4,
} as const;

/** Flags in bits 16 to 31 of the first word. */
export const UdpFlag = {
  /** The guest has sent something. */
  answered: 1 << 16,
  /** The host fragments, since a datagram of the guest had to be. */
  fragments: 1 << 17,
} as const;

/** Words of a ping flow (from FlowWord.own on). */
export const PingWord = {
  /** TTL or hop limit set on the socket; starts as 64, the default. */
  ttl: FlowWord.own,
  /** IP_MTU_DISCOVER as set on the socket. */
  discover: FlowWord.own + 1,
} as const;

/** "TCP connection of 192.0.2.10 port 40000 with 198.51.100.2 port 80", for the log. */
export function nameConnection(words: Int32Array, flow: number): string {
  const bytes = new Uint8Array(words.buffer, words.byteOffset + flow * FLOW_SIZE);
  const at = flow * FLOW_WORDS;
  const guest = formatAddress(bytes, FlowWord.guestEndpoint * 4);
  const peer = formatAddress(bytes, FlowWord.hostEndpoint * 4);
  return `TCP connection of ${guest} port ${words[at + FlowWord.guestPorts] & 0xffff} ` +
    `with ${peer} port ${words[at + FlowWord.hostPorts] & 0xffff}`;
}
