/** How fast a well-behaved flow is alone, and beside an abuse. */
import { AbuseWorld, noise, noiseBytes } from "../support/abuse_world.ts";
import { ENDS } from "../support/good_flow.ts";
import { udpPacket } from "../support/guest_packets.ts";
import { HostListener, type HostTcp } from "../support/host_tcp.ts";
import { openProbes, Probe } from "../support/probe.ts";
import { Process } from "../support/lab_process.ts";

const FLOODER = new URL("flooder.ts", import.meta.url).pathname;
/** Milliseconds of each measurement, and how many there are of either kind, in turns. */
const WINDOW_MS = 500;
const TURNS = 6;
const CLOSED = 9;
const EMPTY = new Uint8Array(0);

/** Where a flood from outside leads. */
export interface Forwarded {
  readonly address: string;
  readonly port: number;
}

/** Round trips in a second alone, and beside the abuse: medians. */
export interface Rates {
  readonly alone: number;
  readonly beside: number;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/** Round trips a second, each after `abuse`. */
async function rate(world: AbuseWorld, abuse: () => void): Promise<number> {
  const end = performance.now() + WINDOW_MS;
  const start = performance.now();
  let trips = 0;
  for (; performance.now() < end; trips++) {
    abuse();
    world.good.spin(200, 5000);
    if (trips % 64 === 0) await Promise.resolve();
  }
  return trips * 1000 / (performance.now() - start);
}

/** An abusive guest, by the packets that it sends. */
export type Packets = (world: AbuseWorld) => (i: number) => Uint8Array;

function ported(frame: Uint8Array, ports: number): (i: number) => Uint8Array {
  const view = new DataView(frame.buffer);
  return (i) => {
    view.setUint16(34, 10_000 + i % ports);
    return frame;
  };
}

/** What a guest sends beside its good flow. */
export const GUESTS: Readonly<Record<string, Packets>> = {
  "noise of every length": () => {
    const next = noise(5);
    const bytes = noiseBytes(next, 200_000);
    return () => {
      const at = next() % 130_000;
      return bytes.subarray(at, at + next() % 2000);
    };
  },
  "segments of no connection": (world) =>
    ported(new Probe(world.to, 0, CLOSED, 1).frame(16), 50_000),
  "SYNs that are refused": (world) =>
    ported(new Probe(world.to, 0, CLOSED, 1).frame(2, { ack: 0 }), 50_000),
  "SYNs that are accepted": (world) => {
    const { port } = world.good.listener!;
    return ported(new Probe(world.to, 0, port, 1).frame(2, { ack: 0 }), 50_000);
  },
  "datagrams from one port": () => ported(udpPacket(ENDS, 1, CLOSED, EMPTY), 1),
  "datagrams from 50,000 ports": () => ported(udpPacket(ENDS, 1, CLOSED, EMPTY), 50_000),
};

/** Alone, and with `each` abusive packets before each round trip; in turns. */
export async function guestRates(
  world: AbuseWorld,
  packets: Packets,
  each: number,
): Promise<Rates> {
  const next = packets(world);
  const { guest } = world;
  let i = 0;
  const abuse = () => {
    for (let left = each; left > 0; left--) {
      while (!guest.offer(next(i))) {
        guest.kick();
        world.to.pump();
      }
      i++;
    }
    guest.kick();
  };
  const [alone, beside]: number[][] = [[], []];
  for (let turn = 0; turn < TURNS; turn++) {
    alone.push(await rate(world, () => {}));
    beside.push(await rate(world, abuse));
  }
  return { alone: median(alone), beside: median(beside) };
}

/** A connection over which the guest is sent all that it takes, counted in order. */
class Download {
  readonly #listener = new HostListener();
  #host: HostTcp | undefined;
  #probe!: Probe;
  #next = 0;
  bytes = 0;

  constructor(readonly world: AbuseWorld) {}

  async open(port: number): Promise<void> {
    [this.#probe] = await openProbes(this.world.to, this.#listener, [port], () => 1, 7);
    this.#host = this.#probe.host;
    this.#next = this.#probe.ack;
  }

  /** Takes what has come, acknowledges it, and has the far end send on. */
  step(data: Uint8Array): void {
    const { guest } = this.world;
    while (this.#host!.send(data) === data.length);
    let fresh = false;
    for (let frame = guest.receive(); frame !== undefined; frame = guest.receive()) {
      if (frame[23] !== 6 || (frame[36] << 8 | frame[37]) !== this.#probe.port) continue;
      const view = new DataView(frame.buffer, frame.byteOffset);
      const length = view.getUint16(16) - 20 - (frame[46] >> 4) * 4;
      if (view.getUint32(38) !== this.#next || length === 0) continue;
      this.#next = this.#next + length >>> 0;
      this.bytes += length;
      fresh = true;
    }
    if (!fresh) return;
    this.#probe.ack = this.#next;
    guest.offer(this.#probe.frame(16));
    guest.kick();
  }

  /** Bytes a second. */
  async rate(data: Uint8Array): Promise<number> {
    const start = performance.now();
    const before = this.bytes;
    while (performance.now() < start + WINDOW_MS) this.step(data);
    await Promise.resolve();
    return (this.bytes - before) * 1000 / (performance.now() - start);
  }

  close(): void {
    this.#probe.close();
    this.#listener.close();
  }
}

/** A download alone, and while another process floods a forwarded port; in turns. */
export async function downloadRates(
  world: AbuseWorld,
  kind: "tcp" | "udp",
  { address, port }: Forwarded,
): Promise<Rates> {
  const download = new Download(world);
  await download.open(30_000);
  const data = new Uint8Array(1 << 17);
  const [alone, beside]: number[][] = [[], []];
  for (let turn = 0; turn < TURNS; turn++) {
    alone.push(await download.rate(data));
    const args = ["run", "--quiet", "-A", FLOODER, kind, address, `${port}`];
    const flooder = new Process([Deno.execPath(), ...args]);
    try {
      await flooder.says(/floods/);
      beside.push(await download.rate(data));
    } finally {
      await flooder.stop("SIGKILL");
    }
  }
  download.close();
  return { alone: median(alone), beside: median(beside) };
}

/** Round trips alone, and while another process floods a forwarded port; in turns. */
export async function peerRates(
  world: AbuseWorld,
  kind: "tcp" | "udp",
  { address, port }: Forwarded,
): Promise<Rates> {
  const [alone, beside]: number[][] = [[], []];
  for (let turn = 0; turn < TURNS; turn++) {
    alone.push(await rate(world, () => {}));
    const args = ["run", "--quiet", "-A", FLOODER, kind, address, `${port}`];
    const flooder = new Process([Deno.execPath(), ...args]);
    try {
      await flooder.says(/floods/);
      beside.push(await rate(world, () => {}));
    } finally {
      await flooder.stop("SIGKILL");
    }
    world.to.pump();
  }
  return { alone: median(alone), beside: median(beside) };
}
