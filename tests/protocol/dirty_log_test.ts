/**
 * Every page of guest memory that the device writes to is marked in the dirty log: traffic
 * of all kinds, seeded, with logging off, switched on, off, and on again with a new log.
 */
import { assert, assertEquals } from "@std/assert";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { CAPTURED_DHCP } from "../support/dhcp.ts";
import { DirtyWorld, Random, REGIONS, type Shape } from "../support/dirty_world.ts";
import { ip } from "../support/flow_config.ts";
import { GuestRam as LogFile } from "../support/frontend.ts";
import {
  type Addresses,
  echoPacket,
  GUEST_MAC,
  packet,
  udpPacket,
} from "../support/guest_packets.ts";
import { HostListener, type HostTcp } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { WRITER_BIT } from "../support/log_writer.ts";
import { sendDamaged } from "../support/raw_udp.ts";
import { synOptions, tcpFrame } from "../support/tcp_segment.ts";

const LOOPBACK = { 4: ip("127.0.0.1"), 6: ip("::1") };
const OUT: Record<4 | 6, Addresses> = {
  4: { from: ip("192.0.2.10"), to: ip("192.0.2.1") },
  6: { from: ip("2001:db8::10"), to: ip("fe80::1") },
};
const NOTHING = new Uint8Array(0);
const FORWARD_PORT = 20_000 + Deno.pid % 10_000;

const GUEST_CSUM = 1 << 1;
const GUEST_TSO = (1 << 7) + (1 << 8);
const HOST_TSO = 1 + (1 << 11) + (1 << 12);
const MERGEABLE = 1 << 15;
const INDIRECT = 2 ** 28;
const EVENT_IDX = 2 ** 29;
const PROTOCOL_FEATURES = 2 ** 30;
const VERSION_1 = 2 ** 32;
const RING_PACKED = 2 ** 34;

function shapeOf(random: Random, packed: boolean): Shape {
  const mergeable = random.chance(60);
  const eventIdx = random.chance(50);
  const large = random.chance(50) ? GUEST_CSUM + GUEST_TSO : 0;
  return {
    features: VERSION_1 + PROTOCOL_FEATURES + INDIRECT + HOST_TSO + large +
      (mergeable ? MERGEABLE : 0) + (eventIdx ? EVENT_IDX : 0) +
      (packed ? RING_PACKED : 0),
    mergeable,
    eventIdx,
    // A packed ring has any size.
    ringSize: (64 << random.below(3)) - (packed ? 5 : 0),
    packed,
  };
}

/** Posts buffers as drivers have them: small, large, in pieces; some cut anywhere. */
function refill(world: DirtyWorld): void {
  const { random, shape } = world;
  const large = (shape.features & GUEST_TSO) !== 0;
  if (shape.mergeable) {
    const length = [1536, 4096, 200 + random.below(3000)][random.below(3)];
    if (random.chance(30)) {
      world.post(8, 1 + random.below(100), 1 + random.below(90), 600);
    } else world.post(20, length);
    return;
  }
  const first = 1 + random.below(60);
  const rest = large && random.chance(40) ? 65_562 : 1526;
  world.post(rest > 9000 ? 2 : 12, 12, first, rest - 12 - first);
}

function sendFrame(world: DirtyWorld, frame: Uint8Array): void {
  const { random, driver } = world;
  const cuts = [12, ...Array.from({ length: random.below(4) }, () => random.below(90))];
  driver.send(frame, cuts, undefined, random.chance(30));
}

function arp(world: DirtyWorld): void {
  const request = "ffffffffffff" + GUEST_MAC.toHex() + "08060001080006040001" +
    GUEST_MAC.toHex() + "c000020a" + "000000000000" + "c0000201";
  sendFrame(world, Uint8Array.fromHex(request));
  world.run("ARP");
}

function dhcp(world: DirtyWorld): void {
  for (const frame of CAPTURED_DHCP) sendFrame(world, frame);
  world.run("DHCP");
}

/** A router solicitation (RFC 4861, 4.1); its checksum is left to the device. */
function neighbours(world: DirtyWorld): void {
  const ends = { from: ip("fe80::5054:ff:fe12:3456"), to: ip("ff02::2") };
  const message = Uint8Array.of(133, 0, 0, 0, 0, 0, 0, 0);
  const frame = packet(ends, 58, message, 255);
  frame.set(Uint8Array.fromHex("333300000002"));
  const checksum = 0xffff - pseudoSum(ends, 58, message);
  frame[56] = checksum >> 8;
  frame[57] = checksum & 255;
  sendFrame(world, frame);
  world.run("NDP");
}

