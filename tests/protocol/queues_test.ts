/** Two queue pairs as a driver sees them: which thread has a flow, and what moves it. */
import { assert, assertEquals } from "@std/assert";
import { parseAddress } from "../../src/wire/address.ts";
import { Ask, GuestRam as LogFile, payload } from "../support/frontend.ts";
import { GUEST_MAC, readPacket, udpPacket } from "../support/guest_packets.ts";
import { HostListener, LOOPBACK4 } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { until } from "../support/lab_process.ts";
import { QueueDriver } from "../support/queue_driver.ts";
import {
  readSegment,
  type Segment,
  synOptions,
  tcpFrame,
} from "../support/tcp_segment.ts";

const GUEST = parseAddress("192.0.2.5") as Uint8Array;
/** Leads to the host's loopback. */
const GATEWAY = parseAddress("192.0.2.1") as Uint8Array;
const ENDS = { from: GUEST, to: GATEWAY };
const ARGS = ["-4", "-a", "192.0.2.5/24", "-g", "192.0.2.1", "--queues", "2"];
/** Packets on another ring, after which a flow has followed them for sure. */
const MANY = 12;

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytesOf = (words: string) => new TextEncoder().encode(words);

function isUdp(frame: Uint8Array, port: number): boolean {
  return frame[12] === 8 && frame[13] === 0 && frame[23] === 17 &&
    readPacket(frame).transport.getUint16(2) === port;
}

/** A UDP flow of the guest's port 4000 with a socket of the host. */
class UdpFlow {
  readonly host = new HostUdp(LOOPBACK4);
  #port = 0;
  #count = 0;

  constructor(readonly driver: QueueDriver) {}

