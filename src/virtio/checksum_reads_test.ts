/** Payload is read for a checksum only where the guest cannot complete one itself. */
import { assertEquals, assertGreaterOrEqual, assertLess } from "@std/assert";
import { Arena } from "../../ffi/arena.ts";
import { IovecArray } from "../../ffi/iovec.ts";
import { GuestRam, MockDriver } from "../../tests/support/mock_driver.ts";
import { countedMemory } from "../../tests/support/read_counter.ts";
import { referenceSum } from "../../tests/support/reference_checksum.ts";
import { pattern, TcpWorld } from "../../tests/support/tcp_world.ts";
import { FrameSink } from "./frame_sink.ts";
import { SplitQueue } from "./split_queue.ts";

const HEAD = 54;
const TRANSPORT_AT = 34;
const CHECKSUM_OFFSET = 16;
const PAYLOAD = 60_000;
/** Descriptors and headers of a frame. */
const OVERHEAD = 256;

/** Sends a frame with much payload; bytes read meanwhile, net header and frame. */
function send(guestChecksum: boolean) {
  const { memory, bytesRead } = countedMemory();
  const ram = new GuestRam(memory);
  const driver = new MockDriver(ram, true, 64);
  const queue = new SplitQueue(memory);
  queue.start(driver.rx.layout);
  const sink = new FrameSink(memory, queue);
  sink.mergeable = true;
  sink.guestChecksum = guestChecksum;
  driver.post(40, 2048);
  const iovecs = new IovecArray(new Arena(1 << 16), 2048);
  const before = bytesRead();
  sink.begin();
  assertEquals(sink.reserve(HEAD, PAYLOAD, iovecs), PAYLOAD);
  const payload = pattern(PAYLOAD);
  for (let i = 0, at = 0; i < iovecs.count; at += iovecs.lengthOf(i++)) {
    const piece = payload.subarray(at, at + iovecs.lengthOf(i));
    new Uint8Array(memory.buffer, iovecs.baseOf(i) - memory.base).set(piece);
  }
  for (let i = 0; i < HEAD; i++) sink.head.setUint8(i, i);
  sink.commit(0, HEAD, PAYLOAD, TRANSPORT_AT, CHECKSUM_OFFSET, 0, 0);
  sink.end();
  sink.flush();
  const bytes = bytesRead() - before;
  const [{ header, frame }] = driver.receive();
  ram.close();
  return { bytes, header, frame };
}

Deno.test("a guest that completes checksums gets them partial, and nothing is read", () => {
  const { bytes, header, frame } = send(true);
  assertLess(bytes, OVERHEAD);
  const start = [TRANSPORT_AT, 0, CHECKSUM_OFFSET, 0];
  assertEquals([header[0], ...header.subarray(6, 10)], [1, ...start]);
  const field = TRANSPORT_AT + CHECKSUM_OFFSET;
  assertEquals([...frame.subarray(field, field + 2)], [field, field + 1], "as written");
});

Deno.test("one that does not gets whole checksums, at the price of the payload", () => {
  const { bytes, header, frame } = send(false);
  assertGreaterOrEqual(bytes, PAYLOAD);
  assertEquals([...header.subarray(0, 10)], Array(10).fill(0));
  // The sum over the segment, its field included, is all ones but for what the field
  // held as the sum of the pseudo-header.
  const field = TRANSPORT_AT + CHECKSUM_OFFSET;
  const partial = new Uint8Array(frame);
  partial.set([field, field + 1], field);
  const sum = referenceSum(partial.subarray(TRANSPORT_AT));
  assertEquals((frame[field] << 8) | frame[field + 1], ~sum & 0xffff);
});

function repeated(data: Uint8Array, times: number): Uint8Array {
  return Uint8Array.from(
    { length: data.length * times },
    (_, i) => data[i % data.length],
  );
}

Deno.test("what the guest sends is not read beyond its headers", () => {
  const { memory, bytesRead } = countedMemory();
  const world = new TcpWorld({ memory });
  const { guest, host } = world.connect();
  const segments = 40;
  const before = bytesRead();
  const data = pattern(1400);
  for (let i = 0; i < segments; i++) guest.queue("A", { data });
  world.settle();
  assertLess(bytesRead() - before, segments * OVERHEAD);
  assertEquals(host.receive(segments * data.length), repeated(data, segments));
  guest.finish(host);
  world.close();
});