function pseudoSum({ from, to }: Addresses, protocol: number, bytes: Uint8Array): number {
  let sum = protocol + bytes.length;
  const all = [...from, ...to, ...bytes];
  for (let i = 0; i < all.length; i += 2) sum += all[i] << 8 | all[i + 1];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

function ping(world: DirtyWorld, family: 4 | 6): void {
  const { random } = world;
  for (let i = 0; i < 3; i++) {
    const data = random.bytes(random.below(1400));
    sendFrame(world, echoPacket(OUT[family], 7, i, data));
  }
  world.run("ping");
}

/** Sizes of datagrams; some do not fit, which are received and not handed on. */
function size(random: Random): number {
  if (random.chance(15)) return 1400 + random.below(2000);
  return random.chance(50) ? random.below(100) : random.below(1450);
}

function udp(world: DirtyWorld, family: 4 | 6): void {
  const { random } = world;
  const server = new HostUdp(LOOPBACK[family]);
  const port = 30_000 + random.below(30_000);
  for (let i = 0; i < 4; i++) {
    const data = random.bytes(random.below(1400));
    sendFrame(world, udpPacket(OUT[family], port, server.port, data));
  }
  world.run("UDP from the guest");
  for (let got = server.receive(); got !== undefined; got = server.receive()) {
    for (let i = random.below(12); i >= 0; i--) {
      server.send(random.bytes(size(random)), got.from, got.port);
    }
  }
  world.run("UDP to the guest");
  server.close();
  sendFrame(world, udpPacket(OUT[family], port, server.port, random.bytes(20)));
  world.run("UDP to a closed port");
}

/** Both families come through one socket, whose headers differ in length. */
function forwarded(world: DirtyWorld): void {
  const { random } = world;
  const clients = [new HostUdp(LOOPBACK[4]), new HostUdp(LOOPBACK[6])];
  for (let i = 0; i < 30; i++) {
    const six = random.below(2);
    const to = LOOPBACK[six === 1 ? 6 : 4];
    clients[six].send(random.bytes(size(random)), to, FORWARD_PORT);
  }
  world.run("UDP to a forwarded port");
  for (const client of clients) client.close();
  // The kernel copies them into the guest's buffers before it sees that they are wrong.
  sendDamaged(LOOPBACK[4], FORWARD_PORT, random.below(1400));
  world.run("damaged UDP");
}

const view = (bytes: Uint8Array) =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** One connection of the guest's, which takes what comes in order. */
class GuestTcp {
  readonly port: number;
  readonly host: HostTcp;
  seq = 1000;
  ack = 0;
  received = 0;

  constructor(
    readonly world: DirtyWorld,
    readonly family: 4 | 6,
    readonly listener: HostListener,
  ) {
    this.port = 30_000 + world.random.below(30_000);
    this.send("S", NOTHING, synOptions(1400, 4));
    for (let i = 0; this.ack === 0; i++) {
      assert(i < 100, "no connection");
      world.run("SYN");
      this.take();
      refill(world);
    }
    this.seq++;
    this.send("A");
    world.run("ACK of SYN");
    const host = listener.accept();
    assert(host !== undefined);
    this.host = host;
  }

  send(flags: string, data: Uint8Array = NOTHING, options: Uint8Array = NOTHING): void {
    const segment = {
      flags,
      seq: this.seq,
      ack: this.ack,
      window: 0xffff,
      data,
      options,
    };
    const { driver, random } = this.world;
    const frame = tcpFrame(OUT[this.family], this.port, this.listener.port, segment);
    if (data.length <= 1400) return sendFrame(this.world, frame);
    const header = new Uint8Array(12);
    const ip = this.family === 4 ? 20 : 40;
    view(header).setUint16(4, 1400, true);
    view(header).setUint16(2, 14 + ip + 20, true);
    view(header).setUint16(6, 14 + ip, true);
    view(header).setUint16(8, 16, true);
    header[0] = 1;
    header[1] = this.family === 4 ? 1 : 4;
    driver.send(frame, [12, 66, 20_000 + random.below(9000)], header, random.chance(50));
  }

  /** Takes what came; true if any of it was of this connection. */
  take(): boolean {
    let any = false;
    for (const frame of this.world.frames) {
      const bytes = view(frame);
      const four = bytes.getUint16(12) === 0x0800;
      if (frame[four ? 23 : 20] !== 6) continue;
      const at = four ? 34 : 54;
      const end = four ? 14 + bytes.getUint16(16) : 54 + bytes.getUint16(18);
      if (bytes.getUint16(at + 2) !== this.port) continue;
      any = true;
      const seq = bytes.getUint32(at + 4);
      const flags = frame[at + 13];
      if ((flags & 2) !== 0) this.ack = (seq + 1) >>> 0;
      if (seq !== this.ack) continue;
      const length = end - at - (frame[at + 12] >> 4 << 2);
      this.received += length;
      this.ack = (seq + length) >>> 0;
    }
    return any;
  }
}

function tcp(world: DirtyWorld, family: 4 | 6): void {
  const { random } = world;
  const listener = new HostListener(LOOPBACK[family]);
  refill(world);
  const guest = new GuestTcp(world, family, listener);
  for (let round = 0; round < 2; round++) {
    const sent = guest.host.send(
      random.bytes(1 + random.below(round === 0 ? 500 : 90_000)),
    );
    assert(sent > 0);
    guest.received = 0;
    for (let i = 0; guest.received < sent; i++) {
      assert(i < 500, `${guest.received} of ${sent} bytes came`);
      world.run("TCP to the guest");
      if (guest.take()) guest.send("A");
      refill(world);
    }
  }
  const data = random.bytes(random.chance(50) ? 60_000 : 900);
  guest.send("PA", data);
  world.run("TCP from the guest");
  guest.take();
  assertEquals(guest.host.receive(), data);
  guest.seq += data.length;
  guest.send("RA");
  world.run("RST from the guest");
  guest.host.close();
  listener.close();
}

/** No buffer is left: what comes is received into nothing, or waits. */
function starved(world: DirtyWorld): void {
  for (let i = 0; i < 400 && world.driver.rx.free < world.driver.rx.size; i++) {
    const before = world.driver.rx.free;
    arp(world);
    if (world.driver.rx.free === before) break;
  }
  forwarded(world);
  refill(world);
  world.run("buffers again");
}

function traffic(world: DirtyWorld, rounds: number): void {
  const { random } = world;
  const family = () => random.chance(50) ? 4 : 6;
  const kinds = [
    () => arp(world),
    () => dhcp(world),
    () => neighbours(world),
    () => ping(world, family()),
    () => udp(world, family()),
    () => udp(world, family()),
    () => forwarded(world),
    () => forwarded(world),
    () => tcp(world, family()),
    () => starved(world),
  ];
  for (let i = 0; i < rounds; i++) {
    refill(world);
    kinds[random.below(kinds.length)]();
  }
}

/** A receive buffer across the seam of two regions that lie apart in this process. */
function acrossRegions(world: DirtyWorld): void {
  const [{ address, size }] = REGIONS;
  const pieces = [
    { address: address + size - 20, length: 15 },
    { address: address + size - 5, length: 3000 },
  ];
  for (const { address, length } of pieces) world.ram.allow(address, length);
  world.driver.rx.offer(pieces, true);
  world.unread = true;
  arp(world);
  world.unread = false;
  assertEquals(world.driver.rx.seen, world.driver.rx.next, "the buffer was used");
}

const FORWARDS = [{
  protocol: "udp",
  first: FORWARD_PORT,
  last: FORWARD_PORT,
  guestFirst: 5000,
  weak: false,
}] as const;

/** The last ones found a damaged datagram in a buffer before a shorter one that was good. */
const SEEDS = [1, 2, 3, 4, 5, 6, 7, 8, 122, 176, 212, 322];

const PACKED_SEEDS = [1, 2, 3, 4, 5, 6];
const RUNS = [
  ...SEEDS.map((seed) => ({ seed, packed: false })),
  ...PACKED_SEEDS.map((seed) => ({ seed, packed: true })),
];

for (const { seed, packed } of RUNS) {
  const form = packed ? "packed" : "split";
  Deno.test(`what the device writes is in the dirty log, ${form} rings, seed ${seed}`, () => {
    const random = new Random(seed);
    const world = new DirtyWorld(random, shapeOf(random, packed), { forwards: FORWARDS });
    try {
      world.setLogging(true);
      acrossRegions(world);
      world.setLogging(false);
      traffic(world, 3);
      world.setLogging(true);
      traffic(world, 12);
      world.setLogging(false);
      traffic(world, 3);
      world.setLogging(true);
      traffic(world, 6);
      world.stop();
      assert(world.totals.frames > 50 && world.totals.changed > 100);
    } finally {
      world.close();
    }
  });
}

Deno.test("marks are not lost where several devices share the log", async () => {
  const size = 1 << 20;
  const log = new LogFile(size + 4096);
  const memory = new GuestMemory(2 ** 30);
  memory.setLog(log.fd, size, 0);
  const script = new URL("../support/log_writer.ts", import.meta.url);
  const worker = new Worker(script, { type: "module" });
  const message = () =>
    new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
  const ready = message();
  worker.postMessage({ fd: log.fd, size });
  assertEquals(await ready, "ready");
  const done = message();
  const bytes = new Uint8Array(log.view.buffer);
  Atomics.store(bytes, size, 1);
  for (let i = 0; i < size; i++) memory.markDirty(i * 8 * 4096, 1);
  assertEquals(await done, "done");
  worker.terminate();
  const lost = bytes.subarray(0, size).findIndex((b) => b !== (1 | 1 << WRITER_BIT));
  assertEquals(lost, -1);
  memory.clearLog();
  log.close();
});
