/** How fast a well-behaved flow is alone, and beside an abuse. */
import type { AbuseWorld } from "../support/abuse_world.ts";
import { HostListener, type HostTcp } from "../support/host_tcp.ts";
import { openProbes, type Probe } from "../support/probe.ts";
import { Process } from "../support/lab_process.ts";
import type { Begin } from "./storms.ts";

const FLOODER = new URL("flooder.ts", import.meta.url).pathname;

/** How long is measured, and how often. */
export interface Pace {
  /** Milliseconds of each measurement. */
  readonly window: number;
  /** How many there are, alone and beside the abuse, in turns. */
  readonly turns: number;
}

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
async function rate(
  world: AbuseWorld,
  window: number,
  abuse: () => void,
): Promise<number> {
  const end = performance.now() + window;
  const start = performance.now();
  let trips = 0;
  for (; performance.now() < end; trips++) {
    abuse();
    world.good.spin(200, 5000);
    if (trips % 64 === 0) await Promise.resolve();
  }
  return trips * 1000 / (performance.now() - start);
}

/**
 * Alone, and with `each` times the storm's abuse before each round trip; in turns, or, if
 * the storm leaves no calm behind it, one after the other.
 */
export async function stormRates(
  world: AbuseWorld,
  begin: Begin,
  each: number,
  { window, turns }: Pace,
): Promise<Rates> {
  const [alone, beside]: number[][] = [[], []];
  const calm = async () => void alone.push(await rate(world, window, () => {}));
  if (begin.stays) { for (let turn = 0; turn < turns; turn++) await calm(); }
  const storm = await begin.start(world);
  const { guest } = world;
  let i = 0;
  const abuse = () => {
    for (let left = each; left > 0; left--) {
      const frame = storm.next(i++);
      if (frame === undefined) continue;
      while (!guest.offer(frame)) {
        guest.kick();
        world.to.pump();
      }
    }
    guest.kick();
  };
  for (let turn = 0; turn < turns; turn++) {
    if (!begin.stays) await calm();
    beside.push(await rate(world, window, abuse));
  }
  storm.end?.();
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
  async rate(data: Uint8Array, window: number): Promise<number> {
    const start = performance.now();
    const before = this.bytes;
    while (performance.now() < start + window) this.step(data);
    await Promise.resolve();
    return (this.bytes - before) * 1000 / (performance.now() - start);
  }

  close(): void {
    this.#probe.close();
    this.#listener.close();
  }
}

/** What `measure` finds alone, and while another process floods; in turns. */
async function besideFlood(
  kind: "tcp" | "udp",
  { address, port }: Forwarded,
  turns: number,
  measure: () => Promise<number>,
): Promise<Rates> {
  const [alone, beside]: number[][] = [[], []];
  for (let turn = 0; turn < turns; turn++) {
    alone.push(await measure());
    const args = ["run", "--quiet", "-A", FLOODER, kind, address, `${port}`];
    const flooder = new Process([Deno.execPath(), ...args]);
    try {
      await flooder.says(/floods/);
      beside.push(await measure());
    } finally {
      await flooder.stop("SIGKILL");
    }
  }
  return { alone: median(alone), beside: median(beside) };
}

/** A download alone, and while another process floods a forwarded port; in turns. */
export async function downloadRates(
  world: AbuseWorld,
  kind: "tcp" | "udp",
  forwarded: Forwarded,
  { window, turns }: Pace,
): Promise<Rates> {
  const download = new Download(world);
  await download.open(30_000);
  const data = new Uint8Array(1 << 17);
  const measure = () => download.rate(data, window);
  const rates = await besideFlood(kind, forwarded, turns, measure);
  download.close();
  return rates;
}

/** Round trips alone, and while another process floods a forwarded port; in turns. */
export function peerRates(
  world: AbuseWorld,
  kind: "tcp" | "udp",
  forwarded: Forwarded,
  { window, turns }: Pace,
): Promise<Rates> {
  return besideFlood(kind, forwarded, turns, () => {
    world.to.pump(); // what the last flood has left
    return rate(world, window, () => {});
  });
}
