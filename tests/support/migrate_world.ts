/** Two hypervisors, an outside world, and a guest that moves between the two. */
import { configure } from "./lab.ts";
import { Peer } from "./lab_peer.ts";
import { until } from "./lab_process.ts";
import { Hypervisor, type HypervisorOptions } from "./migrate_backend.ts";
import { MigrationNetwork, other, type Side } from "./migrate_network.ts";
import { figures, MonitorEvents, type QemuFigures, setUp } from "./migrate_qmp.ts";
import { TRACE, transferTime } from "./migrate_qmp.ts";
import { Streams } from "./migrate_streams.ts";
import { Guest, type GuestOptions } from "./qemu.ts";
import type { Relay } from "./migrate_relay.ts";

/** Enough for the lab's guest, and little to copy. */
const MEGABYTES = 192;

/** How a world is set up. */
export interface MigrationWorldOptions {
  readonly from: HypervisorOptions;
  readonly to: HypervisorOptions;
  /** Of the wires. */
  readonly mtu?: number;
  /** Properties of the network device, such as "packed=on". */
  readonly device?: string;
  /** Queue pairs of the guest. */
  readonly queues?: number;
}

/** How one migration differs from the usual one. */
export interface MigrationOptions {
  /** More capabilities of QEMU, such as pause-before-switchover. */
  readonly capabilities?: readonly string[];
  /** Between the two QEMUs. */
  readonly relay?: Relay;
  /** More options of the target's back-end. */
  readonly targetArgs?: readonly string[];
  /** Leave out the helper of a side. */
  readonly withoutHelper?: Side;
  /** Has the source take it for done as soon as all is sent. */
  readonly withoutReturnPath?: boolean;
  /** Bytes per second, to have time while memory is copied. */
  readonly bandwidth?: number;
}

/** What came of a migration. */
export interface MigrationResult {
  readonly qemu: QemuFigures;
  /** Milliseconds from SET_DEVICE_STATE_FD to CHECK_DEVICE_STATE. */
  readonly save?: number;
  readonly load?: number;
}

/** All that a scenario works with. */
export class MigrationWorld {
  /** Where the guest runs. */
  side: Side = "a";
  readonly streams: Streams;
  /** The QEMU that a migration under way leads to. */
  #incoming: Guest | undefined;
  /** All QEMUs of the scenario under way. */
  #guests: Guest[] = [];

  private constructor(
    readonly options: MigrationWorldOptions,
    readonly network: MigrationNetwork,
    readonly hosts: Readonly<Record<Side, Hypervisor>>,
    readonly peer: Peer,
    /** The guest, by the QEMU in which it runs. */
    public guest: Guest,
  ) {
    this.streams = new Streams(() => this.guest, () => this.peer);
    this.#guests.push(guest);
  }

  /** A new scenario begins: what went before is of no interest to report(). */
  beginScenario(): void {
    this.hosts.a.forgetEnded();
    this.hosts.b.forgetEnded();
    this.#guests = this.#guests.filter((guest) => !guest.stopped);
  }

  /** Makes it all, and boots a guest on hypervisor a. */
  static async create(options: MigrationWorldOptions): Promise<MigrationWorld> {
    const stack = new AsyncDisposableStack();
    const processes: { report(): string }[] = [];
    try {
      const network = await MigrationNetwork.create(options.mtu ?? 65520);
      stack.defer(() => network.close());
      const peer = await Peer.start(network.outside, true);
      stack.defer(() => peer.stop());
      const hosts = {
        a: new Hypervisor("a", network.host("a"), options.from),
        b: new Hypervisor("b", network.host("b"), options.to),
      };
      processes.push(hosts.a, hosts.b);
      stack.defer(() => hosts.a.stop());
      stack.defer(() => hosts.b.stop());
      await hosts.a.start();
      const { queues } = options;
      const guest = await startGuest(hosts.a, { device: deviceOf(options), queues });
      stack.defer(() => guest.stop());
      const world = new MigrationWorld(options, network, hosts, peer, guest);
      await prepare(guest);
      await world.streams.listen();
      stack.move(); // the world owns it all from here
      return world;
    } catch (error) {
      const said = processes.map((host) => host.report()).join("\n");
      await stack.disposeAsync();
      throw new Error(`No world of two hypervisors: ${said}`, { cause: error });
    }
  }

