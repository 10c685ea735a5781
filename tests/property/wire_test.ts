/**
 * Parsers of the hot path on arbitrary and on mutated packets: they end, never throw, and
 * never read outside of what they were given. A view of just the bytes sees to the last:
 * DataView throws on a read beyond it.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  IPV4_HEADER_SIZE,
  ipv4ChecksumOk,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4TotalLength,
} from "../../src/wire/ipv4.ts";
import {
  IPV6_HEADER_SIZE,
  ipv6Length,
  ipv6Upper,
  upperOffset,
  upperProtocol,
} from "../../src/wire/ipv6.ts";
import {
  TCP_HEADER_SIZE,
  TCP_MAX_HEADER_SIZE,
  tcpHeaderLength,
  tcpMss,
  tcpOption,
  tcpWindowScale,
} from "../../src/wire/tcp.ts";
import { UDP_HEADER_SIZE, udpLength } from "../../src/wire/udp.ts";
import { GOLDEN_FRAMES, goldenFrame } from "../golden/wire.ts";

const ETHERNET = 14;
const IPV6_EXTENSIONS = [0, 43, 44, 60];

/** A golden packet from its IP header on, with bytes changed and its end cut off. */
function mutated(): fc.Arbitrary<Uint8Array> {
  const change = fc.record({ at: fc.nat(120), value: fc.nat(255) });
  const recipe = fc.record({
    name: fc.constantFrom(...GOLDEN_FRAMES),
    changes: fc.array(change, { maxLength: 6 }),
    cut: fc.option(fc.nat(1500), { nil: 0 }),
  });
  return recipe.map(({ name, changes, cut }) => {
    const packet = goldenFrame(name).slice(ETHERNET);
    for (const { at, value } of changes) if (at < packet.length) packet[at] = value;
    return packet.slice(0, Math.max(0, packet.length - cut));
  });
}

function packets(): fc.Arbitrary<Uint8Array> {
  return fc.oneof(mutated(), fc.uint8Array({ maxLength: 200 }));
}

/** A view of the bytes alone: what lies around them is out of its reach. */
function exact(bytes: Uint8Array): DataView {
  return new DataView(bytes.slice().buffer);
}

function readTransport(view: DataView, at: number, available: number): void {
  const udp = udpLength(view, at, available);
  if (udp >= 0) assert(udp >= UDP_HEADER_SIZE && udp <= available);
  const tcp = tcpHeaderLength(view, at, available);
  if (tcp < 0) return;
  assert(tcp >= TCP_HEADER_SIZE && tcp <= Math.min(available, TCP_MAX_HEADER_SIZE));
  assert(tcpMss(view, at, tcp) <= 0xffff);
  assert(tcpWindowScale(view, at, tcp) <= 14);
  for (let kind = 0; kind < 256; kind += 5) {
    for (const size of [2, 3, 4, 10, 40]) {
      const offset = tcpOption(view, at, tcp, kind, size);
      assert(offset === -1 || offset >= TCP_HEADER_SIZE && offset + size <= tcp);
    }
  }
}

Deno.test("IPv4 packets of any bytes stay inside their bytes", () => {
  fc.assert(
    fc.property(packets(), (bytes) => {
      const view = exact(bytes);
      const headerLength = ipv4HeaderLength(view, 0, bytes.length);
      if (headerLength < 0) return;
      const total = ipv4TotalLength(view, 0);
      assert(headerLength >= IPV4_HEADER_SIZE && headerLength <= total);
      assert(total <= bytes.length);
      ipv4ChecksumOk(view, 0, headerLength);
      ipv4IsFragment(view, 0);
      readTransport(view, headerLength, total - headerLength);
    }),
    { numRuns: 3000 },
  );
});

Deno.test("IPv6 packets of any bytes stay inside their bytes", () => {
  fc.assert(
    fc.property(packets(), (bytes) => {
      const view = exact(bytes);
      const length = ipv6Length(view, 0, bytes.length);
      if (length < 0) return;
      assert(length >= IPV6_HEADER_SIZE && length <= bytes.length);
      const upper = ipv6Upper(view, 0, length);
      if (upper < 0) return assertEquals(upper, -1);
      assert(upperOffset(upper) >= IPV6_HEADER_SIZE && upperOffset(upper) <= length);
      assert(upperProtocol(upper) <= 255);
      readTransport(view, upperOffset(upper), length - upperOffset(upper));
    }),
    { numRuns: 3000 },
  );
});

Deno.test("chains of arbitrary extension headers end inside the packet", () => {
  const header = fc.record({
    next: fc.oneof(fc.constantFrom(...IPV6_EXTENSIONS), fc.nat(255)),
    units: fc.oneof({ weight: 8, arbitrary: fc.nat(2) }, fc.nat(255)),
    body: fc.uint8Array({ minLength: 22, maxLength: 22 }),
  });
  const first = fc.constantFrom(...IPV6_EXTENSIONS);
  const chain = fc.array(header, { maxLength: 12 });
  fc.assert(
    fc.property(first, chain, fc.nat(30), (next, headers, cut) => {
      const parts = headers.flatMap(({ next, units, body }) =>
        [next, units, ...body].slice(0, 8 * (1 + Math.min(units, 2)))
      );
      const bytes = new Uint8Array(Math.max(40, 40 + parts.length - cut));
      bytes[6] = next;
      bytes.set(parts.slice(0, bytes.length - 40), 40);
      const upper = ipv6Upper(exact(bytes), 0, bytes.length);
      assert(upper === -1 || upperOffset(upper) <= bytes.length);
    }),
    { numRuns: 3000 },
  );
});

Deno.test("TCP headers of any options stay inside their bytes", () => {
  const option = fc.tuple(fc.nat(10), fc.nat(12), fc.uint8Array({ maxLength: 10 }));
  fc.assert(
    fc.property(fc.array(option, { maxLength: 10 }), (options) => {
      const body = options.flatMap(([kind, size, value]) => [kind, size, ...value]);
      const padded = Math.min(40, body.length + 3 & ~3);
      const bytes = new Uint8Array(TCP_HEADER_SIZE + padded);
      bytes.set(body.slice(0, padded), TCP_HEADER_SIZE);
      bytes[12] = bytes.length >> 2 << 4;
      readTransport(exact(bytes), 0, bytes.length);
    }),
    { numRuns: 3000 },
  );
});
