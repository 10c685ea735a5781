/** Frames through rings, however the driver cuts its buffers. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Arena } from "../../ffi/arena.ts";
import { IovecArray } from "../../ffi/iovec.ts";
import { FrameSink } from "../../src/virtio/frame_sink.ts";
import { FRAME, FrameSource, NO_FRAME } from "../../src/virtio/frame_source.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { PackedQueue } from "../../src/virtio/packed_queue.ts";
import { SplitQueue } from "../../src/virtio/split_queue.ts";
import { GuestRam, MockDriver, NET_HEADER } from "../support/mock_driver.ts";
import { referenceSum } from "../support/reference_checksum.ts";

const memory = new GuestMemory(2 ** 34);
const iovecs = new IovecArray(new Arena(1 << 16), 2048);

interface Parts {
  readonly driver: MockDriver;
  readonly source: FrameSource;
  readonly sink: FrameSink;
  readonly ram: GuestRam;
}

/** Runs `body` on rings of either form. */
function withDriver(mergeable: boolean, body: (parts: Parts) => void): void {
  for (const packed of [false, true]) onRings(packed, mergeable, body);
}

function onRings(
  packed: boolean,
  mergeable: boolean,
  body: (parts: Parts) => void,
): void {
  const ram = new GuestRam(memory);
  try {
    const driver = new MockDriver(ram, mergeable, 64, { packed, start: 60 });
    const Queue = packed ? PackedQueue : SplitQueue;
    const [tx, rx] = [new Queue(memory), new Queue(memory)];
    tx.start(driver.tx.layout);
    rx.start(driver.rx.layout);
    const source = new FrameSource(memory, tx);
    const sink = new FrameSink(memory, rx);
    sink.mergeable = mergeable;
    body({ driver, source, sink, ram });
  } finally {
    ram.close();
  }
}

/** Bytes of guest memory that an iovec stands for. */
function target(i: number): Uint8Array<ArrayBuffer> {
  const offset = iovecs.baseOf(i) - memory.base;
  return new Uint8Array(memory.buffer, offset, iovecs.lengthOf(i));
}

function gathered(from = 0): number[] {
  const bytes: number[] = [];
  for (let i = from; i < iovecs.count; i++) bytes.push(...target(i));
  return bytes;
}

function scatter(bytes: Uint8Array, first: number, end: number): void {
  let at = 0;
  for (let i = first; i < end; i++) {
    const part = bytes.subarray(at, at + iovecs.lengthOf(i));
    target(i).set(part);
    at += part.length;
  }
}

const bytes = (view: DataView, length: number) =>
  Array.from({ length }, (_, i) => view.getUint8(i));

const frame = fc.oneof(
  fc.uint8Array({ minLength: 14, maxLength: 200 }),
  fc.uint8Array({ minLength: 400, maxLength: 700 }),
);
const cuts = fc.array(fc.nat(720), { maxLength: 5 });

Deno.test("FrameSource gives a frame's bytes wherever it is cut", () => {
  fc.assert(fc.property(
    fc.array(fc.record({ frame, cuts, indirect: fc.boolean() }), {
      minLength: 1,
      maxLength: 8,
    }),
    fc.nat(700),
    fc.nat(700),
    (frames, skip, need) => {
      withDriver(true, ({ driver, source }) => {
        for (const { frame, cuts, indirect } of frames) {
          driver.send(frame, cuts, undefined, indirect);
        }
        for (const { frame } of frames) {
          const all = [...frame];
          assertEquals(source.next(), FRAME);
          assertEquals(source.length, frame.length);
          assert(source.headLength >= Math.min(86, frame.length));
          assertEquals(source.need(need), need <= Math.min(frame.length, 500));
          const { headLength } = source;
          assertEquals(bytes(source.head, headLength), all.slice(0, headLength));
          iovecs.count = 0;
          const from = Math.min(skip, frame.length);
          source.appendPayload(from, frame.length - from, iovecs);
          assert(iovecs.count <= source.pieces);
          assertEquals(gathered(), all.slice(from));
          const copy = new DataView(new ArrayBuffer(1000));
          assertEquals(source.copyFrame(copy, from), frame.length - from);
          assertEquals(bytes(copy, frame.length - from), all.slice(from));
        }
        assertEquals(source.next(), NO_FRAME);
        assertEquals(driver.sent(), 0);
        source.flush();
        assertEquals([driver.sent(), source.badChains], [frames.length, 0]);
      });
    },
  ));
});

