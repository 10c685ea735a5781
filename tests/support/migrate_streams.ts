/** The connections of a migration test: both ends, and what must hold between them. */
import type { Agent } from "./lab_agent.ts";
import { RequestError } from "./lab_json.ts";
import { until } from "./lab_process.ts";

/** The port on which each end takes connections (scripts/lab/guest/streams.py). */
export const STREAM_PORT = 7100;
/** The port of the peer that notes where datagrams come from. */
export const DATAGRAM_PORT = 7101;

/** One end of a connection, as streams.py reports it; times are in seconds. */
export interface EndReport {
  readonly number: number;
  readonly sent: number;
  /** How many bytes it shall send. */
  readonly limit: number;
  readonly received: number;
  /** Position of the first byte that was wrong. */
  readonly bad: number | null;
  /** Whether the other end's last byte was seen, and whether ours was sent. */
  readonly ended: boolean;
  readonly finished: boolean;
  readonly error: string | null;
  /** The longest times without a byte received, and without one sent. */
  readonly gap: number;
  readonly sendGap: number;
  /** Since the last byte received and sent. */
  readonly waiting: number;
  readonly stalled: number;
  readonly local: readonly [string, number];
  readonly remote: readonly [string, number];
  /** Of TCP_INFO. */
  readonly state: number;
  readonly unacked: number;
  readonly sendMss: number;
  readonly receiveMss: number;
}

/** What an end shall do; see op_stream_set of streams.py. */
export interface EndChange {
  readonly limit?: number;
  readonly more?: number;
  readonly beat?: number;
  readonly read?: boolean;
  readonly fin?: boolean;
  readonly deaf?: boolean;
  readonly mark?: boolean;
}

/** What came of questions that were asked again and again. */
export interface LoopReport {
  readonly outcomes: Record<string, number>;
  readonly slowest: number;
}

async function call(agent: Agent, op: string, args = {}): Promise<unknown> {
  const reply = await agent.link.request({ op, ...args }, 120_000);
  if (reply.error === undefined) return reply.result;
  throw new RequestError(`${agent.link.name}: ${op}: ${reply.error}`);
}

/** The agent of one end, which may be another object after a migration. */
export class End {
  constructor(readonly agent: () => Agent) {}

  async call(op: string, args = {}): Promise<unknown> {
    return await call(this.agent(), op, args);
  }

  async set(first: number, count: number, change: EndChange): Promise<void> {
    await this.call("stream_set", { first, count, ...change });
  }

  async report(first: number, count = 1): Promise<EndReport[]> {
    return await this.call("stream_report", { first, count }) as EndReport[];
  }

  async startLoop(name: string, kind: string, host: string, port = 0): Promise<void> {
    await this.call("loop_start", { name, kind, host, port });
  }

  async stopLoop(name: string): Promise<LoopReport> {
    return await this.call("loop_stop", { name }) as LoopReport;
  }

  async loop(name: string): Promise<LoopReport> {
    return await this.call("loop_report", { name }) as LoopReport;
  }
}

/** Who opens connections. */
export type Origin = "guest" | "peer";

/** What became of the connections, with a line for each that did not go well. */
export interface Verdict {
  kept: number;
  reset: number;
  lost: number;
  readonly faults: string[];
}

/** Connections between the guest and the peer. */
export class Streams {
  readonly guest: End;
  readonly peer: End;
  #next = 1;

  constructor(guest: () => Agent, peer: () => Agent) {
    this.guest = new End(guest);
    this.peer = new End(peer);
  }

  /** Has both ends take connections. */
  async listen(): Promise<void> {
    await this.guestListens();
    await this.peer.call("stream_listen", { port: STREAM_PORT });
    await this.peer.call("datagrams_serve", { port: DATAGRAM_PORT });
  }

  /** Has the guest take connections, which forgets that when it reboots. */
  async guestListens(): Promise<void> {
    await this.guest.call("stream_listen", { port: STREAM_PORT });
  }

  /** Opens `count` connections to `host`, and returns the number of the first. */
  async open(
    origin: Origin,
    host: string,
    count = 1,
    buffer?: number,
  ): Promise<number> {
    const first = this.#next;
    this.#next += count;
    const [opener, accepter] = origin === "guest"
      ? [this.guest, this.peer]
      : [this.peer, this.guest];
    const port = STREAM_PORT;
    await opener.call("stream_open", { host, port, first, count, buffer });
    await until("connections are known at both ends", async () => {
      return await accepter.call("stream_known", { first, count }) === count;
    });
    return first;
  }

  /** Both ends, that of the guest first. */
  ends(): readonly [End, End] {
    return [this.guest, this.peer];
  }

  /** Closes all connections at both ends. */
  async close(): Promise<void> {
    for (const end of this.ends()) await end.call("stream_close");
  }

  /** Waits until no byte moves any more at `end`, which has more to send than it can. */
  async stuck(end: End, first: number, count = 1): Promise<void> {
    await until("the queues are full", async () => {
      return (await end.report(first, count)).every((r) => r.stalled > 0.4);
    }, 60_000);
  }

  /**
   * Has both ends of the connections read on, send a last `more` bytes and shut down;
   * then judges whether each byte arrived, once and in order.
   */
  async finish(first: number, count: number, more = 3000): Promise<Verdict> {
    const change = { beat: 0, read: true, more, fin: true };
    for (const end of this.ends()) await end.set(first, count, change);
    const done = (a: EndReport, b: EndReport) =>
      a.error !== null || b.error !== null ||
      [a, b].every((end) => end.ended && end.finished);
    await until("every connection ends", async () => {
      const [a, b] = await this.#both(first, count);
      return a.every((end, index) => done(end, b[index]));
    }, 30_000).catch(() => {});
    const [guest, peer] = await this.#both(first, count);
    return judge(guest, peer);
  }

  async #both(first: number, count: number): Promise<[EndReport[], EndReport[]]> {
    return await Promise.all([
      this.guest.report(first, count),
      this.peer.report(first, count),
    ]);
  }
}

/** Compares both ends of connections that should have ended. */
export function judge(
  guest: readonly EndReport[],
  peer: readonly EndReport[],
): Verdict {
  const verdict: Verdict = { kept: 0, reset: 0, lost: 0, faults: [] };
  guest.forEach((g, index) => {
    const p = peer[index];
    const faults = [...oneWay("guest to peer", g, p), ...oneWay("peer to guest", p, g)];
    if (faults.length === 0) verdict.kept++;
    else if (g.error !== null || p.error !== null) verdict.reset++;
    else verdict.lost++;
    for (const fault of faults) verdict.faults.push(`connection ${g.number}, ${fault}`);
  });
  return verdict;
}

function oneWay(name: string, from: EndReport, to: EndReport): string[] {
  const faults: string[] = [];
  if (from.error !== null) faults.push(`${name}: sender: ${from.error}`);
  if (to.bad !== null) faults.push(`${name}: byte ${to.bad} is wrong`);
  if (to.received !== from.sent) {
    faults.push(`${name}: ${to.received} bytes arrived of ${from.sent}`);
  }
  if (from.finished && !to.ended) faults.push(`${name}: no end of stream`);
  if (!from.finished) faults.push(`${name}: could not be ended`);
  return faults;
}
