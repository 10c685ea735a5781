/** How fast a well-behaved flow is alone, and beside an abuse. */
import type { AbuseWorld } from "../support/abuse_world.ts";
import { HostListener, type HostTcp } from "../support/host_tcp.ts";
import { openProbes, type Probe } from "../support/probe.ts";
import { Process } from "../support/lab_process.ts";
import type { Begin } from "./storms.ts";

const FLOODER = new URL("flooder.ts", import.meta.url).pathname;
/** Milliseconds of each measurement, and how many there are of either kind, in turns. */
const WINDOW_MS = 500;
const TURNS = 6;

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

/**
 * Alone, and with `each` times the storm's abuse before each round trip; in turns, or, if
 * the storm leaves no calm behind it, one after the other.
 */
export async function stormRates(
  world: AbuseWorld,
  begin: Begin,
  each: number,
): Promise<Rates> {
  const [alone, beside]: number[][] = [[], []];
  const calm = async () => void alone.push(await rate(world, () => {}));
  if (begin.stays) { for (let turn = 0; turn < TURNS; turn++) await calm(); }
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
  for (let turn = 0; turn < TURNS; turn++) {
    if (!begin.stays) await calm();
    beside.push(await rate(world, abuse));
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
