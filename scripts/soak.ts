/**
 * A guest in QEMU that moves between two hosts every minute, for as long as one likes, with
 * traffic of every kind, reboots, and frontends that come and go at the host it has left.
 * Says each minute what both vuelos hold, and in the end whether that has grown. Needs
 * root, or the right to make user namespaces. See --help.
 */
import { row } from "../tests/support/migrate_suite.ts";
import { MigrationWorld } from "../tests/support/migrate_world.ts";
import { Run } from "../tests/support/migrate_run.ts";
import { other, type Side } from "../tests/support/migrate_network.ts";
import { Peer } from "../tests/support/lab_peer.ts";
import { until } from "../tests/support/lab_process.ts";
import { reenter, rights } from "../tests/support/lab_userns.ts";
import { DNS, NAME } from "../tests/support/lab.ts";
import { IPV4, IPV6 } from "../tests/support/netns.ts";
import { frontends, labFar } from "../tests/soak/frontends.ts";
import { judgeMemory, type Sample, sample } from "../tests/soak/sample.ts";
import { traffic, WHILE_MOVING } from "../tests/soak/traffic.ts";
import { toolArgs } from "./tool_args.ts";

/** Where an agent beside each vuelo echoes, for frontends without a guest. */
const ECHO = 7300;
const SIDES: readonly Side[] = ["a", "b"];
/** Frontends that come and go in a minute. */
const FRONTENDS = 5;
/** Rounds after which code is compiled, and buffers have the size they need. */
const WARM = 10;
const MINUTE = 60_000;

const args = toolArgs({
  name: "soak",
  usage: "deno task soak [--minutes N] [--every SECONDS] [--binary PATH] [--queues N]",
  string: ["minutes", "every", "binary", "queues"],
});

interface Look extends Sample {
  readonly side: Side;
  /** The guest is here. */
  readonly guest: boolean;
}

class Soak {
  readonly #looks: Look[] = [];
  readonly #faults: string[] = [];
  readonly #start = performance.now();
  #moves = 0;
  #reboots = 0;
  #frontends = 0;

  constructor(readonly world: MigrationWorld) {}

  get minutes(): number {
    return (performance.now() - this.#start) / MINUTE;
  }

  #fault(what: string): void {
    this.#faults.push(`minute ${this.minutes.toFixed(1)}: ${what}`);
    console.log(`  ${this.#faults.at(-1)}`);
  }

  /** What happens in one minute. */
  async round(number: number): Promise<void> {
    const { world } = this;
    world.beginScenario();
    const outcome = await new Run(world, WHILE_MOVING).run();
    this.#moves++;
    for (const fault of outcome.faults) this.#fault(fault);
    await this.#talk();
    await this.#comeAndGo(other(world.side));
    await this.#talk();
    if (number % 5 === 4) await this.#reboot(number);
    await this.#look();
    console.log(row(outcome));
  }

