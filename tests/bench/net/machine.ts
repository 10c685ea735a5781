/** Whole machines in the guest's place: Linux in QEMU, and Linux as a process (UML). */
import { onPath, type Program, provide } from "../../../scripts/lab/packages.ts";
import { SETS, unpacked } from "../../../scripts/lab/packages.ts";
import { configure } from "../../support/lab.ts";
import { type Agent, Port } from "../../support/lab_agent.ts";
import { Process } from "../../support/lab_process.ts";
import type { Network } from "../../support/netns.ts";
import { Guest } from "../../support/qemu.ts";
import { UmlGuest } from "../../support/uml.ts";
import { FORWARDED, lastLine, Running } from "./contender.ts";
import type { Contender } from "./contender.ts";
import { type Plan, PROCESS, type Told } from "./compare.ts";
import { Load } from "./load.ts";
import { ADDRESS, createNetwork } from "./network.ts";
import { quietly } from "./noise.ts";
import type { Figures, Sample } from "./results.ts";

/** A machine that is running, with the agent in it. */
interface Machine extends Agent {
  stop(): Promise<void>;
}

export interface MachineKind {
  readonly name: string;
  readonly level: Sample["level"];
  readonly start: (socket: string, queues: number) => Promise<Machine>;
}

export const QEMU: MachineKind = {
  name: "qemu",
  level: "guest",
  start: (socket, queues) =>
    Guest.start({ socket, image: "full", queues, cpus: 2 * queues }),
};
export const UML: MachineKind = {
  name: "uml",
  level: "native",
  start: (socket) => UmlGuest.start(socket, "full"),
};

interface Session {
  readonly backend: Running;
  readonly guest: Machine;
  readonly peer: Load;
  /** The peer's namespace. */
  readonly world: string;
  readonly seconds: number;
}

export interface MachineCase {
  readonly name: string;
  readonly measure: (session: Session) => Promise<Figures>;
}

/** Where iperf3 serves at the peer. */
const IPERF_PORT = 7120;
const GIB = 2 ** 30;
const WARM_UP_MS = 400;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** iperf3 of the machine, else of Debian. */
export async function iperf3(): Promise<Program> {
  const installed = onPath("iperf3");
  if (installed !== undefined) return { path: installed, args: [], env: {} };
  return unpacked(await provide(SETS.clients), "usr/bin/iperf3");
}

interface Sums {
  readonly bytes: number;
  readonly bits_per_second: number;
  readonly packets: number;
  readonly lost_packets: number;
  readonly seconds: number;
}
/** What of iperf3's report is used. */
interface Report {
  readonly error?: string;
  readonly end: Readonly<Record<string, Sums>>;
}

async function startServer(namespace: string): Promise<Process> {
  const { path, args, env } = await iperf3();
  // Its datagrams are to come from where it is asked, not from the link's own address.
  const serve = ["-s", "-B", ADDRESS.peer, "-p", `${IPERF_PORT}`, "--forceflush"];
  const server = new Process([path, ...args, ...serve], { namespace, env });
  await server.says(/listening on/);
  return server;
}

/** Runs iperf3 in the guest; its report, and the back-end's CPU seconds. */
async function iperf(session: Session, args: string[]): Promise<[Report, number]> {
  const { backend, guest, seconds } = session;
  // One for each case: a client that was lost would keep it busy.
  const server = await startServer(session.world);
  const argv = ["iperf3", "-J", "-c", ADDRESS.peer, "-p", `${IPERF_PORT}`];
  argv.push("-t", `${Math.max(1, Math.round(seconds))}`, ...args);
  const before = backend.cpuSeconds();
  const { stdout, stderr } = await guest.call("exec", { argv, timeout: seconds + 20 })
    .finally(() => server.stop());
  const cpuSeconds = backend.cpuSeconds() - before;
  if (stdout === "") throw new Error(`iperf3: ${stderr}`);
  const report = JSON.parse(stdout) as Report;
  if (report.error !== undefined) throw new Error(`iperf3: ${report.error}`);
  return [report, cpuSeconds];
}

const DIRECTIONS = { up: [], down: ["-R"], both: ["--bidir"] } as const;

function streams(direction: keyof typeof DIRECTIONS, count: number): MachineCase {
  return {
    name: `TCP ${direction}, ${count} ${count === 1 ? "stream" : "streams"}`,
    measure: async (session) => {
      const args = ["-P", `${count}`, ...DIRECTIONS[direction]];
      const [{ end }, cpuSeconds] = await iperf(session, args);
      const sums = [end.sum_received, end.sum_received_bidir_reverse]
        .filter((sum) => sum !== undefined);
      const bits = sums.reduce((total, sum) => total + sum.bits_per_second, 0);
      const bytes = sums.reduce((total, sum) => total + sum.bytes, 0);
      return { throughput: bits / 1e9, "CPU per GiB": cpuSeconds / (bytes / GIB) };
    },
  };
}

