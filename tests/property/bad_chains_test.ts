/**
 * Chains that the device gives back unused: no guest holds up the loop or a queue by them,
 * and both the operator and the frontend are told.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { close, eventfdCreate, eventfdRead } from "../../ffi/event.ts";
import { writeBytes } from "../../ffi/unix_socket.ts";
import { NetDevice } from "../../src/device.ts";
import { Epoll } from "../../ffi/event.ts";
import { RingReports } from "../../src/threads/broken.ts";
import type { Vring } from "../../src/vhost_user/backend.ts";
import { interrupt, signal } from "../../src/vhost_user/interrupt.ts";
import { FrameSink } from "../../src/virtio/frame_sink.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { makeQueue } from "../../src/virtio/make_queue.ts";
import { SplitQueue } from "../../src/virtio/split_queue.ts";
import { CHAIN_BAD, type Segments } from "../../src/virtio/virtqueue.ts";
import { flowConfig } from "../support/flow_config.ts";
import { FlowWorld } from "../support/flow_world.ts";
import { GuestRam, MockDriver } from "../support/mock_driver.ts";
import { LogLines } from "../support/vhost_session.ts";

const memory = new GuestMemory(2 ** 32);
const FRAME = new DataView(new ArrayBuffer(300));

/** A receive ring, and a sink of it. */
function withSink(
  packed: boolean,
  body: (sink: FrameSink, driver: MockDriver) => void,
): void {
  const ram = new GuestRam(memory);
  try {
    const driver = new MockDriver(ram, true, 16, { packed });
    const queue = makeQueue(memory, packed);
    queue.start(driver.rx.layout);
    const sink = new FrameSink(memory, queue);
    sink.mergeable = true;
    body(sink, driver);
  } finally {
    ram.close();
  }
}

for (const packed of [false, true]) {
  const form = packed ? "packed" : "split";

  Deno.test(`a bad chain amid a frame's goes back with what came before, ${form}`, () => {
    withSink(packed, (sink, driver) => {
      const { ram, rx } = driver;
      // Too short for the frame alone; the second must not be written to.
      driver.post(1, 100);
      rx.offer([{ address: ram.take(2048), length: 2048 }], false);
      driver.post(1, 2048);
      assert(sink.send(FRAME, 300), "the third one does");
      sink.flush();
      assertEquals(rx.reap().map(({ length }) => length), [0, 0, 312]);
      assertEquals(sink.badChains, 1);
    });
  });

  Deno.test(`a bad chain behind a frame's own waits for its turn, ${form}`, () => {
    withSink(packed, (sink, driver) => {
      const { ram, rx } = driver;
      driver.post(1, 2048);
      rx.offer([{ address: ram.take(2048), length: 0 }], true);
      driver.post(1, 2048);
      sink.begin();
      assertEquals(sink.reserve(300, 0, undefined), 0);
      assertEquals(sink.reserve(300, 0, undefined), -1);
      sink.commit(0, 300, 0, 0, 0, 0, 0);
      sink.end();
      sink.flush();
      assertEquals(rx.reap().map(({ length }) => length), [312]);
      assert(sink.send(FRAME, 300));
      sink.flush();
      assertEquals(rx.reap().map(({ length }) => length), [0, 312]);
    });
  });
}

Deno.test("a split ring that is broken stays so, whatever goes back to it", () => {
  withSink(false, (sink, driver) => {
    driver.post(2, 100);
    driver.rx.available.setUint16(6, 16, true); // the second one's head
    assertEquals(sink.send(FRAME, 300), false);
    assertEquals([sink.broken, sink.queue.running], [true, false]);
    sink.broken = false;
    assertEquals(sink.send(FRAME, 20), false, "nor the one that went back");
    assertEquals(sink.broken, false, "that is told once");
  });
});

/** A driver that makes a bad chain available whenever one was taken. */
class EndlessQueue extends SplitQueue {
  override take(_into: Segments, _writable: boolean): number {
    return CHAIN_BAD;
  }
}

Deno.test("a guest that makes bad chains available for ever does not hold up the loop", () => {
  const sink = new FrameSink(memory, new EndlessQueue(memory));
  assertEquals(sink.send(FRAME, 300), false);
  assert(sink.starved, "it goes on once it is kicked, or in another turn");
  assert(sink.badChains > 0 && sink.badChains < 1000, `${sink.badChains}`);
  for (let i = 0; i < 256; i++) sink.send(FRAME, 300); // what one turn may have to say
  assert(sink.badChains < 1000, `${sink.badChains}`);
  const before = sink.badChains;
  sink.flush();
  sink.send(FRAME, 300);
  assert(sink.badChains > before, "it goes on in another turn");
});

Deno.test("bad chains of a turn are told once, by queue", () => {
  const world = new FlowWorld();
  const told: number[][] = [];
  world.path.faults.onBadChains = (queue, count) => told.push([queue, count]);
  const { ram, tx } = world.driver;
  for (let i = 0; i < 3; i++) tx.offer([{ address: ram.take(16), length: 16 }], false);
  world.settle();
  assertEquals(told, [[1, 3]]);
  assertEquals(world.driver.sent(), 3);
  world.settle();
  assertEquals(told.length, 1);
  world.close();
});

/** A ring of which only the descriptors count. */
function ring(fds: Partial<Vring>): Vring {
  const nowhere = { descOffset: 0, availOffset: 0, usedOffset: 0, usedLogAddress: -1 };
  const fresh = { packed: false, index: 1, size: 64, baseIndex: 0, enabled: true };
  return { ...nowhere, ...fresh, kickFd: -1, callFd: -1, errFd: -1, ...fds };
}

Deno.test("what is wrong with rings is logged once a second, and told each time", () => {
  const log = new LogLines();
  let now = 5000;
  const reports = new RingReports(log, () => now);
  const errFd = eventfdCreate();
  for (let i = 0; i < 10; i++) reports.badChains(1, ring({ errFd }), 7);
  for (let i = 0; i < 10; i++) reports.broken(1, ring({ errFd }));
  assertEquals(eventfdRead(errFd), 20);
  assertEquals(log.lines.length, 2);
  assertStringIncludes(log.lines[0], "queue 1: the guest's driver made 7 chains");
  assertStringIncludes(log.lines[1], "beyond the ring's 64 entries");
  now += 1000;
  reports.badChains(1, undefined, 1);
  reports.broken(1, undefined);
  assertEquals(log.lines.length, 4);
  assertStringIncludes(log.lines[2], "made 64 chains");
  assertStringIncludes(log.lines[3], "(10 times)");
  close(errFd);
});

Deno.test("a counter that is full makes nobody wait", () => {
  const full = eventfdCreate(true);
  const most = Uint8Array.of(0xfe, 255, 255, 255, 255, 255, 255, 255);
  assertEquals(writeBytes(full, most), 8);
  signal(full);
  interrupt(ring({ callFd: full, callWaits: true }));
  assert(eventfdRead(full) > 2 ** 63);
  interrupt(ring({ callFd: full, callWaits: true }));
  assertEquals(eventfdRead(full), 1);
  close(full);
});

Deno.test("a legacy driver, whose header is shorter, is not served and the reason told", () => {
  const epoll = new Epoll();
  const device = new NetDevice(flowConfig(), epoll, { memory });
  const [mergeable, version1] = [1 << 15, 1];
  assertStringIncludes(device.setFeatures({ lo: 0, hi: 0 }) ?? "", "disable-legacy");
  assertEquals(device.setFeatures({ lo: mergeable, hi: 0 }), undefined);
  assertEquals(device.setFeatures({ lo: 0, hi: version1 }), undefined);
  epoll.close();
});