Deno.test("FrameSource passes over what is no frame, and gives it back", () => {
  withDriver(true, ({ driver, source }) => {
    driver.send(new Uint8Array(13));
    driver.send(new Uint8Array(0), []);
    driver.send(new Uint8Array(65551));
    driver.send(new Uint8Array(65550).fill(7), [5, 40000]);
    assertEquals([source.next(), source.length], [FRAME, 65550]);
    assertEquals([source.next(), source.badChains], [NO_FRAME, 3]);
    source.flush();
    assertEquals(driver.sent(), 4);
  });
});

Deno.test("FrameSource reads a header once, though the guest writes it meanwhile", () => {
  withDriver(true, ({ driver, source, ram }) => {
    const frame = new Uint8Array(300).fill(1);
    const [{ address, length }] = driver.send(frame, []);
    assertEquals(source.next(), FRAME);
    const { headLength } = source;
    ram.bytes(address, length).fill(2);
    assert(source.need(headLength + 10));
    assertEquals(bytes(source.head, headLength), new Array(headLength).fill(1));
    assertEquals(source.head.getUint8(headLength), 2);
    const copy = new DataView(new ArrayBuffer(300));
    source.copyFrame(copy);
    assertEquals(bytes(copy, headLength), new Array(headLength).fill(1));
  });
});

const message = fc.record({
  head: fc.uint8Array({ minLength: 14, maxLength: 120 }),
  payload: fc.uint8Array({ maxLength: 400 }),
});

/** Sends one message as the flows do; false if there was no buffer. */
function send(
  sink: FrameSink,
  { head, payload }: { readonly head: Uint8Array; readonly payload: Uint8Array },
  checksum: readonly [start: number, offset: number] = [0, 0],
): boolean {
  sink.begin();
  iovecs.count = 0;
  if (sink.reserve(head.length, payload.length, iovecs) < payload.length) {
    sink.end();
    return false;
  }
  scatter(payload, 0, iovecs.count);
  head.forEach((byte, i) => sink.head.setUint8(i, byte));
  sink.commit(0, head.length, payload.length, checksum[0], checksum[1], 0, 0);
  sink.end();
  return true;
}

Deno.test("FrameSink fills buffers of any shape, merged where one is too small", () => {
  fc.assert(fc.property(
    fc.array(message, { minLength: 1, maxLength: 10 }),
    fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 4 }),
    (messages, pieces) => {
      // The net header lies in the first buffer (5.1.6.3.2): 20 bytes at least.
      if (pieces.reduce((sum, piece) => sum + piece) < 20) pieces.push(20);
      const size = pieces.reduce((sum, piece) => sum + piece);
      withDriver(true, ({ driver, sink }) => {
        let posted = 0;
        for (const message of messages) {
          const want = NET_HEADER + message.head.length + message.payload.length;
          const buffers = Math.ceil(want / size);
          while (posted < buffers && driver.rx.free >= pieces.length) {
            driver.post(1, ...pieces);
            posted++;
          }
          if (posted < buffers) return; // the ring is too small for this one
          assert(send(sink, message));
          posted -= buffers;
          assertEquals(driver.receive(), []);
          sink.flush();
          const [got, ...more] = driver.receive();
          assertEquals([...got.frame], [...message.head, ...message.payload]);
          assertEquals([...got.header.subarray(0, 10)], new Array(10).fill(0));
          assertEquals(got.header[10], buffers);
          assertEquals(more, []);
        }
      });
    },
  ));
});

