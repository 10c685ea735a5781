/** What an entry of the flow table holds for UDP, and how long it lives. */
export { UdpFlag, UdpWord } from "../wire/state/flow_entry.ts";

/** RFC 4787, REQ-5: not below two minutes, five are the default it recommends. */
export const IDLE_MS = 300_000;
/**
 * REQ-5a: ports below 1024 may have less, here DNS (one question, one answer). A flow
 * from outside that the guest never answered has nothing to keep: the next datagram
 * makes it anew.
 */
export const SHORT_IDLE_MS = 30_000;
/** Port of DNS, whose answers come soon or never (RFC 1035, section 4.2). */
export const DNS_PORT = 53;

/** Payload of a datagram in a frame of 1500 bytes, with an IPv6 header. */
export const ETHERNET_PAYLOAD = 1452;

/**
 * Bytes of datagrams that may wait in a socket; the kernel bounds it by
 * net.core.rmem_max, but for root.
 */
export const RECEIVE_BUFFER: number = 4 << 20;
