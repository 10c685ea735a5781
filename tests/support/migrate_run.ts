/** Runs one scenario in a world: opens its connections, acts, and judges what became of them. */
import { until } from "./lab_process.ts";
import type { MigrationResult, MigrationWorld } from "./migrate_world.ts";
import {
  DATAGRAM_PORT,
  type End,
  type EndChange,
  type EndReport,
  type LoopReport,
  type Origin,
  STREAM_PORT,
  type Verdict,
} from "./migrate_streams.ts";
import { Port } from "./lab_agent.ts";
import type { Family } from "./netns.ts";

/** What to wait for before the scenario acts. */
export type Condition =
  /** The end has more to send than it can. */
  | "guest stuck"
  | "peer stuck"
  /** The end has seen the other's last byte. */
  | "guest ended"
  | "peer ended"
  /** The end has sent all that it will, and shut down if it will. */
  | "guest finished"
  | "peer finished"
  /** All that the end sent was acknowledged to it. */
  | "guest acknowledged"
  | "peer acknowledged"
  /** The end has got all that was sent. */
  | "guest has all"
  | "peer has all"
  /** Bytes arrive at the end. */
  | "guest receives"
  | "peer receives";

/** Connections of one kind, and what they do when the guest moves. */
export interface Flow {
  readonly origin: Origin;
  readonly family: Family;
  /** Where the peer connects to, unless it is the host's usual address. */
  readonly host?: string;
  /** 1 unless said otherwise. */
  readonly count?: number;
  /** The guest's receive buffer, for connections that it opens. */
  readonly buffer?: number;
  readonly guest?: EndChange;
  readonly peer?: EndChange;
  readonly until?: Condition;
}

/** Questions asked again and again while the guest moves. */
export interface Question {
  readonly kind: "connect" | "udp" | "ping";
  readonly from: Origin;
  readonly family: Family;
  /** Outcomes besides "good" that are allowed. */
  readonly allowed?: readonly string[];
}

/** One thing that must hold when a guest migrates. */
export interface Scenario {
  readonly name: string;
  readonly about: string;
  readonly flows?: readonly Flow[];
  readonly questions?: readonly Question[];
  /** Before connections are opened. */
  readonly prepare?: (run: Run) => Promise<void>;
  /** What happens; a migration that succeeds unless said otherwise. */
  readonly act?: (run: Run) => Promise<MigrationResult>;
  /** What else must hold, while the connections are still open. */
  readonly check?: (run: Run) => Promise<void>;
  /** Undoes what `prepare` did; called whatever happened. */
  readonly restore?: (run: Run) => Promise<void>;
  /** How many connections may be reset; 0 unless said otherwise. */
  readonly resets?: number;
  /** Whether it needs vuelo at both ends, or privileged helpers there. */
  readonly needs?: "vuelo" | "helper";
}

/** What a scenario came to; times are in milliseconds. */
export interface Outcome {
  readonly name: string;
  readonly pause?: number;
  readonly downtime?: number;
  readonly save?: number;
  readonly load?: number;
  /** Written by the source's back-end: the state, and a few bytes of notifications. */
  readonly bytes?: number;
  readonly kept: number;
  readonly reset: number;
  readonly lost: number;
  readonly faults: readonly string[];
}

/** A scenario under way. */
export class Run {
  readonly opened: { flow: Flow; first: number; count: number }[] = [];
  #loops: { end: End; name: string; question: Question }[] = [];

  constructor(
    readonly world: MigrationWorld,
    readonly scenario: Scenario,
    /** Told what happens. */
    readonly say: (text: string) => void = () => {},
  ) {}

  /** Changes one end of every connection opened so far. */
  async setAll(who: Origin, change: EndChange): Promise<void> {
    const { streams } = this.world;
    const end = who === "guest" ? streams.guest : streams.peer;
    for (const { first, count } of this.opened) await end.set(first, count, change);
  }

  /** Waits until the condition holds for every connection opened so far. */
  async awaitAll(condition: Condition): Promise<void> {
    for (const { first, count } of this.opened) {
      await this.#await(condition, first, count);
    }
  }

