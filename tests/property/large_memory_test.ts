/**
 * A guest of 1 TiB, of which only what is touched takes memory: rings, tables and payload
 * at any offset, most of them across a border of the windows that memory is read through.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { Arena } from "../../ffi/arena.ts";
import { IovecArray } from "../../ffi/iovec.ts";
import { FrameSink } from "../../src/virtio/frame_sink.ts";
import { FRAME, FrameSource } from "../../src/virtio/frame_source.ts";
import { GuestMemory, WINDOW } from "../../src/virtio/guest_memory.ts";
import { makeQueue } from "../../src/virtio/make_queue.ts";
import { ip } from "../support/flow_config.ts";
import { FlowWorld } from "../support/flow_world.ts";
import { GuestRam as LogFile } from "../support/frontend.ts";
import { readPacket, udpPacket } from "../support/guest_packets.ts";
import { HostUdp } from "../support/host_udp.ts";
import { GuestRam, MockDriver, NET_HEADER } from "../support/mock_driver.ts";
import { referenceSum } from "../support/reference_checksum.ts";

const TIB = 2 ** 40;
const START = 2 ** 32;
const END = START + TIB;
/** As a large guest has it: a little below 4 GiB, the rest above. */
const REGIONS = [
  { address: START, size: TIB },
  { address: 0x10_0000, size: 0x40_0000 },
];
const PAGE = 4096;
const memory = new GuestMemory(2 ** 42);
const iovecs = new IovecArray(new Arena(1 << 16), 2048);

/** Gives out places across the borders of windows, and at both ends of the region. */
class SeamRam extends GuestRam {
  #taken = 0;

  constructor(readonly before: () => number) {
    super(memory, REGIONS);
  }

  /** Guest address where window `i` of those that the region covers ends. */
  seam(i: number): number {
    const place = memory.translate(START, 1);
    return START + (Math.floor(place / WINDOW) + 1 + i) * WINDOW - place;
  }

  override take(size: number, align = 16): number {
    const count = this.#taken++;
    assert(count < 1000, "all borders are used up");
    const steps = Math.floor(this.before() * (size / align + 1));
    const at = count === 3 ? END - size : this.seam(count) - steps * align;
    this.seek(Math.floor(at / align) * align);
    return super.take(size, align);
  }
}

function withDriver(
  packed: boolean,
  before: () => number,
  body: (driver: MockDriver, source: FrameSource, sink: FrameSink) => void,
): void {
  const ram = new SeamRam(before);
  try {
    const driver = new MockDriver(ram, true, 64, { packed, start: 65_500 });
    const [tx, rx] = [makeQueue(memory, packed), makeQueue(memory, packed)];
    tx.start(driver.tx.layout);
    rx.start(driver.rx.layout);
    const sink = new FrameSink(memory, rx);
    sink.mergeable = true;
    body(driver, new FrameSource(memory, tx), sink);
  } finally {
    ram.close();
  }
}

const pattern = (length: number, salt: number) =>
  Uint8Array.from({ length }, (_, i) => i * 7 + (i >> 8) + salt);

