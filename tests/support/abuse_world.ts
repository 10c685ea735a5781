/**
 * A vuelo process whose guest, or whose peers, do what no good guest or peer does, beside
 * a well-behaved flow; and what must hold during and after it.
 */
import { assert } from "@std/assert";
import { Process, until } from "./lab_process.ts";
import { inFolder, vuelo } from "./cli.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { ask, askArp, Dispatcher, GoodFlow, NETWORK } from "./good_flow.ts";
import { GUEST_MAC, udpPacket } from "./guest_packets.ts";
import { RawGuest } from "./raw_guest.ts";
import { synOptions, tcpFrame } from "./tcp_segment.ts";
import { sample } from "../soak/sample.ts";

/** Memory of its own that a process may have gained after an abuse, in KiB. */
const MEMORY_SLACK = 32 << 10;
/**
 * What vuelo may say: of a frontend that comes and goes, and of a host that allows no ping
 * (and what was on its way here before); once a minute of each bound that is met, and of
 * descriptors that TCP, UDP and ping lack (docs/security/bounds.md); once a second of bad
 * chains, and of rings that stand still (docs/security/frontend.md).
 */
const LINES = { once: 6, aMinute: 8 + 2, aSecond: 2 };
/** Abusive packets for each round trip of the good flow. */
const PACKETS_A_TRIP = 256;

/** The long form has all variants and larger numbers: `deno task abuse`. */
export const LONG = Deno.env.get("VUELO_ABUSE") === "long";

export class AbuseWorld {
  readonly to: Dispatcher;
  readonly good: GoodFlow;

  constructor(readonly process: Process, readonly guest: RawGuest, port: number) {
    this.to = new Dispatcher(guest);
    this.good = new GoodFlow(this.to, port, 0xffff_f000);
  }

  /**
   * Transmits `count` packets, in turns with round trips of the good flow, all of which
   * must come to their end.
   */
  async beside(
    count: number,
    packet: (i: number) => Uint8Array,
    each: number = PACKETS_A_TRIP,
  ): Promise<void> {
    for (let i = 0; i < count;) {
      const end = Math.min(count, i + each);
      for (; i < end; i++) {
        if (!this.guest.offer(packet(i))) await this.guest.send(packet(i));
      }
      this.guest.kick();
      await this.good.roundTrip(100);
    }
  }

  /** The good flow's questions that are no connections. */
  async questions(): Promise<void> {
    await askArp(this.to);
    await askDhcp(this.to);
  }
}

const GUEST6 = parseAddress("2001:db8::5") as Uint8Array;
const GATEWAY6 = parseAddress("fe80::1") as Uint8Array;
/** To a port of the host that nobody listens at. */
const SYN6 = tcpFrame({ from: GUEST6, to: GATEWAY6 }, 4000, 9, {
  flags: "S",
  seq: 1,
  ack: 0,
  window: 65535,
  data: new Uint8Array(0),
  options: synOptions(1440, 7),
});
/** The network of IPv6 as vuelo is told of it. */
const NETWORK6 = ["-a", "2001:db8::5/64", "-g", "fe80::1"];

let transaction = 0x1000;

/** Asks for an address by DHCP (RFC 2131), and waits for the offer. */
async function askDhcp(to: Dispatcher): Promise<void> {
  const message = new Uint8Array(300);
  const view = new DataView(message.buffer);
  message.set([1, 1, 6, 0]);
  view.setUint32(4, ++transaction);
  message.set(GUEST_MAC, 28);
  message.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
  const ends = {
    from: parseAddress("0.0.0.0") as Uint8Array,
    to: parseAddress("255.255.255.255") as Uint8Array,
  };
  const wanted = transaction;
  await ask(to, "DHCP", udpPacket(ends, 68, 67, message), (frame) => {
    const view = new DataView(frame.buffer, frame.byteOffset);
    return frame.length > 300 && view.getUint16(36) === 68 &&
      view.getUint32(46) === wanted;
  });
}

/** An abuse, tried on a vuelo that many have been tried on. */
export interface Abuse {
  readonly name: string;
  readonly run: (world: AbuseWorld) => Promise<void>;
}

/** How vuelo is started for abuses. */
export interface AbuseOptions {
  /** More options of vuelo. */
  readonly args?: readonly string[];
  /** RLIMIT_NOFILE. */
  readonly descriptors?: number;
}

/**
 * Descriptors that a process has open, by kind. The rehearsal of a move has an epoll
 * instance while it is not over, which depends on when there was time for it.
 */
export function descriptorsOf(pid: number): { count: number; kinds: string } {
  const kinds = new Map<string, number>();
  let count = 0;
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    let kind: string;
    try {
      kind = Deno.readLinkSync(`/proc/${pid}/fd/${name}`).replace(/\d+/g, "");
    } catch {
      continue; // closed meanwhile
    }
    if (kind.includes("eventpoll")) continue;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    count++;
  }
  const list = [...kinds].map(([kind, count]) => `${count} ${kind}`).sort();
  return { count, kinds: list.join(", ") };
}

