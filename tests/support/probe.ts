/** One end of a TCP connection in the guest that says what a test wants, right or wrong. */
import { type Dispatcher, ENDS, type Received } from "./good_flow.ts";
import type { HostListener, HostTcp } from "./host_tcp.ts";
import { until } from "./lab_process.ts";
import { type Segment, synOptions, tcpFrame } from "./tcp_segment.ts";

const EMPTY: Uint8Array = new Uint8Array(0);
const LETTERS = [..."FSRPAUEC"];
/** Where the byte of the data offset lies, whose last bit was NS (RFC 3540). */
const OFFSET_BYTE = 14 + 20 + 12;

/** Letters of a segment's flags, from its low eight bits. */
export function letters(flags: number): string {
  return LETTERS.filter((_, bit) => (flags & 1 << bit) !== 0).join("");
}

export class Probe {
  /** What comes next from here, and from the other end. */
  seq: number;
  ack = 0;
  window = 65535;
  /** The other end, where it is a socket of this process. */
  host: HostTcp | undefined;
  /** What has come since this was emptied. */
  got: Received[] = [];

  constructor(
    readonly to: Dispatcher,
    readonly port: number,
    readonly hostPort: number,
    seq: number,
  ) {
    this.seq = seq >>> 0;
    to.on(port, (segment) => this.got.push(segment));
  }

  /** A frame with these flags (nine bits, of which the highest is NS). */
  frame(flags: number, change: Partial<Segment> = {}): Uint8Array {
    const { seq, ack, window } = this;
    const usual = { flags: letters(flags), window, data: EMPTY, options: EMPTY };
    const whole = { ...usual, seq, ack, ...change };
    const right = { ...whole, seq: whole.seq >>> 0, ack: whole.ack >>> 0 };
    const frame = tcpFrame(ENDS, this.port, this.hostPort, right);
    if ((flags & 0x100) !== 0) frame[OFFSET_BYTE] |= 1;
    return frame;
  }

  async send(flags: string, change: Partial<Segment> = {}): Promise<void> {
    const bits = [...flags].reduce((sum, one) => sum | 1 << LETTERS.indexOf(one), 0);
    await this.to.guest.send(this.frame(bits, change));
  }

  async syn(scale = 0): Promise<void> {
    await this.send("S", { options: synOptions(1460, scale), ack: 0 });
  }

  /** Takes the other end's SYN from what has come, if it is there. */
  takeSyn(): boolean {
    const syn = this.got.find(({ flags }) => flags.includes("S"));
    if (syn === undefined) return false;
    this.seq = syn.flags.includes("A") ? syn.ack : this.seq;
    this.ack = syn.seq + 1 >>> 0;
    this.got = [];
    return true;
  }

  /** Forgets the connection; it goes on at the other end. */
  close(): void {
    this.to.off(this.port);
    this.host?.close();
  }
}

/** Bytes by which the listener's side knows a connection: its port in the guest. */
function name(port: number): Uint8Array {
  return Uint8Array.of(port >> 8, port & 255);
}

/**
 * Opens a connection to a listener for each of `ports`, all at once.
 *
 * @param seq their initial sequence numbers
 * @param scale of their windows
 */
export async function openProbes(
  to: Dispatcher,
  listener: HostListener,
  ports: readonly number[],
  seq: (i: number) => number,
  scale = 0,
): Promise<Probe[]> {
  const probes = ports.map((port, i) => new Probe(to, port, listener.port, seq(i)));
  for (const probe of probes) await probe.syn(scale);
  await until("connections", () => {
    to.pump();
    return probes.every(({ got }) => got.length > 0);
  });
  for (const probe of probes) {
    if (!probe.takeSyn()) throw new Error("no SYN came");
    const data = name(probe.port);
    await probe.send("PA", { data });
    probe.seq = probe.seq + data.length >>> 0;
  }
  const unknown: { host: HostTcp; head: number[] }[] = [];
  let known = 0;
  await until("the host's ends", () => {
    to.pump();
    for (let host = listener.accept(); host !== undefined; host = listener.accept()) {
      unknown.push({ host, head: [] });
    }
    for (const entry of unknown) {
      if (entry.head.length === 2) continue;
      const got = entry.host.receive(2 - entry.head.length);
      if (got instanceof Uint8Array) entry.head.push(...got);
      if (entry.head.length < 2) continue;
      const port = entry.head[0] << 8 | entry.head[1];
      probes.find((probe) => probe.port === port)!.host = entry.host;
      known++;
    }
    return known === probes.length;
  });
  await until("all is acknowledged", () => {
    to.pump();
    return probes.every(({ got, seq }) => got.some(({ ack }) => ack === seq));
  });
  for (const probe of probes) probe.got = [];
  return probes;
}