  /** The guest sends on a pair; it must come from the same port as before. */
  async up(pair: number): Promise<void> {
    const words = `datagram ${++this.#count}`;
    this.driver.send(pair, udpPacket(ENDS, 4000, this.host.port, bytesOf(words)));
    let port = 0;
    await until(words, () => {
      const got = this.host.receive();
      if (got === undefined) return false;
      assertEquals(text(got.bytes), words);
      port = got.port;
      return true;
    });
    if (this.#port !== 0) assertEquals(port, this.#port);
    this.#port = port;
  }

  /** The host answers; the pair on which the guest gets it. */
  async down(): Promise<number> {
    this.host.send(bytesOf("answer"), LOOPBACK4, this.#port);
    const [pair, frame] = await this.driver.receive((frame) => isUdp(frame, 4000));
    assertEquals(text(readPacket(frame).payload), "answer");
    return pair;
  }
}

/** A connection that the guest opens on a pair, with the host's end accepted. */
class Connection {
  readonly listener = new HostListener();
  seq = 1000;
  ack = 0;

  constructor(readonly driver: QueueDriver, readonly port = 5000) {}

  send(
    pair: number,
    flags: string,
    data = new Uint8Array(0),
    more: Partial<Segment> = {},
  ) {
    const segment = { flags, seq: this.seq, ack: this.ack, window: 65535, data };
    const whole = { options: new Uint8Array(0), ...segment, ...more };
    this.driver.send(pair, tcpFrame(ENDS, this.port, this.listener.port, whole));
    this.seq += data.length;
  }

  /** Waits for a segment, and acknowledges what it holds on the pair. */
  async receive(wanted: (segment: Segment) => boolean) {
    let segment: Segment | undefined;
    const [pair] = await this.driver.receive((frame) => {
      if (frame[12] !== 8 || frame[13] !== 0 || frame[23] !== 6) return false;
      const read = readSegment(frame);
      if (read.toPort !== this.port || !wanted(read)) return false;
      segment = read;
      return true;
    });
    return { pair, segment: segment! };
  }

  async open(pair: number) {
    this.send(pair, "S", undefined, { options: synOptions(1460, 7) });
    this.seq++;
    const { pair: from, segment } = await this.receive((s) => s.flags === "SA");
    this.ack = segment.seq + 1 >>> 0;
    this.send(pair, "A");
    let host = this.listener.accept();
    await until("a connection", () => (host ??= this.listener.accept()) !== undefined);
    return { pair: from, host: host! };
  }
}

function queues(
  name: string,
  body: Parameters<typeof QueueDriver.run>[1],
  args: readonly string[] = ARGS,
): void {
  Deno.test({
    name,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => QueueDriver.run(args, body),
  });
}

const twoPairs = (name: string, body: (driver: QueueDriver) => Promise<void>) =>
  queues(name, async (driver) => {
    await driver.setUp(2);
    await body(driver);
  });

for (const pairs of [1, 2, 8]) {
  Deno.test(`--queues ${pairs}: features, number of pairs and configuration space`, async () => {
    await QueueDriver.run([...ARGS.slice(0, -1), `${pairs}`], async (driver) => {
      const [low] = new Uint32Array((await driver.ask(Ask.GET_FEATURES)).slice().buffer);
      assertEquals((low >>> 22) & 1, pairs > 1 ? 1 : 0);
      assertEquals((await driver.ask(Ask.GET_QUEUE_NUM))[0], pairs);
      driver.frontend.send(Ask.SET_PROTOCOL_FEATURES, payload(["u64", 2 ** 9]));
      const space = payload(["u32", 0], ["u32", 12], ["u32", 0], new Uint8Array(12));
      const config = await driver.ask(Ask.GET_CONFIG, space);
      assertEquals(config[12 + 8], pairs);
    });
  });
}

const ARP = new Uint8Array(60);
ARP.set([255, 255, 255, 255, 255, 255, ...GUEST_MAC, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
ARP.set([...GUEST_MAC, 192, 0, 2, 5, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1], 22);

/** Asks for the gateway's address on a pair, and gets the answer there. */
async function askOn(driver: QueueDriver, pair: number): Promise<void> {
  driver.send(pair, ARP);
  const [from] = await driver.receive((frame) => frame[13] === 6 && frame[21] === 2);
  assertEquals(from, pair);
}

twoPairs("what the guest asks on a pair is answered on it", async (driver) => {
  for (const pair of [1, 0, 1]) await askOn(driver, pair);
});

const PAGE = 4096;

twoPairs("what each thread writes is marked in the dirty log", async (driver) => {
  const { memory, regions: [{ address, size }] } = driver.ram;
  const log = new LogFile(PAGE);
  await driver.logTo(log.fd, PAGE);
  const now = () => new Uint8Array(memory.buffer, memory.translate(address, size), size);
  for (const pair of [1, 0, 1]) {
    const { rx, tx } = driver.pairs[pair].driver;
    driver.pairs[pair].driver.send(ARP);
    const used = () => [rx, tx].map((ring) => ring.used.getUint16(2, true)).join();
    const [usedBefore, before] = [used(), now().slice()];
    driver.kick(pair);
    await until("the answer", () => {
      return used().split(",").every((index, i) => index !== usedBefore.split(",")[i]);
    });
    // Bytes are marked once they have been written.
    await until("marks of all that was written", () => {
      const after = now();
      for (let at = 0; at < size; at++) {
        if (before[at] === after[at]) continue;
        const page = Math.floor((address + at) / PAGE);
        if ((log.view.getUint8(page >> 3) & 1 << (page & 7)) === 0) return false;
      }
      return true;
    });
    driver.pairs[pair].driver.receive();
    new Uint8Array(log.view.buffer).fill(0);
  }
  log.close();
});

Deno.test("frames of both pairs are captured", async () => {
  const folder = await Deno.makeTempDir();
  const file = `${folder}/pcap`;
  await QueueDriver.run([...ARGS, "--pcap", file], async (driver) => {
    await driver.setUp(2);
    for (const pair of [1, 0, 1]) await askOn(driver, pair);
    // Questions of 60 bytes and answers of 42, each after 16 bytes of its own.
    const size = 24 + 3 * (16 + 60) + 3 * (16 + 42);
    await until("six frames", () => Deno.statSync(file).size >= size);
    const bytes = await Deno.readFile(file);
    const view = new DataView(bytes.buffer);
    const lengths = [];
    for (let at = 24; at < bytes.length; at += 16 + lengths.at(-1)!) {
      lengths.push(view.getUint32(at + 8, true));
    }
    assertEquals(lengths.sort((a, b) => a - b), [42, 42, 42, 60, 60, 60]);
  });
  await Deno.remove(folder, { recursive: true });
});

twoPairs(
  "a UDP flow is on the pair that the guest sends it on, and follows it",
  async (driver) => {
    const flow = new UdpFlow(driver);
    await flow.up(1);
    assertEquals(await flow.down(), 1);
    await flow.up(0); // passed to the other thread, which has the flow
    assertEquals(await flow.down(), 1);
    for (const pair of [0, 1, 0]) {
      for (let i = 0; i < MANY; i++) await flow.up(pair);
      assertEquals(await flow.down(), pair);
    }
    await flow.host.close();
  },
);

twoPairs("a connection is on its pair, and follows its segments", async (driver) => {
  const connection = new Connection(driver);
  const { pair, host } = await connection.open(1);
  assertEquals(pair, 1);
  let all = "";
  for (const on of [0, 1, 0]) {
    for (let i = 0; i < MANY; i++) {
      connection.send(on, "PA", bytesOf(`${i},`));
      let got = "";
      await until("data at the host", () => {
        const part = host.receive();
        if (part instanceof Uint8Array) got += text(part);
        return got === `${i},`;
      });
      all += got;
    }
    host.send(bytesOf("answer"));
    const { pair, segment } = await connection.receive((s) => text(s.data) === "answer");
    assertEquals(pair, on);
    connection.ack = segment.seq + 6 >>> 0;
    connection.send(on, "A");
  }
  assert(all.length > 3 * MANY);
  host.close();
  connection.listener.close();
});

twoPairs("a pair that is switched off leaves its flows to the first", async (driver) => {
  const flow = new UdpFlow(driver);
  const connection = new Connection(driver);
  await flow.up(1);
  const { host } = await connection.open(1);
  await driver.enable(1, false);
  assertEquals(await flow.down(), 0); // though the guest sent nothing
  host.send(bytesOf("answer"));
  const { pair } = await connection.receive((s) => text(s.data) === "answer");
  assertEquals(pair, 0);
  await driver.enable(1, true);
  for (let i = 0; i < MANY; i++) await flow.up(1);
  assertEquals(await flow.down(), 1);
  host.close();
  connection.listener.close();
});

twoPairs("a stopped pair goes on where it was", async (driver) => {
  const flow = new UdpFlow(driver);
  for (let i = 0; i < 3; i++) await flow.up(1);
  await flow.down();
  const [, next] = await driver.stop(1);
  assertEquals(next, 3);
});

twoPairs("memory that is mapped anew is seen by both threads", async (driver) => {
  const flow = new UdpFlow(driver);
  for (let i = 0; i < 3; i++) {
    await driver.share();
    await flow.up(1);
    assertEquals(await flow.down(), 1);
    await flow.up(0);
  }
});

twoPairs(
  "a broken ring of the second pair is reported, and the first goes on",
  async (driver) => {
    const { driver: second, errors } = driver.pairs[1];
    second.tx.available.setUint16(2, 9999, true);
    driver.kick(1);
    await driver.signalled(errors[1]);
    await until("a warning", () => driver.process.output.includes("queue 3"));
    const flow = new UdpFlow(driver);
    await flow.up(0);
    assertEquals(await flow.down(), 0);
  },
);

twoPairs(
  "bad chains of the second pair go back and are reported, and it goes on",
  async (driver) => {
    const { driver: second, errors } = driver.pairs[1];
    for (const [ring, writable] of [[second.tx, false], [second.rx, true]] as const) {
      ring.offer([{ address: driver.ram.take(64), length: 64 }], !writable);
    }
    driver.kick(1);
    await driver.signalled(errors[1]);
    await until("a warning", () => /queue 3: .* chains/.test(driver.process.output));
    const flow = new UdpFlow(driver);
    await flow.up(1);
    assertEquals(await flow.down(), 1);
  },
);

queues(
  "frontends come and go; each finds both pairs, and no flow of the last",
  async (first, connect) => {
    await first.setUp(2);
    const old = new UdpFlow(first);
    await old.up(1);
    await old.up(0);
    const count = () => [...Deno.readDirSync(`/proc/${first.process.pid}/fd`)].length;
    const before = count();
    first.frontend.close();
    await until("its sockets are closed", () => count() < before - 8);
    for (let i = 0; i < 3; i++) {
      const driver = connect();
      await driver.setUp(2);
      const flow = new UdpFlow(driver);
      await flow.up(1);
      assertEquals(await flow.down(), 1);
      driver.frontend.close();
      await until("vuelo notices", () => count() < before - 8);
    }
  },
  // Its descriptors could else be counted by root alone.
  [...ARGS, "--sandbox", "none"],
);

Deno.test("--one-off: all threads end with the frontend", async () => {
  await QueueDriver.run([...ARGS, "--one-off"], async (driver) => {
    await driver.setUp(2);
    const flow = new UdpFlow(driver);
    await flow.up(1);
    driver.frontend.close();
    assertEquals((await driver.process.status).code, 0);
    assert(driver.process.output.includes("1 frames from the guest"));
  });
});