  /** The hypervisor that has the guest. */
  get source(): Hypervisor {
    return this.hosts[this.side];
  }

  /** The hypervisor that has not. */
  get target(): Hypervisor {
    return this.hosts[other(this.side)];
  }

  /** Gets the target ready: its back-end, a QEMU that waits, and both helpers. */
  async begin(options: MigrationOptions = {}): Promise<Migration> {
    const { source, target } = this;
    if (target.options.kind !== "vuelo" || options.targetArgs !== undefined) {
      await target.stop(); // passt keeps what moved away for as long as it runs
    }
    await target.start(options.targetArgs);
    const device = deviceOf(this.options);
    const { queues } = this.options;
    const incoming = await startGuest(target, { incoming: true, device, queues });
    this.#incoming = incoming;
    this.#guests.push(incoming);
    try {
      if (options.withoutHelper !== source.side) await source.connectHelper();
      if (options.withoutHelper !== target.side) await target.connectHelper();
      for (const guest of [incoming, this.guest]) await setUp(guest, options);
      const path = `${incoming.folder}/migration`;
      await incoming.qmp("migrate-incoming", { uri: `unix:${path}` });
      const from = await options.relay?.start(path) ?? path;
      return new Migration(this, incoming, from);
    } catch (error) {
      await incoming.stop("SIGKILL");
      throw error;
    }
  }

  /** Migrates the guest, which must succeed. */
  async migrate(options: MigrationOptions = {}): Promise<MigrationResult> {
    const migration = await this.begin(options);
    await migration.start();
    return await migration.succeed();
  }

  /**
   * Reboots the guest where it is: from inside, by the reset button, or by an end of QEMU
   * in the middle of whatever it does, and another one at the same back-end.
   */
  async reboot(how: "guest" | "reset" | "new"): Promise<void> {
    if (how !== "new") await this.guest.reboot(how);
    else {
      await this.guest.stop("SIGKILL");
      const { queues } = this.options;
      const device = deviceOf(this.options);
      this.guest = await startGuest(this.source, { device, queues });
      this.#guests.push(this.guest);
    }
    await prepare(this.guest);
    await this.streams.guestListens();
  }

  /** The guest runs in `incoming` now, on the other side. */
  moved(incoming: Guest): void {
    this.guest = incoming;
    this.#incoming = undefined;
    this.side = other(this.side);
  }

  async close(): Promise<void> {
    for (const guest of [this.guest, this.#incoming]) {
      if (guest !== undefined && !guest.stopped) await guest.stop("SIGKILL");
    }
    await this.hosts.a.stop();
    await this.hosts.b.stop();
    await this.peer.stop();
    await this.network.close();
  }

  /** All that helps to understand a failure: what every process said, of both sides. */
  report(): string {
    const guests = this.#guests.map((guest) => {
      const qemu = guest.process.output.split("\n")
        .filter((line) => !line.includes("vhost_user_")).join("\n");
      const state = guest.stopped ? "ended" : "running";
      const console = guest.stopped ? "" : guest.console().slice(-4000);
      return `-- QEMU, process ${guest.process.pid}, ${state}:\n${qemu}\n` +
        `-- its guest's console: ${console}`;
    });
    const hosts = [this.hosts.a.report(), this.hosts.b.report()];
    return [`-- the guest is at ${this.side}`, ...hosts, ...guests].join("\n");
  }
}

