import { assert, assertEquals } from "@std/assert";
import { Arena } from "../../../ffi/arena.ts";
import { IovecArray } from "../../../ffi/iovec.ts";
import { Coalescer, NEEDS_CSUM, vouch } from "./coalesce.ts";

/**
 * An Ethernet frame of IPv4 and TCP (RFC 791, RFC 9293) with a timestamp option, from
 * 192.0.2.1 port 40000 to 198.51.100.2 port 7100, with `payload` bytes from sequence
 * number `sequence` on.
 */
function segment(
  view: DataView,
  at: number,
  sequence: number,
  payload: number,
  flags = 0x10,
): number {
  for (let i = 0; i < 12 + 14 + 52; i++) view.setUint8(at + i, 0);
  view.setUint8(at, 2); // DATA_VALID
  view.setUint16(at + 10, 1, true);
  view.setUint16(at + 24, 0x0800);
  const ip = at + 26;
  view.setUint8(ip, 0x45);
  view.setUint16(ip + 2, 52 + payload);
  view.setUint8(ip + 8, 64);
  view.setUint8(ip + 9, 6);
  view.setUint32(ip + 12, 0xc0000201);
  view.setUint32(ip + 16, 0xc6336402);
  const tcp = ip + 20;
  view.setUint16(tcp, 40_000);
  view.setUint16(tcp + 2, 7100);
  view.setUint32(tcp + 4, sequence);
  view.setUint32(tcp + 8, 99);
  view.setUint8(tcp + 12, 0x80);
  view.setUint8(tcp + 13, flags);
  view.setUint32(tcp + 20, 0x0101080a);
  for (let i = 0; i < payload; i++) view.setUint8(tcp + 32 + i, sequence + i);
  return 12 + 14 + 52 + payload;
}

/** The ones' complement sum of a header with its checksum is 0xffff (RFC 1071). */
function sum(view: DataView, at: number, length: number): number {
  let total = 0;
  for (let i = 0; i < length; i += 2) total += view.getUint16(at + i);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

function world() {
  const arena = new Arena(65_536);
  const iovecs = new IovecArray(arena, 64);
  const buffer = arena.take(32_768);
  return {
    view: arena.view,
    at: (i: number) => buffer + i * 2048,
    base: arena.base,
    iovecs,
    coalescer: new Coalescer(arena.view, arena.base, iovecs),
  };
}

Deno.test("segments in order become one, with its length and checksums", () => {
  const { view, at, base, iovecs, coalescer } = world();
  const sizes = [1000, 1000, 600];
  let sequence = 5000;
  sizes.forEach((size, i) => {
    const length = segment(view, at(i), sequence, size);
    vouch(view, at(i), length);
    assert(coalescer.add(at(i), length));
    sequence += size;
  });
  coalescer.finish();
  assertEquals(iovecs.count, 3);
  assertEquals(iovecs.baseOf(0), base + at(0));
  assertEquals([0, 1, 2].map((i) => iovecs.lengthOf(i)), [
    12 + 14 + 52 + 1000,
    1000,
    600,
  ]);
  const first = at(0);
  assertEquals(view.getUint8(first), NEEDS_CSUM);
  assertEquals(view.getUint8(first + 1), 1); // VIRTIO_NET_HDR_GSO_TCPV4
  assertEquals(view.getUint16(first + 4, true), 1000); // gso_size
  assertEquals(view.getUint16(first + 28), 52 + 2600);
  assertEquals(sum(view, first + 26, 20), 0xffff);
  // The pseudo-header: addresses, protocol, length of the segment.
  const pseudo = new DataView(new ArrayBuffer(12));
  pseudo.setUint32(0, 0xc0000201);
  pseudo.setUint32(4, 0xc6336402);
  pseudo.setUint16(8, 6);
  pseudo.setUint16(10, 32 + 2600);
  assertEquals(view.getUint16(first + 26 + 20 + 16), sum(pseudo, 0, 12));
});

Deno.test("what does not follow is not joined", () => {
  const { view, at, coalescer } = world();
  const add = (i: number, sequence: number, payload: number, flags?: number) => {
    const length = segment(view, at(i), sequence, payload, flags);
    vouch(view, at(i), length);
    return coalescer.add(at(i), length);
  };
  assert(add(0, 100, 500));
  assert(!add(1, 700, 500), "a gap");
  assert(!add(1, 600, 501), "longer than the first");
  assert(!add(1, 600, 500, 0x11), "FIN");
  assert(add(1, 600, 500, 0x18));
  assert(!add(2, 1100, 500), "after PSH");
  coalescer.finish();
  assert(add(2, 1100, 500));
  assertEquals(coalescer.count, 1);
});