  /** One end of every connection opened so far. */
  async reports(who: Origin): Promise<EndReport[]> {
    const { streams } = this.world;
    const end = who === "guest" ? streams.guest : streams.peer;
    const all = this.opened.map(({ first, count }) => end.report(first, count));
    return (await Promise.all(all)).flat();
  }

  /** Opens connections besides those that the scenario names. */
  async open(flow: Flow): Promise<void> {
    await this.#open(flow);
  }

  /** Runs it all. Throws when the world itself broke; faults of connections are returned. */
  async run(): Promise<Outcome> {
    const { scenario, world } = this;
    try {
      await scenario.prepare?.(this);
      for (const flow of scenario.flows ?? []) await this.#open(flow);
      for (const question of scenario.questions ?? []) await this.#ask(question);
      const source = world.source;
      if (source.options.kind !== "vuelo") await this.#hushPeers();
      await this.#mark();
      this.say("acts");
      const before = source.running ? source.written() : 0;
      const pid = source.running ? source.backend.pid : 0;
      const result = await (scenario.act ?? move)(this);
      const same = source.running && source.backend.pid === pid;
      const bytes = same ? source.written() - before : undefined;
      this.say(`acted: ${JSON.stringify(result)}`);
      const pause = await this.#pause();
      const faults: string[] = [];
      await scenario.check?.(this).catch((e: Error) => void faults.push(e.message));
      const verdict = await this.#finish();
      faults.push(...await this.#answers(), ...verdict.faults);
      const { qemu: { downtime }, save, load } = result;
      const figures = { pause, downtime, save, load, bytes };
      return { ...verdict, name: scenario.name, ...figures, faults };
    } finally {
      // What went wrong before is not to be hidden by what goes wrong now.
      await scenario.restore?.(this)
        .catch((error: Error) => console.error(`${scenario.name}: restore: ${error}`));
      await world.streams.close().catch(() => {});
    }
  }

  async #open(flow: Flow): Promise<void> {
    const { streams } = this.world;
    const count = flow.count ?? 1;
    const host = flow.origin === "guest"
      ? flow.family.peer
      : flow.host ?? flow.family.host;
    const first = await streams.open(flow.origin, host, count, flow.buffer);
    this.opened.push({ flow, first, count });
    if (flow.guest !== undefined) await streams.guest.set(first, count, flow.guest);
    if (flow.peer !== undefined) await streams.peer.set(first, count, flow.peer);
    if (flow.until !== undefined) await this.#await(flow.until, first, count);
    this.say(`${count} from the ${flow.origin} over ${flow.family.name}`);
  }