function datagrams(direction: "up" | "down", size: number): MachineCase {
  return {
    name: `UDP ${direction}, ${size} bytes`,
    measure: async (session) => {
      const args = ["-u", "-b", "0", "-l", `${size}`, ...DIRECTIONS[direction]];
      const [{ end }, cpuSeconds] = await iperf(session, args);
      const { packets, lost_packets: lost, seconds } = end.sum_received ?? end.sum;
      const received = packets - lost;
      return {
        datagrams: received / seconds / 1e3,
        loss: 100 * lost / packets,
        "CPU per million": cpuSeconds / received * 1e6,
      };
    },
  };
}

/** The agent in the guest sends back what comes to a forwarded port. */
const requests: MachineCase = {
  name: "TCP request-response, forwarded",
  measure: async ({ backend, peer, seconds }) => {
    const work = { address: ADDRESS.guest, ports: [Port.echo], count: 1, size: 0 };
    await peer.call("start", { name: "work", kind: "plain", ...work });
    await sleep(WARM_UP_MS);
    await peer.call("mark", {});
    const before = backend.cpuSeconds();
    await sleep(seconds * 1000);
    const cpuSeconds = backend.cpuSeconds() - before;
    const reading = await peer.call("read", {});
    await peer.call("stop", { name: "work" });
    if (reading.operations === 0) throw new Error("nothing was answered");
    return {
      requests: reading.operations / reading.seconds / 1e3,
      p50: reading.p50 * 1e3,
      p99: reading.p99 * 1e3,
      "p99.9": reading.p999 * 1e3,
      "CPU per million": cpuSeconds / reading.operations * 1e6,
    };
  },
};

export const MACHINE_CASES: readonly MachineCase[] = [
  ...[1, 8].flatMap((count) =>
    (["up", "down", "both"] as const).map((direction) => streams(direction, count))
  ),
  ...[64, 1400].flatMap((size) =>
    (["up", "down"] as const).map((direction) => datagrams(direction, size))
  ),
  requests,
];

/** As compare(), with a machine booted for each turn. */
export async function compareMachines(
  plan: Plan,
  kind: MachineKind,
  cases: readonly { readonly mtu: number; readonly one: MachineCase }[],
): Promise<void> {
  if (Port.echo < FORWARDED.first || Port.echo > FORWARDED.last) throw new RangeError();
  await using stack = new AsyncDisposableStack();
  const network = await createNetwork();
  stack.defer(() => network.close());
  const peer = await Load.start(network.peer, [], []);
  stack.defer(() => peer.stop());
  for (let round = 0; round < plan.rounds; round++) {
    const { contenders } = plan;
    const order = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const contender of order) {
      // After a back-end that ended the rest goes on with a new one.
      for (let done = 0; done < cases.length;) {
        const turn = { network, peer, contender, round, cases: cases.slice(done) };
        done += await oneMachine(plan, kind, turn);
      }
    }
  }
}

interface Turn {
  readonly network: Network;
  readonly peer: Load;
  readonly contender: Contender;
  readonly round: number;
  readonly cases: readonly { readonly mtu: number; readonly one: MachineCase }[];
}

/** Measures cases until the back-end ends; how many there is no need to try again. */
async function oneMachine(plan: Plan, kind: MachineKind, turn: Turn): Promise<number> {
  const { network, peer, contender, round, cases } = turn;
  const common = {
    level: kind.level,
    frontend: kind.name,
    backend: contender.name,
    round,
  };
  let mtu = cases[0].mtu;
  const tell = (name: string, rest: Told) =>
    plan.onSample({ ...common, mtu, name, ...rest });
  await using stack = new AsyncDisposableStack();
  const backend = await Running.start(contender, network.host);
  stack.defer(() => backend.stop());
  try {
    const guest = await kind.start(backend.socket, plan.queues);
    stack.defer(() => guest.stop());
    await configure(guest);
    const session = { backend, guest, peer, world: network.peer, seconds: plan.seconds };
    for (const entry of cases) {
      mtu = entry.mtu;
      await guest.run("ip", "link", "set", "eth0", "mtu", `${mtu}`);
      try {
        const measure = () => entry.one.measure(session);
        const [figures, noise] = await quietly(plan.quiet, measure);
        tell(entry.one.name, { figures, noise });
      } catch (error) {
        const { message } = error as Error;
        const end = backend.ended ? `; the back-end ended: ${lastLine(backend)}` : "";
        tell(entry.one.name, { figures: {}, error: message + end });
        if (backend.ended) return cases.indexOf(entry) + 1;
      }
    }
  } catch (error) {
    const said = backend.output.slice(-500);
    tell(PROCESS, { figures: {}, error: `${(error as Error).message}: ${said}` });
  }
  return cases.length;
}
