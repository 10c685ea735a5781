/** A guest with two queue pairs at a process of vuelo's, whose flows change their threads. */
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { Frontend } from "../support/frontend.ts";
import { type Addresses, udpPacket } from "../support/guest_packets.ts";
import { HostListener, type HostTcp, LOOPBACK4 } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { QueueDriver } from "../support/queue_driver.ts";
import { GuestTcp, pattern, segmentOf, transportOf } from "./guest_tcp.ts";

/** As `starts.ts` has vuelo started. */
const ENDS: Addresses = {
  from: parseAddress("192.0.2.5") as Uint8Array,
  to: parseAddress("192.0.2.1") as Uint8Array,
};
/** Packets on another ring, after which a flow has followed them for sure. */
const MANY = 12;
const TRIES = 4;
const LIMIT_MS = 5000;
const AGAIN_MS = 100;
const LOOK_MS = 2;
const PORT = 4000;

/** Memory of those that are at work at the same time; its addresses are never given back. */
const memories: GuestMemory[] = [];

class Guest {
  /** What the guest sends goes out on this pair. */
  pair = 1;
  #echoes = 0;
  #flow: GuestTcp | undefined;
  #host: HostTcp | undefined;
  readonly #udp = new HostUdp(LOOPBACK4);
  readonly #listener = new HostListener();

  constructor(readonly driver: QueueDriver) {}

  /** Waits, and has what got no answer sent again. @throws {Error} if it is in vain */
  async #until(what: string, done: () => boolean, again: () => void): Promise<void> {
    const end = performance.now() + LIMIT_MS;
    let next = 0;
    while (!done()) {
      const now = performance.now();
      if (now > end) throw new Error(`hang: ${what} does not come`);
      if (this.driver.frontend.ended) throw new Error("the connection is closed");
      if (now > next) {
        again();
        next = now + AGAIN_MS;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      this.#take();
    }
  }

  #take(): void {
    for (const { driver } of this.driver.pairs) {
      driver.sent();
      for (const { frame } of driver.receive()) {
        driver.post(1, 2048);
        const segment = segmentOf(frame);
        if (segment !== undefined) this.#flow?.take(segment);
        else if (transportOf(frame).protocol === 17) this.#echoes++;
      }
    }
    for (let got = this.#udp.receive(); got !== undefined; got = this.#udp.receive()) {
      this.#udp.send(got.bytes, got.from, got.port);
    }
  }

  async udp(pair: number): Promise<void> {
    for (let i = 0; i < MANY; i++) {
      this.#echoes = 0;
      await this.#until("an echo", () => this.#echoes > 0, () => {
        const datagram = udpPacket(ENDS, PORT, this.#udp.port, pattern(10));
        this.driver.send(pair, datagram);
      });
    }
  }

  /** A connection; it may be reset. */
  async tcp(): Promise<void> {
    const emit = (frame: Uint8Array) => this.driver.send(this.pair, frame);
    const flow = this.#flow = new GuestTcp(emit, ENDS, PORT, this.#listener.port);
    const echo = () => {
      this.#host ??= this.#listener.accept();
      const got = this.#host?.receive();
      if (got instanceof Uint8Array && got.length > 0) this.#host!.send(got);
    };
    for (let i = 1; i <= 3 * MANY && !flow.reset; i++) {
      this.pair = Math.floor(i / MANY) % 2;
      if (flow.established) flow.send(pattern(10));
      const before = flow.back.length;
      await this.#until("bytes of a connection", () => {
        echo();
        return flow.reset || (flow.back.length > before || i === 1) && flow.established;
      }, () => flow.again());
    }
  }

  close(): void {
    this.#host?.close();
    this.#udp.close();
    this.#listener.close();
  }
}

async function live(
  path: string,
  { pid, status }: Deno.ChildProcess,
  memory: GuestMemory,
): Promise<void> {
  const driver = new QueueDriver(
    { output: "", pid, status },
    Frontend.connect(path),
    memory,
  );
  const guest = new Guest(driver);
  try {
    await driver.setUp(2);
    await guest.udp(1);
    await guest.udp(0);
    await guest.tcp();
    await driver.enable(1, false);
    await guest.udp(0);
    await driver.enable(1, true);
    await guest.udp(1);
  } finally {
    guest.close();
    driver.close();
  }
}

/** Lives until all is well, and again if it is not: @throws {Error} if it never is */
export async function liveWithTwoPairs(
  path: string,
  process: Deno.ChildProcess,
): Promise<void> {
  const memory = memories.pop() ?? new GuestMemory(2 ** 30);
  try {
    for (let tries = 1;; tries++) {
      try {
        return await live(path, process, memory);
      } catch (error) {
        if (tries === TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  } finally {
    memories.push(memory);
  }
}
