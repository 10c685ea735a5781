/** Ethernet and IP headers of frames that carry a flow's data to the guest. */
import { EtherType, writeEthernet } from "../wire/ethernet.ts";
import { fold, pseudoSum4, pseudoSum6 } from "../wire/checksum.ts";
import { DEFAULT_TTL } from "../wire/ip.ts";
import { IPV4_HEADER_SIZE, writeIPv4 } from "../wire/ipv4.ts";
import { IPV6_HEADER_SIZE, writeIPv6 } from "../wire/ipv6.ts";
import type { FlowContext } from "./context.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowWord } from "./table.ts";

const MAPPED = 0xffff0000 | 0; // bytes 00 00 ff ff as a little-endian word
const IP_AT = 14;
export const HEAD4 = IP_AT + IPV4_HEADER_SIZE;
export const HEAD6 = IP_AT + IPV6_HEADER_SIZE;

/** Whether the flow's guest side is IPv4. */
export function isFlow4(words: Int32Array, flow: number): boolean {
  const at = flow * FLOW_WORDS + FlowWord.guestEndpoint;
  return words[at] === 0 && words[at + 1] === 0 && words[at + 2] === MAPPED;
}

/**
 * Writes Ethernet and IP headers from the flow's "our" to its endpoint into the sink's
 * head for `length` bytes of transport header and payload.
 *
 * @returns offset of the transport header: {@link HEAD4} or {@link HEAD6}
 */
export function writeFlowHead(
  context: FlowContext,
  flow: number,
  protocol: number,
  length: number,
): number {
  const { config, guest, table } = context;
  const head = context.sink.head;
  const entry = flow * FLOW_SIZE;
  const source = entry + FlowWord.guestOur * 4;
  const destination = entry + FlowWord.guestEndpoint * 4;
  if (isFlow4(table.words, flow)) {
    writeEthernet(head, 0, guest.mac, config.ourMac, EtherType.ipv4);
    const total = IPV4_HEADER_SIZE + length;
    const view = table.view;
    writeIPv4(
      head,
      IP_AT,
      total,
      protocol,
      DEFAULT_TTL,
      view,
      source,
      view,
      destination,
    );
    return HEAD4;
  }
  writeEthernet(head, 0, guest.mac, config.ourMac, EtherType.ipv6);
  const view = table.view;
  writeIPv6(head, IP_AT, length, protocol, DEFAULT_TTL, view, source, view, destination);
  return HEAD6;
}

/** Partial checksum of the pseudo-header of what {@link writeFlowHead} wrote. */
export function flowPseudoSum(
  head: DataView,
  transportAt: number,
  protocol: number,
  length: number,
): number {
  return transportAt === HEAD4
    ? fold(pseudoSum4(head, IP_AT, protocol, length))
    : fold(pseudoSum6(head, IP_AT, protocol, length));
}