  async #await(condition: Condition, first: number, count: number): Promise<void> {
    const { streams } = this.world;
    const [who, what] = split(condition);
    const [end, far] = who === "guest"
      ? [streams.guest, streams.peer]
      : [streams.peer, streams.guest];
    if (what === "stuck") return await streams.stuck(end, first, count);
    await until(condition, async () => {
      const reports = await end.report(first, count);
      if (what === "ended") return reports.every((r) => r.ended);
      if (what === "finished") return reports.every((r) => r.finished);
      if (what === "acknowledged") {
        return reports.every((r) => r.sent === r.limit && r.unacked === 0);
      }
      if (what === "receives") return reports.every((r) => r.received > 0);
      const sent = (await far.report(first, count)).map((r) => r.sent);
      return reports.every((r, i) => r.received === sent[i]);
    });
  }

  async #ask(question: Question): Promise<void> {
    const { streams } = this.world;
    const end = question.from === "guest" ? streams.guest : streams.peer;
    const host = question.from === "guest" ? question.family.peer : question.family.host;
    const name = `${question.kind}-${question.family.name}-${this.#loops.length}`;
    const port = question.kind === "udp" ? DATAGRAM_PORT : Port.echo;
    await end.startLoop(name, question.kind, host, port);
    this.#loops.push({ end, name, question });
    await until(`${name} is answered`, async () => {
      return ((await end.loop(name)).outcomes.good ?? 0) > 0;
    });
  }

  /** From here on the longest gaps count. */
  /** passt acknowledges what comes while it saves, and does not save that. */
  async #hushPeers(): Promise<void> {
    const { peer } = this.world.streams;
    for (const { flow, first, count } of this.opened) {
      if (flow.peer?.beat === undefined) continue;
      await peer.set(first, count, { beat: 0 });
      await this.#await("guest has all", first, count);
    }
  }

  async #mark(): Promise<void> {
    for (const { first, count } of this.opened) {
      for (const end of this.world.streams.ends()) {
        await end.set(first, count, { mark: true });
      }
    }
  }

  /** The longest gap that the peer saw, once bytes move again, in milliseconds. */
  async #pause(): Promise<number | undefined> {
    const { peer } = this.world.streams;
    let longest: number | undefined;
    for (const { flow, first, count } of this.opened) {
      const deaf = flow.guest?.deaf || flow.peer?.deaf;
      const received = moves(flow.guest) && flow.peer?.read !== false;
      const sent = (flow.peer?.limit ?? 0) >= BULK && flow.guest?.read !== false;
      if (deaf || !received && !sent) continue;
      const then = await peer.report(first, count);
      await until("bytes move again", async () => {
        const now = await peer.report(first, count);
        return now.every((report, i) =>
          report.error !== null ||
          received && report.received > then[i].received ||
          sent && report.sent > then[i].sent
        );
      }, 20_000).catch(() => {});
      for (const report of await peer.report(first, count)) {
        if (report.error !== null) continue;
        const gap = 1000 * (received ? report.gap : report.sendGap);
        longest = Math.max(longest ?? 0, gap);
      }
    }
    return longest;
  }

  async #finish(): Promise<Verdict> {
    const { streams } = this.world;
    const total: Verdict = { kept: 0, reset: 0, lost: 0, faults: [] };
    const ears = [[streams.guest, "guest"], [streams.peer, "peer"]] as const;
    for (const { flow, first, count } of this.opened) {
      for (const [end, name] of ears) {
        if (flow[name]?.deaf) await end.set(first, count, { deaf: false });
      }
      const verdict = await streams.finish(first, count);
      total.kept += verdict.kept;
      total.reset += verdict.reset;
      total.lost += verdict.lost;
      const allowed = this.scenario.resets ?? 0;
      if (verdict.lost > 0 || verdict.reset > allowed) {
        total.faults.push(...verdict.faults);
      }
    }
    return total;
  }

  /** Stops the questions, and judges the answers. */
  async #answers(): Promise<string[]> {
    const faults: string[] = [];
    for (const { end, name, question } of this.#loops) {
      // It goes on for a while with the guest where it is now.
      const before = (await end.loop(name)).outcomes.good ?? 0;
      await until(`${name} is answered again`, async () => {
        return ((await end.loop(name)).outcomes.good ?? 0) > before + 5;
      }).catch((error) => void faults.push(error.message));
      const report: LoopReport = await end.stopLoop(name);
      this.say(`${name}: ${JSON.stringify(report)}`);
      for (const [outcome, count] of Object.entries(report.outcomes)) {
        if (outcome === "good" || question.allowed?.includes(outcome)) continue;
        faults.push(`${name}: ${count} times ${outcome}`);
      }
    }
    this.#loops = [];
    return faults;
  }
}

/** The usual act: the guest moves to the other hypervisor. */
export async function move(run: Run): Promise<MigrationResult> {
  return await run.world.migrate();
}

/** Whether an end keeps sending while the guest moves. */
function moves(change: EndChange | undefined): boolean {
  if (change === undefined) return false;
  return change.beat !== undefined || (change.limit ?? 0) >= BULK;
}

function split(condition: Condition): [who: "guest" | "peer", what: string] {
  const space = condition.indexOf(" ");
  return [condition.slice(0, space) as "guest" | "peer", condition.slice(space + 1)];
}

/** More bytes than any scenario lasts. */
export const BULK = 1e12;

export { STREAM_PORT };