  async #talk(): Promise<void> {
    const faults = await traffic(this.world.guest, this.world.peer);
    for (const fault of faults) this.#fault(fault);
  }

  async #comeAndGo(side: Side): Promise<void> {
    const { socket } = this.world.hosts[side].backend;
    await frontends(socket, labFar(IPV4, ECHO), FRONTENDS);
    this.#frontends += FRONTENDS;
  }

  async #reboot(number: number): Promise<void> {
    const how = (["reset", "guest", "new"] as const)[Math.floor(number / 5) % 3];
    await this.world.reboot(how);
    this.#reboots++;
    console.log(`  the guest was rebooted: ${how}`);
  }

  /** Notes what both hold, once the one without a guest has let go of what it had. */
  async #look(guest = true): Promise<void> {
    const { world } = this;
    await this.#rest(other(world.side));
    for (const side of SIDES) {
      const at = this.minutes;
      const look = {
        ...sample(world.hosts[side].backend.pid, at),
        side,
        guest: guest && side === world.side,
      };
      this.#looks.push(look);
      const { own, resident, descriptors, threads } = look;
      console.log(
        `${at.toFixed(1).padStart(6)} min  ${side} ${look.guest ? "guest" : "     "}` +
          `  own ${own} KiB, resident ${resident} KiB, ${descriptors} descriptors, ` +
          `${threads} threads`,
      );
    }
  }

  /** Waits until a vuelo has let go of what the last frontend left, and made new spares. */
  async #rest(side: Side): Promise<void> {
    const { backend } = this.world.hosts[side];
    let before = -1;
    let same = 0;
    await until("descriptors that stay the same", async () => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const count = backend.descriptors();
      same = count === before ? same + 1 : 0;
      before = count;
      return same === 20;
    });
  }

  /** Ends the guest, and says what was found; whether all is as it should be. */
  async verdict(): Promise<boolean> {
    const { world } = this;
    await world.guest.stop();
    await this.#rest(world.side);
    console.log("at rest, without a guest:");
    await this.#look(false);
    let good = this.#faults.length === 0;
    for (const side of SIDES) good = this.#judge(side) && good;
    const lines = SIDES.map((side) =>
      `vuelo ${side} warned ${this.#warnings(side)} times`
    );
    console.log(
      `${this.#moves} migrations, ${this.#reboots} reboots, ${this.#frontends} other ` +
        `frontends, ${this.#faults.length} faults; ${lines.join(", ")}`,
    );
    for (const fault of this.#faults) console.log(fault);
    console.log(good ? "verdict: flat" : "verdict: NOT as it should be");
    return good;
  }

  #warnings(side: Side): number {
    const { output } = this.world.hosts[side].backend.process;
    return output.split("\n").filter((line) => /warn|error/i.test(line)).length;
  }

  #judge(side: Side): boolean {
    const looks = this.#looks.filter((look) => look.side === side);
    const warm = Math.min(WARM, looks.length >> 1);
    const { slope, growth, flat } = judgeMemory(looks, warm);
    const idle = looks.slice(warm).filter(({ guest }) => !guest);
    const counts = [...new Set(idle.map(({ descriptors }) => descriptors))];
    const threads = [...new Set(looks.slice(warm).map((look) => look.threads))];
    const first = looks[warm];
    const last = looks[looks.length - 1];
    console.log(
      `vuelo ${side}: own memory ${first.own} KiB at minute ${first.at.toFixed(0)}, ` +
        `${last.own} KiB at the end; slope ${slope.toFixed(1)} KiB/min, ` +
        `${growth.toFixed(0)} KiB in all; descriptors without a guest ` +
        `${counts.join("/")}; threads ${threads.join("/")}`,
    );
    if (looks.length >= 2 * WARM) return flat && counts.length === 1;
    console.log(`vuelo ${side}: fewer than ${2 * WARM} looks, its memory is not judged`);
    return last.descriptors <= looks.find(({ guest }) => !guest)!.descriptors;
  }
}

async function main(): Promise<number> {
  if (await rights() === "namespace") {
    return await reenter(new URL(import.meta.url).pathname, Deno.args);
  }
  if (args.binary !== undefined) Deno.env.set("VUELO_BIN", String(args.binary));
  const minutes = Number(args.minutes ?? 60);
  const every = Number(args.every ?? 60) / 60;
  const queues = Number(args.queues ?? 1);
  const dns = ["--dns-forward", DNS, "--dns-host", IPV4.peer, "-D", DNS];
  const threads = queues > 1 ? ["--queues", `${queues}`] : [];
  const host = { kind: "vuelo", helper: "none", args: [...dns, ...threads] } as const;
  const world = await MigrationWorld.create({ from: host, to: host, queues });
  const locals: Peer[] = [];
  try {
    await world.target.start();
    await world.peer.call("serve_names", { names: { [NAME]: [IPV4.peer, IPV6.peer] } });
    for (const side of SIDES) {
      locals.push(await Peer.start(world.network.host(side), false));
      await locals.at(-1)!.call("serve_echo", { port: ECHO });
    }
    const soak = new Soak(world);
    for (let number = 0; soak.minutes < minutes; number++) {
      await soak.round(number);
      const left = Math.min((number + 1) * every, minutes) - soak.minutes;
      if (left > 0) await new Promise((resolve) => setTimeout(resolve, left * MINUTE));
    }
    return await soak.verdict() ? 0 : 1;
  } catch (error) {
    console.error(Deno.inspect(error));
    console.error(world.report());
    return 1;
  } finally {
    for (const local of locals) await local.stop();
    await world.close();
  }
}

Deno.exit(await main());
