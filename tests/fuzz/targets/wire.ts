/** IPv4, IPv6 with extension headers, TCP with options, and UDP headers (src/wire). */
import {
  ipv4ChecksumOk,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4TotalLength,
} from "../../../src/wire/ipv4.ts";
import {
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
} from "../../../src/wire/ipv6.ts";
import {
  tcpHeaderLength,
  tcpMss,
  tcpOption,
  tcpWindowScale,
} from "../../../src/wire/tcp.ts";
import { udpLength } from "../../../src/wire/udp.ts";
import type { Target } from "../engine/target.ts";
import { exactView, WIRE_SEEDS } from "../frames.ts";

function check(right: boolean, what: string): void {
  if (!right) throw new Error(what);
}

function transport(view: DataView, at: number, available: number): void {
  const udp = udpLength(view, at, available);
  check(udp === -1 || udp >= 8 && udp <= available, "UDP length");
  const tcp = tcpHeaderLength(view, at, available);
  check(tcp === -1 || tcp >= 20 && tcp <= 60 && tcp <= available, "TCP header length");
  if (tcp === -1) return;
  const mss = tcpMss(view, at, tcp);
  check(mss >= -1 && mss <= 0xffff, "MSS");
  const scale = tcpWindowScale(view, at, tcp);
  check(scale >= -1 && scale <= 14, "window scale");
  for (const [kind, size] of [[2, 4], [3, 3], [4, 2], [5, 10], [8, 10], [0, 2]]) {
    const option = tcpOption(view, at, tcp, kind, size);
    check(option === -1 || option >= 20 && option + size <= tcp, "option outside");
  }
}

function four(view: DataView, at: number, available: number): void {
  const header = ipv4HeaderLength(view, at, available);
  if (header === -1) return;
  const total = ipv4TotalLength(view, at);
  check(header >= 20 && header <= 60, "IPv4 header length");
  check(total >= header && total <= available, "IPv4 length");
  ipv4ChecksumOk(view, at, header);
  ipv4IsFragment(view, at);
  transport(view, at + header, total - header);
}

function six(view: DataView, at: number, available: number): void {
  const length = ipv6Length(view, at, available);
  if (length === -1) return;
  check(length >= 40 && length <= available, "IPv6 length");
  const upper = ipv6Upper(view, at, length);
  if (upper === -1) return;
  const offset = upperOffset(upper);
  check(offset >= 40 && offset <= length, "upper layer outside");
  check(upperProtocol(upper) <= 255, "protocol");
  transport(view, at + offset, length - offset);
}

const shifted = new Uint8Array(512);

const target: Target = {
  maxLength: 400,
  seeds: WIRE_SEEDS.map((seed) => seed.subarray(15)),
  run(input) {
    // Nothing is in front of the packet in one, and an odd number of bytes in the other.
    const view = exactView(input);
    four(view, 0, input.length);
    six(view, 0, input.length);
    shifted.set(input, 3);
    const later = exactView(shifted.subarray(0, input.length + 3));
    four(later, 3, input.length);
    six(later, 3, input.length);
  },
};
export default target;
