/** Runs contenders on a frontend, interleaved, so that a machine's drift cancels. */
import type { Network } from "../../support/netns.ts";
import {
  GUEST_DATAGRAMS,
  GUEST_PORTS,
  type NetCase,
  PEER_DATAGRAMS,
  PEER_PORTS,
  type Session,
} from "./cases.ts";
import { type Contender, lastLine, Running } from "./contender.ts";
import type { Frontend, GuestSpace } from "./frontend.ts";
import { Load } from "./load.ts";
import { ADDRESS, createNetwork } from "./network.ts";
import { quietly } from "./noise.ts";
import type { Sample } from "./results.ts";

export interface Plan {
  readonly contenders: readonly Contender[];
  readonly rounds: number;
  readonly seconds: number;
  readonly idle: number;
  readonly queues: number;
  /** Seconds to wait for others to leave the machine alone, before each measurement. */
  readonly quiet: number;
  /** Told of each sample as it comes. */
  readonly onSample: (sample: Sample) => void;
}

/** What a measurement came to. */
export type Told = Pick<Sample, "figures" | "error" | "noise">;

/** The name under which what isn't traffic is reported. */
export const PROCESS = "process";
const WARM_UP_MS = 700;
/** The way through the back-end is there as soon as ARP has been answered (ms). */
const CONNECT_LIMIT = 5000;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** One connection that works, then streams each way, so that all code has run. */
async function warmUp({ guest }: Session): Promise<void> {
  const end = performance.now() + CONNECT_LIMIT;
  const work = { address: ADDRESS.peer, ports: [PEER_PORTS[0]], count: 1, size: 0 };
  for (;;) {
    await guest.call("mark", {});
    await guest.call("start", { name: "try", kind: "echo", ...work });
    await sleep(50);
    await guest.call("stop", { name: "try" });
    if ((await guest.call("read", {})).operations > 0) break;
    if (performance.now() > end) throw new Error("no connection through the back-end");
  }
  for (const kind of ["source", "sink"] as const) {
    await guest.call("start", { name: "warm", kind, ...work });
    await sleep(WARM_UP_MS);
    await guest.call("stop", { name: "warm" });
  }
}

/** A frontend in its place between the namespaces, with loads on both sides. */
class Bench {
  private constructor(
    readonly network: Network,
    readonly space: GuestSpace,
    readonly guest: Load,
    readonly peer: Load,
  ) {}

  static async create(frontend: Frontend): Promise<Bench & AsyncDisposable> {
    await using stack = new AsyncDisposableStack();
    const network = await createNetwork();
    stack.defer(() => network.close());
    const space = await frontend.create();
    stack.defer(() => space.close());
    const guest = await Load.start(space.namespace, GUEST_PORTS, GUEST_DATAGRAMS);
    stack.defer(() => guest.stop());
    const peer = await Load.start(network.peer, PEER_PORTS, PEER_DATAGRAMS);
    stack.defer(() => peer.stop());
    const owned = stack.move();
    return Object.assign(new Bench(network, space, guest, peer), {
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    });
  }
}

/** Measures `cases` at each MTU; contenders take turns, A B, B A, A B and so on. */
export async function compare(
  plan: Plan,
  frontend: Frontend,
  cases: readonly { readonly mtu: number; readonly one: NetCase }[],
): Promise<void> {
  await using bench = await Bench.create(frontend);
  const mtus = [...new Set(cases.map(({ mtu }) => mtu))];
  for (let round = 0; round < plan.rounds; round++) {
    const { contenders } = plan;
    const order = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const mtu of mtus) {
      const here = cases.filter((entry) => entry.mtu === mtu).map(({ one }) => one);
      for (const contender of order) {
        await oneSession(plan, frontend, bench, contender, { mtu, round, cases: here });
      }
    }
  }
}

async function oneSession(
  plan: Plan,
  frontend: Frontend,
  bench: Bench,
  contender: Contender,
  part: { mtu: number; round: number; cases: readonly NetCase[] },
): Promise<void> {
  const { network, space, guest, peer } = bench;
  const { mtu, round } = part;
  const common = { frontend: frontend.name, mtu, backend: contender.name, round };
  const tell = (name: string, rest: Told) =>
    plan.onSample({ level: "native", ...common, name, ...rest });
  const backend = await Running.start(contender, network.host);
  try {
    await sleep(200);
    const rest = backend.memory().resident;
    await space.attach(backend.socket, mtu, plan.queues);
    const session = {
      backend,
      space,
      guest,
      peer,
      seconds: plan.seconds,
      idle: plan.idle,
    };
    await warmUp(session);
    for (const one of part.cases) {
      try {
        const [figures, noise] = await quietly(plan.quiet, () => one.measure(session));
        tell(one.name, { figures, noise });
      } catch (error) {
        const { message } = error as Error;
        const end = backend.ended ? `; the back-end ended: ${lastLine(backend)}` : "";
        tell(one.name, { figures: {}, error: message + end });
        if (backend.ended) return;
      }
    }
    const figures = {
      "start to listening": backend.listeningMs,
      "memory at rest": rest,
      "peak memory": backend.memory().peak,
    };
    tell(PROCESS, { figures });
  } catch (error) {
    const said = `${backend.output.slice(-500)}${space.output.slice(-500)}`;
    tell(PROCESS, { figures: {}, error: `${(error as Error).message}: ${said}` });
  } finally {
    await space.detach();
    await backend.stop();
  }
}
