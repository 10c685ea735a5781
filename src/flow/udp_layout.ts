/** What an entry of the flow table holds for UDP, and how long it lives. */
import { FlowWord } from "./table.ts";

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

/** RFC 4787, REQ-5: not below two minutes, five are the default it recommends. */
export const IDLE_MS = 300_000;
/**
 * REQ-5a: ports below 1024 may have less, here DNS (one question, one answer). A flow
 * from outside that the guest never answered has nothing to keep: the next datagram
 * makes it anew.
 */
export const SHORT_IDLE_MS = 30_000;
export const DNS_PORT = 53;

/** Payload of a datagram in a frame of 1500 bytes, with an IPv6 header. */
export const ETHERNET_PAYLOAD = 1452;
