/** UDP and ping flows of a guest that is none, with the loopback of its host. */
import { LOOPBACK4, LOOPBACK6 } from "../flow/address_map.ts";
import type { DataPath } from "../flow/datapath.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord } from "../flow/table.ts";
import { UdpWord } from "../flow/udp_layout.ts";
import { parseAddress } from "../wire/address.ts";
import { DEFAULT_TTL } from "../wire/ip.ts";

/** Where such a guest finds the loopback of its host (RFC 5737, RFC 3849). */
export const HOST4 = parseAddress("192.0.2.1") as Uint8Array;
export const HOST6 = parseAddress("2001:db8::1") as Uint8Array;

/** Flows of {@link openDatagramFlows}, at most. */
export const DATAGRAM_FLOWS = 4;

const GUEST4 = parseAddress("192.0.2.2") as Uint8Array;
const GUEST6 = parseAddress("2001:db8::2") as Uint8Array;
const LINK_LOCAL6 = parseAddress("fe80::2") as Uint8Array;
const MAC: Uint8Array = Uint8Array.of(2, 0, 0, 0, 0, 2);
/** Nothing is sent there: the discard service (RFC 863), and a port of the guest. */
const PORTS = (9 << 16) | 40_000;

/**
 * Has the guest be known, as one is that has sent something, and opens a flow of each kind
 * that this host and its operator allow. No packet leaves.
 */
export function openDatagramFlows(path: DataPath): void {
  const { guest } = path;
  guest.mac.set(MAC);
  guest.address4.set(GUEST4);
  guest.address6.set(GUEST6);
  guest.linkLocal6.set(LINK_LOCAL6);
  open(path, FlowKind.udp, true);
  open(path, FlowKind.udp, false);
  open(path, FlowKind.ping4, true);
  open(path, FlowKind.ping6, false);
}

function open(path: DataPath, kind: number, four: boolean): void {
  const { table } = path;
  const flow = table.allocate(kind);
  if (flow < 0) return;
  const { words, bytes } = table;
  const start = flow * FLOW_SIZE;
  bytes.set(four ? HOST4 : HOST6, start + FlowWord.guestOur * 4);
  bytes.set(four ? GUEST4 : GUEST6, start + FlowWord.guestEndpoint * 4);
  bytes.set(four ? LOOPBACK4 : LOOPBACK6, start + FlowWord.hostEndpoint * 4);
  words[flow * FLOW_WORDS + FlowWord.guestPorts] = PORTS;
  words[flow * FLOW_WORDS + UdpWord.ttl] = DEFAULT_TTL; // the same word for ping
  // As a flow that came along with its guest; what is refused is released.
  if (kind === FlowKind.udp) path.udp.adopt(flow, 0);
  else path.ping.adopt(flow, 0);
}