/** Gives a guest that has booted its addresses and services. */
async function prepare(guest: Guest): Promise<void> {
  await configure(guest);
  await guest.shell("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
}

/** The passt of trixie lacks a feature that vuelo always offers; QEMU can do without. */
function deviceOf({ from, to, device }: MigrationWorldOptions): string | undefined {
  return [from, to].some(({ kind }) => kind === "passt") ? "guest_csum=off" : device;
}

async function startGuest(
  host: Hypervisor,
  options: Partial<GuestOptions> = {},
): Promise<Guest> {
  return await Guest.start({
    socket: host.backend.socket,
    image: "base",
    megabytes: MEGABYTES,
    extra: TRACE,
    ...options,
  });
}

/** A migration under way; ends with `succeed` or `fail`. */
export class Migration {
  readonly source: MonitorEvents;
  readonly target: MonitorEvents;
  /** How long the source's trace was. */
  readonly #traced: number;

  constructor(
    readonly world: MigrationWorld,
    readonly incoming: Guest,
    readonly path: string,
  ) {
    this.#traced = world.guest.process.output.length;
    this.source = new MonitorEvents(world.guest);
    this.target = new MonitorEvents(incoming);
    // As an operator would: packets go to the target from when the guest runs there.
    const side = other(world.side);
    this.target.on("RESUME", () => void world.network.flip(side));
    if (world.source.losesLatePackets) {
      this.source.on("STOP", () => void world.network.swallow());
    }
  }

  /** How long the back-end took to save its state; undefined until it has. */
  get save(): number | undefined {
    return transferTime(this.world.guest.process.output.slice(this.#traced));
  }

  /** Waits until the back-end has saved its state, or the migration has ended. */
  async saved(): Promise<void> {
    await until("the source's back-end has saved its state", () => {
      return this.save !== undefined || this.source.isOver;
    });
    if (this.save === undefined) throw new Error("The source saved nothing");
  }

  /** Has the source's QEMU begin. */
  async start(): Promise<void> {
    await this.world.guest.qmp("migrate", { uri: `unix:${this.path}` });
  }

  /** Has the source go on that waits in pre-switchover, its guest stopped. */
  async goOn(): Promise<void> {
    await this.source.wait("pre-switchover");
    await this.world.guest.qmp("migrate-continue", { state: "pre-switchover" });
  }

  /** Cancels it. */
  async cancel(): Promise<void> {
    await this.world.guest.qmp("migrate_cancel");
  }

  /** Kills the target's QEMU and back-end, as a power cut would. */
  async killTarget(): Promise<void> {
    const { target } = this.world;
    target.backend.process.signal("SIGKILL");
    await this.incoming.stop("SIGKILL");
    await target.backend.process.status;
  }

  /** Kills the source's QEMU and back-end; nothing answers for their host any more. */
  async killSource(): Promise<void> {
    const { source, guest, network } = this.world;
    await network.swallow();
    source.backend.process.signal("SIGKILL");
    await guest.stop("SIGKILL");
    await source.backend.process.status;
  }

  /** The guest goes on at the source. */
  async stayed(qemu: QemuFigures): Promise<MigrationResult> {
    const { save } = this;
    await this.#drop();
    return { qemu, save };
  }

  /** Waits for the end, which may be one or the other. */
  async either(): Promise<MigrationResult> {
    await this.source.ended();
    const { status } = await figures(this.world.guest);
    return status === "completed" ? await this.succeed() : await this.fail();
  }

  /** Waits for the end, which must be success; the source's QEMU is ended. */
  async succeed(): Promise<MigrationResult> {
    await this.source.ended();
    const qemu = await figures(this.world.guest);
    if (qemu.status !== "completed") {
      await this.#drop();
      throw new Error(`The migration ended as ${qemu.status}: ${qemu.error}`);
    }
    await this.target.wait("RESUME");
    return await this.arrived(qemu);
  }

  /** The guest runs on the target: ends the source's QEMU. */
  async arrived(qemu: QemuFigures): Promise<MigrationResult> {
    const old = this.world.guest;
    const { save } = this;
    const load = transferTime(this.incoming.process.output);
    this.source.close();
    this.target.close();
    this.world.moved(this.incoming);
    // Once the source lets go of its sockets, whoever still sends there is refused.
    await this.world.network.leadsTo(this.world.side);
    if (!old.stopped) await old.stop();
    return { qemu, save, load };
  }

  /** Waits for the end, which must not be success; the guest goes on at the source. */
  async fail(): Promise<MigrationResult> {
    await this.source.ended();
    const result = await this.stayed(await figures(this.world.guest));
    if (result.qemu.status === "completed") throw new Error("The migration succeeded");
    return result;
  }

  async #drop(): Promise<void> {
    this.source.close();
    this.target.close();
    this.target.close(); // no late word of the target's shall flip the routes
    await this.world.network.flip(this.world.side);
    if (!this.incoming.stopped) await this.incoming.stop("SIGKILL");
  }
}