/** Bytes that iovecs stand for, one after the other. */
function gathered(): Uint8Array {
  const parts = Array.from({ length: iovecs.count }, (_, i) => target(i));
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

function target(i: number): Uint8Array<ArrayBuffer> {
  const offset = iovecs.baseOf(i) - memory.base;
  return new Uint8Array(memory.buffer, offset, iovecs.lengthOf(i));
}

/** A frame of the guest's, read in each of the ways there are. */
function fromGuest(driver: MockDriver, source: FrameSource, frame: Uint8Array): void {
  assertEquals([source.next(), source.length], [FRAME, frame.length]);
  source.need(Math.min(400, frame.length));
  const head = new Uint8Array(source.head.buffer, NET_HEADER, source.headLength);
  assertEquals(head, frame.subarray(0, source.headLength));
  iovecs.count = 0;
  source.appendPayload(14, frame.length - 14, iovecs);
  assertEquals(gathered(), frame.subarray(14));
  const copy = new Uint8Array(frame.length);
  assertEquals(source.copyFrame(new DataView(copy.buffer)), frame.length);
  assertEquals(copy, frame);
  source.flush();
  assertEquals(driver.sent(), 1);
}

/** A frame for the guest, whose checksum is completed here, payload included. */
function toGuest(driver: MockDriver, sink: FrameSink, payload: Uint8Array): void {
  const head = pattern(54, 1);
  sink.begin();
  iovecs.count = 0;
  assertEquals(sink.reserve(head.length, payload.length, iovecs), payload.length);
  for (let i = 0, at = 0; i < iovecs.count; at += iovecs.lengthOf(i++)) {
    target(i).set(payload.subarray(at, at + iovecs.lengthOf(i)));
  }
  head.forEach((byte, i) => sink.head.setUint8(i, byte));
  sink.commit(0, head.length, payload.length, 34, 16, 0, 0);
  sink.end();
  sink.flush();
  const [{ frame }, ...more] = driver.receive();
  assertEquals([frame.length, more.length], [head.length + payload.length, 0]);
  assertEquals(frame.subarray(54), payload);
  const whole = Uint8Array.from([...head, ...payload]);
  const checksum = ~referenceSum(whole.subarray(34)) & 0xffff;
  new DataView(whole.buffer).setUint16(50, checksum);
  assertEquals(frame, whole);
}

for (const packed of [false, true]) {
  const form = packed ? "packed" : "split";

  Deno.test(`frames lie anywhere in a guest of 1 TiB, ${form} rings`, () => {
    fc.assert(
      fc.property(
        fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })),
        fc.array(fc.integer({ min: 14, max: 65_550 }), { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(2000), { maxLength: 4 }),
        fc.boolean(),
        fc.constantFrom<readonly number[]>([40_000, 30_000], [1500], [9000, 70, 5000]),
        (places, lengths, cuts, indirect, buffers) => {
          const before = () => places.next().value;
          withDriver(packed, before, (driver, source, sink) => {
            for (const length of lengths) {
              const frame = pattern(length, length);
              driver.send(frame, cuts, undefined, indirect);
              fromGuest(driver, source, frame);
              const room = buffers.reduce((sum, size) => sum + size, 0);
              const enough = Math.ceil((length + 54 + NET_HEADER) / room);
              driver.post(enough, ...buffers);
              toGuest(driver, sink, frame);
            }
          });
        },
      ),
      { numRuns: 40 },
    );
  });

  Deno.test(`the kernel reads and writes in a guest of 1 TiB, ${form} rings`, () => {
    const ram = new SeamRam(() => 0.5);
    const world = new FlowWorld({ ram, ring: { packed, eventIdx: true } });
    const server = new HostUdp(ip("127.0.0.1"));
    try {
      const out = { from: ip("192.0.2.10"), to: ip("192.0.2.1") };
      world.driver.post(20, 600, 600, 326);
      const data = [1, 500, 1400].map((length) => pattern(length, 3));
      for (const bytes of data) {
        world.driver.send(udpPacket(out, 40_000, server.port, bytes), [12, 60, 300]);
      }
      world.settle();
      for (const bytes of data) {
        const got = server.receive();
        assertEquals(got?.bytes, bytes);
        server.send(bytes, got!.from, got!.port);
      }
      world.settle();
      assertEquals(world.frames().map((frame) => readPacket(frame).payload), data);
    } finally {
      server.close();
      world.close();
    }
  });

  Deno.test(`the dirty log of a guest of 1 TiB is right to its end, ${form} rings`, () => {
    const log = new LogFile(Math.ceil(END / PAGE / 8 / PAGE) * PAGE);
    withDriver(packed, () => 0.5, (driver, _source, sink) => {
      memory.setLog(log.fd, log.size, 0);
      memory.setLogging(true);
      driver.post(1, 3000);
      const pages = new Set<number>();
      const note = (offset: number, length: number) => {
        const first = START + offset - memory.translate(START, 1);
        for (let at = first; at < first + length; at++) pages.add(Math.floor(at / PAGE));
      };
      const { rx } = driver;
      const { layout: { descOffset, usedOffset } } = rx;
      const place = packed ? 65_500 % 64 : 0;
      if (packed) note(descOffset + 16 * place + 8, 8);
      else {
        note(usedOffset + 2, 2);
        note(usedOffset + 4 + 8 * (65_500 % 64), 8);
      }
      sink.begin();
      iovecs.count = 0;
      assertEquals(sink.reserve(54, 2000, iovecs), 2000);
      note(iovecs.baseOf(0) - memory.base - 54 - NET_HEADER, 2000 + 54 + NET_HEADER);
      sink.commit(0, 54, 2000, 0, 0, 0, 0);
      sink.end();
      sink.flush();
      const marked = new Set<number>();
      const words = new Float64Array(log.view.buffer, 0, log.size / 8);
      for (let i = 0; i < words.length; i++) {
        if (Object.is(words[i], 0)) continue;
        for (let bit = 0; bit < 64; bit++) {
          const byte = log.view.getUint8(i * 8 + (bit >> 3));
          if ((byte >> (bit & 7) & 1) !== 0) marked.add(i * 64 + bit);
        }
      }
      const sorted = (set: Set<number>) => [...set].sort((a, b) => a - b);
      assertEquals(sorted(marked), sorted(pages));
      assert(Math.max(...marked) > 2 ** 21, "beyond 8 GiB");
    });
    memory.clearLog();
    memory.setLogging(false);
    log.close();
  });
}

Deno.test("translate() is exact at both ends of 1 TiB", () => {
  const ram = new SeamRam(() => 0);
  const first = memory.translate(START, TIB);
  assert(first > 0);
  assertEquals(memory.translate(END - 1, 1), first + TIB - 1);
  assertEquals(memory.translate(END - 1, 2), -1);
  assertEquals(memory.translate(START - 1, 2), -1);
  assertEquals(memory.translate(START, TIB + 1), -1);
  assertEquals(memory.contiguous(END - 5), 5);
  assertEquals(memory.translateUser(0x7f00_0000_0000 + END - 8, 8), first + TIB - 8);
  memory.view.setUint32(first + TIB - 4, 0xfeed_f00d);
  const last = Math.floor((first + TIB - 4) / WINDOW);
  const at = first + TIB - 4 - last * WINDOW;
  assertEquals(memory.windows[last].getUint32(at), 0xfeed_f00d);
  ram.close();
});

Deno.test("a table of 1 TiB can be set again, as frontends do", () => {
  const whole = new GuestMemory();
  const ram = new GuestRam(whole, REGIONS);
  const again = new GuestRam(whole, REGIONS);
  assertEquals(whole.regions.length, 2);
  again.close();
  ram.close();
});
