/** Questions to the services of the link, as a guest asks them that has gone wrong. */
import { address, CAPTURED_DHCP } from "./dhcp.ts";
import { packet, udpPacket } from "./guest_packets.ts";

const EMPTY = new Uint8Array(0);
const SIX = { from: address("fe80::5054:ff:fe12:3456"), to: address("fe80::1") };
const ALL_ROUTERS = { from: SIX.from, to: address("ff02::2") };
const AGENTS = { from: SIX.from, to: address("ff02::1:2") };

/** A neighbour or router solicitation (RFC 4861) with its options. */
function ndp(type: number, target: Uint8Array, options: readonly number[]): Uint8Array {
  const body = new Uint8Array(8 + target.length + options.length);
  body[0] = type;
  body.set(target, 8);
  body.set(options, 8 + target.length);
  const frame = packet(type === 133 ? ALL_ROUTERS : SIX, 58, body);
  frame[21] = 255;
  return frame;
}

const OWN_MAC = [1, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
/** A DHCPv6 SOLICIT (RFC 9915): client identifier, and an association wanted. */
const SOLICIT = Uint8Array.from([
  ...[1, 0xaa, 0xbb, 0xcc, 0, 1, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56],
  ...[0, 3, 0, 12, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0],
]);

const SERVICES: readonly Uint8Array[] = [
  ...CAPTURED_DHCP,
  ndp(133, EMPTY, OWN_MAC),
  ndp(135, SIX.to, OWN_MAC),
  ndp(136, SIX.to, OWN_MAC),
  udpPacket(AGENTS, 546, 547, SOLICIT),
];

/**
 * A question with some bytes changed, or cut off, whose lengths and sums are as they were.
 *
 * @param next noise
 * @param i which question it is: of DHCP, NDP and DHCPv6 in turn
 */
export function malformed(next: () => number, i: number): Uint8Array {
  const frame = SERVICES[i % SERVICES.length].slice();
  for (let changes = next() % 4; changes > 0; changes--) {
    // The first bytes say for whom it is; most changes are to come behind that.
    const at = 14 + next() % (frame.length - 14);
    frame[at] = next() & 255;
  }
  // Without a checksum a datagram of IPv4 is taken as it is.
  if (frame[12] === 8 && frame[23] === 17) frame[40] = frame[41] = 0;
  const cut = next() % 4 === 0 ? next() % frame.length : frame.length;
  return frame.subarray(0, cut);
}
