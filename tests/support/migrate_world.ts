/** Two hypervisors, an outside world, and a guest that moves between the two. */
import { configure } from "./lab.ts";
import { Peer } from "./lab_peer.ts";
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
}

/** How one migration differs from the usual one. */
export interface MigrationOptions {
  /** More capabilities of QEMU, such as pause-before-switchover. */
  readonly capabilities?: readonly string[];
  /** Between the two QEMUs. */
  readonly relay?: Relay;
  /** More options of the target's back-end. */
  readonly targetArgs?: readonly string[];
  /** Leave out a helper. */
  readonly withoutHelper?: Side;
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

  private constructor(
    readonly options: MigrationWorldOptions,
    readonly network: MigrationNetwork,
    readonly hosts: Readonly<Record<Side, Hypervisor>>,
    readonly peer: Peer,
    /** The guest, by the QEMU in which it runs. */
    public guest: Guest,
  ) {
    this.streams = new Streams(() => this.guest, () => this.peer);
  }

  /** Makes it all, and boots a guest on hypervisor a. */
  static async create(options: MigrationWorldOptions): Promise<MigrationWorld> {
    const stack = new AsyncDisposableStack();
    try {
      const network = await MigrationNetwork.create(options.mtu ?? 65520);
      stack.defer(() => network.close());
      const peer = await Peer.start(network.outside, true);
      stack.defer(() => peer.stop());
      const hosts = {
        a: new Hypervisor("a", network.host("a"), options.from),
        b: new Hypervisor("b", network.host("b"), options.to),
      };
      stack.defer(() => hosts.a.stop());
      stack.defer(() => hosts.b.stop());
      await hosts.a.start();
      const guest = await startGuest(hosts.a);
      stack.defer(() => guest.stop());
      await configure(guest);
      const world = new MigrationWorld(options, network, hosts, peer, guest);
      await world.streams.listen();
      stack.move(); // the world owns it all from here
      return world;
    } catch (error) {
      await stack.disposeAsync();
      throw error;
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
    const incoming = await startGuest(target, { incoming: true });
    try {
      if (options.withoutHelper !== source.side) await source.connectHelper();
      if (options.withoutHelper !== target.side) await target.connectHelper();
      await setUp(incoming, options.capabilities ?? []);
      await setUp(this.guest, options.capabilities ?? []);
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

  /** The guest runs in `incoming` now, on the other side. */
  moved(incoming: Guest): void {
    this.guest = incoming;
    this.side = other(this.side);
  }

  async close(): Promise<void> {
    if (!this.guest.stopped) await this.guest.stop("SIGKILL");
    await this.hosts.a.stop();
    await this.hosts.b.stop();
    await this.peer.stop();
    await this.network.close();
  }

  /** What helps to understand a failure. */
  report(): string {
    const hosts = [this.hosts.a.report(), this.hosts.b.report()].join("\n");
    const console = this.guest.stopped ? "" : this.guest.console().slice(-2000);
    const qemu = this.guest.process.output.split("\n")
      .filter((line) => !line.includes("vhost_user_")).join("\n").slice(-1500);
    return `${hosts}\nQEMU: ${qemu}\nguest's console: ${console}`;
  }
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

  constructor(
    readonly world: MigrationWorld,
    readonly incoming: Guest,
    readonly path: string,
  ) {
    this.source = new MonitorEvents(world.guest);
    this.target = new MonitorEvents(incoming);
    // As an operator would: packets go to the target from when the guest runs there.
    const side = other(world.side);
    this.target.on("RESUME", () => void world.network.flip(side));
  }

  /** Has the source's QEMU begin. */
  async start(): Promise<void> {
    await this.world.guest.qmp("migrate", { uri: `unix:${this.path}` });
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
    const [save, load] = [old, this.incoming].map((g) => transferTime(g.process.output));
    this.source.close();
    this.target.close();
    this.world.moved(this.incoming);
    if (!old.stopped) await old.stop();
    return { qemu, save, load };
  }

  /** Waits for the end, which must not be success; the guest goes on at the source. */
  async fail(): Promise<MigrationResult> {
    await this.source.ended();
    const qemu = await figures(this.world.guest);
    const save = transferTime(this.world.guest.process.output);
    await this.#drop();
    if (qemu.status === "completed") throw new Error("The migration succeeded");
    return { qemu, save };
  }

  async #drop(): Promise<void> {
    this.source.close();
    this.target.close();
    if (!this.incoming.stopped) await this.incoming.stop("SIGKILL");
  }
}