Deno.test("FrameSink gives back what it reserved in vain, and says that it starves", () => {
  withDriver(true, ({ driver, sink }) => {
    driver.post(3, 100);
    sink.begin();
    iovecs.count = 0;
    assertEquals(sink.reserve(20, 60, iovecs), 60);
    assertEquals(sink.reserve(20, 60, iovecs), 60);
    assertEquals(sink.reserve(20, 100, iovecs), -1);
    assertEquals([sink.starved, sink.frames, iovecs.count], [true, 2, 2]);
    scatter(new Uint8Array(60).fill(9), 0, 1);
    sink.commit(0, 20, 60, 0, 0, 0, 0);
    sink.end();
    sink.starved = false;
    assert(send(sink, { head: new Uint8Array(20), payload: new Uint8Array(160) }));
    assertEquals(sink.starved, false);
    assert(!send(sink, { head: new Uint8Array(20), payload: new Uint8Array(1) }));
    assertEquals(sink.starved, true);
    sink.flush();
    assertEquals(driver.receive().map(({ frame }) => frame.length), [80, 180]);
  });
});

Deno.test("FrameSink uses fewer buffers than the last frame reserved", () => {
  withDriver(true, ({ driver, sink }) => {
    driver.post(6, 100);
    sink.begin();
    iovecs.count = 0;
    assertEquals(sink.reserve(20, 50, iovecs), 50);
    assertEquals(sink.reserve(20, 400, iovecs), 400);
    sink.commit(0, 20, 50, 0, 0, 0, 0);
    sink.commit(1, 20, 90, 0, 0, 0, 0);
    sink.end();
    assert(send(sink, { head: new Uint8Array(20), payload: new Uint8Array(268) }));
    sink.flush();
    assertEquals(driver.receive().map(({ frame }) => frame.length), [70, 110, 288]);
  });
});

Deno.test("FrameSink without merging says how much of a buffer is left", () => {
  withDriver(false, ({ driver, sink }) => {
    driver.post(1, 40, 60);
    driver.post(1, 30);
    sink.begin();
    iovecs.count = 0;
    assertEquals(sink.reserve(20, 500, iovecs), 68);
    assertEquals(sink.reserve(20, 500, iovecs), -1);
    sink.end();
    assert(send(sink, { head: new Uint8Array(20), payload: new Uint8Array(68).fill(3) }));
    sink.flush();
    const [{ header, frame }] = driver.receive();
    assertEquals([header[10], frame.length, frame[87]], [1, 88, 3]);
  });
});

Deno.test("FrameSink passes over buffers in which no header fits", () => {
  withDriver(true, ({ driver, sink }) => {
    driver.post(2, 11);
    driver.post(1, 100);
    assert(send(sink, { head: new Uint8Array(20), payload: new Uint8Array(3) }));
    sink.flush();
    assertEquals([sink.badChains, driver.rx.reap().map((used) => used.length)], [
      2,
      [0, 0, 35],
    ]);
  });
});

Deno.test("FrameSink completes a checksum, unless the guest does", () => {
  fc.assert(fc.property(
    message,
    fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 3 }),
    fc.nat(0xffff),
    (message, pieces, partial) => {
      const start = message.head.length & ~1;
      const head = Uint8Array.from([
        ...message.head.subarray(0, start),
        1,
        2,
        3,
        4,
        5,
        6,
      ]);
      const { payload } = message;
      const size = 30 + pieces.reduce((sum, piece) => sum + piece);
      const count = Math.ceil((NET_HEADER + head.length + payload.length) / size);
      new DataView(head.buffer).setUint16(start + 2, partial);
      withDriver(true, ({ driver, sink }) => {
        if (driver.rx.free < 2 * count * (pieces.length + 1)) return;
        driver.post(2 * count, 30, ...pieces);
        assert(send(sink, { head, payload }, [start, 2]));
        sink.guestChecksum = true;
        assert(send(sink, { head, payload }, [start, 2]));
        sink.flush();
        const [complete, left] = driver.receive();
        const end = complete.frame.subarray(start);
        // All of it, with the checksum in place of the partial sum.
        const rest = Uint8Array.from([...head.subarray(start), ...payload]);
        const expected = ~referenceSum(rest) & 0xffff;
        assertEquals(end[2] << 8 | end[3], expected);
        assertEquals(complete.header[0], 0);
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, csum_start, csum_offset (5.1.6).
        assertEquals([...left.header], [
          ...[1, 0, 0, 0, 0, 0, start, 0, 2, 0, count & 0xff, count >> 8],
        ]);
        assertEquals([...left.frame], [...head, ...payload]);
      });
    },
  ));
});