/** Lines that there may be in the log of `ms` milliseconds, however many packets came. */
function mostLines(ms: number): number {
  const begun = (each: number) => Math.floor(ms / each) + 1;
  return LINES.once + LINES.aMinute * begun(60_000) + LINES.aSecond * begun(1000);
}

/** What is the same again after each abuse. */
class Rest {
  #held = "";
  descriptors = 0;
  own = 0;
  /** Lines of the log that were looked at, and when. */
  lines = 0;
  lookedAt = 0;

  constructor(readonly process: Process, readonly path: string) {}

  get #lines(): readonly string[] {
    return this.process.output.split("\n").slice(0, -1);
  }

  /** Notes how things are once a good guest has been there. */
  async begin(): Promise<void> {
    await this.serve(4000, async ({ guest }) => {
      await guest.send(SYN6); // spare sockets of this family, too
      await guest.drained();
    });
    await until("descriptors that stay the same", async () => {
      const before = this.descriptors;
      await new Promise((resolve) => setTimeout(resolve, 50));
      const { count, kinds } = descriptorsOf(this.process.pid);
      this.descriptors = count;
      this.#held = kinds;
      return this.descriptors === before;
    });
    this.own = sample(this.process.pid, 0).own;
    this.lines = this.#lines.length;
    this.lookedAt = performance.now();
  }

  /** A guest comes, has a good flow beside what `body` does, and goes. */
  async serve(port: number, body: (world: AbuseWorld) => Promise<void>): Promise<void> {
    const guest = new RawGuest(this.path);
    try {
      await guest.start();
      const world = new AbuseWorld(this.process, guest, port);
      await askArp(world.to);
      await world.good.open();
      await world.good.roundTrip();
      await body(world);
      await world.questions();
      await world.good.roundTrip();
      await world.good.close();
    } finally {
      guest.close();
    }
  }

  /** Waits until all that a guest had is gone. */
  async check(): Promise<void> {
    const { pid } = this.process;
    let count = 0;
    // Fewer are spares that could not be made for want of descriptors.
    await until("descriptors are as before", () => {
      if (this.process.ended) throw new Error("vuelo has ended");
      count = descriptorsOf(pid).count;
      return count <= this.descriptors;
    }).catch((error) => {
      const now = this.process.ended ? "" : descriptorsOf(pid).kinds;
      throw new Error(`${count} descriptors: ${now}; before: ${this.#held}: ${error}`);
    });
    const { own } = sample(pid, 0);
    assert(own < this.own + MEMORY_SLACK, `${own} KiB, ${this.own} before`);
    const said = this.#lines.slice(this.lines);
    const most = mostLines(performance.now() - this.lookedAt);
    const text = said.join("\n");
    assert(said.length <= most, `${said.length} lines in the log, not ${most}: ${text}`);
    this.lines += said.length;
    this.lookedAt = performance.now();
  }
}

/** Starts vuelo, and runs `body` once it listens. */
export async function withVuelo(
  { args = [], descriptors }: AbuseOptions,
  body: (process: Process, path: string) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const [program, words] = vuelo([
      "-f",
      "-s",
      path,
      ...NETWORK,
      ...NETWORK6,
      ...args,
    ]);
    const limit = descriptors === undefined
      ? []
      : ["prlimit", `--nofile=${descriptors}:${descriptors}`, "--"];
    const process = new Process([...limit, program, ...words]);
    try {
      await process.says(/Listening at/);
      await body(process, path);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${process.output.slice(-4000)}`, {
        cause: error,
      });
    } finally {
      await process.stop();
    }
  });
}

/**
 * A test of abuses, one after the other on the same vuelo. After each the good flow ends
 * well, the frontend goes, descriptors, memory and log are as they were, and the next
 * frontend is served.
 */
export function abuses(
  name: string,
  options: AbuseOptions,
  all: readonly Abuse[],
): void {
  Deno.test({
    name,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: (test) =>
      withVuelo(options, async (process, path) => {
        const rest = new Rest(process, path);
        await rest.begin();
        for (const [i, { name, run }] of all.entries()) {
          await test.step({
            name,
            sanitizeOps: false,
            sanitizeResources: false,
            fn: async () => {
              await rest.serve(4001 + i, run);
              await rest.check();
            },
          });
        }
        await rest.serve(4000, async () => {});
      }),
  });
}

/** A vuelo for measurements: `body` has a guest and a good flow served as often as it asks. */
export async function abusedVuelo(
  options: AbuseOptions,
  body: (
    serve: (run: (world: AbuseWorld) => Promise<void>) => Promise<void>,
  ) => Promise<void>,
): Promise<void> {
  await withVuelo(options, async (process, path) => {
    const rest = new Rest(process, path);
    await body((run) => rest.serve(4000, run));
  });
}

/** Reproducible noise: a generator of 32-bit numbers (xorshift, Marsaglia 2003). */
export function noise(seed: number): () => number {
  let x = seed | 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

/** `length` bytes of noise. */
export function noiseBytes(next: () => number, length: number): Uint8Array {
  const words = Uint32Array.from({ length: Math.ceil(length / 4) }, () => next());
  return new Uint8Array(words.buffer, 0, length);
}
