/** A whole world for an end-to-end test: namespaces, peers, back-end and a guest. */
import { type Agent, Port } from "./lab_agent.ts";
import { Backend, type BackendOptions } from "./lab_backend.ts";
import { Peer } from "./lab_peer.ts";
import { until } from "./lab_process.ts";
import { IPV4, IPV6, Network } from "./netns.ts";
import { Guest, type GuestOptions } from "./qemu.ts";

/** The resolver that guests are told of, which --dns-forward leads to the peer. */
export const DNS = "192.0.2.53";
/** A name that the peer's resolver knows, with an address of each family. */
export const NAME = "peer.lab.test";

/** How a world differs from the usual one. */
export interface WorldOptions {
  /** Of the wire between the namespaces. */
  readonly wireMtu?: number;
  readonly backend?: BackendOptions;
  /** Undefined leaves the world without a guest at first. */
  readonly guest?: Omit<GuestOptions, "socket">;
  /** Whether to give the guest its addresses; true unless said otherwise. */
  readonly configure?: boolean;
}

/** All that a case works with. */
export class World {
  /** The guest; see start(). */
  guest!: Guest;

  private constructor(
    readonly network: Network,
    /** Serves in the outside world; see Port. */
    readonly peer: Peer,
    /** Acts as a program on the host. */
    readonly local: Peer,
    public backend: Backend,
    readonly options: WorldOptions,
  ) {}

  static async create(options: WorldOptions = {}): Promise<World> {
    const stack = new AsyncDisposableStack();
    try {
      const network = await Network.create(options.wireMtu);
      stack.defer(() => network.close());
      const peer = await Peer.start(network.peer, true);
      stack.defer(() => peer.stop());
      await peer.call("serve_names", { names: { [NAME]: [IPV4.peer, IPV6.peer] } });
      const local = await Peer.start(network.host, false);
      stack.defer(() => local.stop());
      const backend = await startBackend(network, options.backend);
      stack.defer(() => backend.stop());
      const world = new World(network, peer, local, backend, options);
      if (options.guest !== undefined) await explained(world, () => world.start());
      stack.move(); // the world owns it all from here
      return world;
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  }

  /** Boots the guest and gives it its addresses, unless told not to. */
  async start(): Promise<void> {
    this.guest = await Guest.start({
      socket: this.backend.socket,
      image: "base",
      ...this.options.guest,
    });
    if (this.options.configure !== false) await configure(this.guest);
  }

  /** Starts the back-end anew, with more options. */
  async restartBackend(options: BackendOptions = {}): Promise<void> {
    await this.backend.stop();
    this.backend = await startBackend(this.network, {
      ...this.options.backend,
      ...options,
    });
  }

  async close(): Promise<void> {
    const guest: Guest | undefined = this.guest;
    if (guest !== undefined && !guest.stopped) await guest.stop();
    await this.backend.stop();
    await this.local.stop();
    await this.peer.stop();
    await this.network.close();
  }

  /** What helps to understand a failure. */
  report(): string {
    const guest: Guest | undefined = this.guest;
    const console = guest === undefined || guest.stopped ? "" : guest.console();
    return `back-end:\n${this.backend.process.output.slice(-4000)}\n` +
      `guest's console:\n${console.slice(-4000)}`;
  }
}

async function startBackend(
  network: Network,
  options: BackendOptions = {},
): Promise<Backend> {
  const dns = ["--dns-forward", DNS, "--dns-host", IPV4.peer, "-D", DNS];
  const args = [...dns, ...(options.args ?? [])];
  return await Backend.start({ namespace: network.host, ...options, args });
}

/** Has the guest take its addresses: IPv4 by udhcpc, IPv6 by router advertisement. */
export async function configure(guest: Agent): Promise<void> {
  await guest.shell("ip link set eth0 up");
  await guest.shell("udhcpc -i eth0 -q -f -n -s /bin/lab-dhcp >/run/udhcpc.log 2>&1");
  await awaitIpv6(guest);
  // Like any guest, it talks over IPv6 before somebody talks to it.
  await guest.run("ping", "-c", "1", IPV6.peer);
  await guest.call("serve", {});
}

/** Waits until the guest has a global IPv6 address that passed duplicate detection. */
export async function awaitIpv6(guest: Agent): Promise<string> {
  let found: string | undefined;
  await until("an IPv6 address in the guest", async () => {
    const text = await guest.run(
      "ip",
      "-6",
      "addr",
      "show",
      "dev",
      "eth0",
      "scope",
      "global",
    );
    const line = text.split("\n").find((l) =>
      l.includes("inet6") && !l.includes("tentative")
    );
    found = line?.trim().split(/\s+/)[1];
    return found !== undefined;
  });
  return found!;
}

/** One thing that must hold, tried in a world that many cases share. */
export interface Case {
  readonly name: string;
  readonly run: (world: World) => Promise<void>;
}

/**
 * A test of many cases as steps in one world. A failure's message ends with what the
 * back-end and the guest's console said.
 */
export function e2e(name: string, options: WorldOptions, cases: readonly Case[]): void {
  Deno.test({
    name,
    // The world's processes and links outlive a step, and end with the test.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async (test) => {
      const world = await World.create(options);
      try {
        for (const entry of cases) {
          await test.step({
            name: entry.name,
            sanitizeOps: false,
            sanitizeResources: false,
            fn: () => explained(world, entry.run),
          });
        }
      } finally {
        await world.close();
      }
    },
  });
}

/** Runs `work` and adds the world's report to the error it throws. */
async function explained(
  world: World,
  work: (world: World) => Promise<void>,
): Promise<void> {
  try {
    await work(world);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(`${message}\n${world.report()}`, { cause: error });
  }
}

export { Port };
