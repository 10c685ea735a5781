/**
 * DPDK as the frontend: testpmd forwards between virtio-user, which is connected to
 * vuelo, and a tap device in a namespace, whose programs so are the guest.
 */
import { testpmd } from "../../scripts/lab/frontends.ts";
import {
  onPath,
  type Program,
  program,
  provide,
  SETS,
} from "../../scripts/lab/packages.ts";
import { awaitIpv6 } from "./lab.ts";
import { Peer } from "./lab_peer.ts";
import { Process, run } from "./lab_process.ts";

const LINK = "eth0";
const MAC = "52:54:00:12:34:57";

/** What udhcpc runs; the host's resolv.conf stays as it is. */
const DHCP_SCRIPT = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router" dev "$interface"
`;
/** Programs of busybox that the guest uses. */
const APPLETS = ["ip", "ping", "udhcpc"];

/**
 * A full ring makes the guest wait, as with any driver of a kernel; testpmd left to itself
 * throws away what finds no room.
 */
const WAIT_FOR_ROOM = (mode: string) => [
  `set fwd ${mode} retry`,
  "set burst tx delay 10 retry 1000000",
];
/** Frames that wait for testpmd, more than a window of TCP. */
const QUEUE_LENGTH = "10000";

let counter = 0;

/** How testpmd is run. */
export interface TestpmdOptions {
  /** Arguments of the device, such as "mrg_rxbuf=0". */
  readonly device?: string;
  /** Forwarding mode, "io" unless said otherwise. */
  readonly mode?: string;
  /** Options of testpmd itself. */
  readonly args?: readonly string[];
  /** Commands that it executes first. */
  readonly commands?: readonly string[];
}

/** A namespace whose only link is a tap device that testpmd makes. */
export class DpdkGuest {
  #testpmd: Process | undefined;

  private constructor(
    readonly namespace: string,
    readonly agent: Peer,
    readonly folder: string,
    private readonly ip: Program,
  ) {}

  static async create(): Promise<DpdkGuest> {
    const namespace = `vuelo-${Deno.pid}-dpdk${counter++}`;
    const ip = await program("ip");
    const make = [ip.path, ...ip.args, "netns", "add", namespace];
    await run(make, { env: ip.env });
    // Addresses come at once, and are usable at once.
    const settings = ["accept_dad", "router_solicitation_delay"]
      .map((name) => `echo 0 > /proc/sys/net/ipv6/conf/default/${name}`);
    settings.push("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range || true");
    await run(["sh", "-c", settings.join(" && ")], { namespace });
    const folder = await Deno.makeTempDir({ prefix: "vuelo-dpdk-" });
    await Deno.writeTextFile(`${folder}/dhcp`, DHCP_SCRIPT, { mode: 0o755 });
    const busybox = onPath("busybox") ?? `${await provide(SETS.guest)}/usr/bin/busybox`;
    for (const name of APPLETS) await Deno.symlink(busybox, `${folder}/${name}`);
    const PATH = `${folder}:${Deno.env.get("PATH") ?? ""}`;
    const agent = await Peer.start(namespace, false, { PATH });
    return new DpdkGuest(namespace, agent, folder, ip);
  }

  /** All that testpmd said. */
  get output(): string {
    return this.#testpmd?.output ?? "";
  }

  /** Starts testpmd on vuelo's socket and waits until it forwards. */
  async start(socket: string, options: TestpmdOptions = {}): Promise<void> {
    const { path, args, env } = await testpmd();
    const cpus = /Cpus_allowed_list:\s*(\S+)/.exec(
      await Deno.readTextFile("/proc/self/status"),
    )?.[1];
    const device = options.device === undefined ? "" : `,${options.device}`;
    const argv = [path, ...args, `--lcores=(0-1)@(${cpus})`, "--no-huge", "-m", "256"];
    argv.push("--no-shconf", "--no-telemetry", "--no-pci");
    argv.push(`--vdev=net_virtio_user0,path=${socket},mac=${MAC}${device}`);
    argv.push(`--vdev=net_tap0,iface=${LINK},mac=${MAC}`, "--");
    argv.push("--auto-start", "--stats-period=1", "--total-num-mbufs=4096");
    const commands = `${this.folder}/commands`;
    const lines = [...WAIT_FOR_ROOM(options.mode ?? "io"), ...options.commands ?? []];
    await Deno.writeTextFile(commands, lines.join("\n") + "\n");
    argv.push(`--cmdline-file=${commands}`, ...options.args ?? []);
    this.#testpmd = new Process(argv, { namespace: this.namespace, env });
    await this.#testpmd.says(/forwarding with retry - ports=2/);
  }

  /** Ends testpmd; the link goes with it. */
  async stop(signal?: Deno.Signal): Promise<void> {
    await this.#testpmd?.stop(signal);
    this.#testpmd = undefined;
  }

  /** Gets the link its addresses: IPv4 by udhcpc, IPv6 by router advertisement. */
  async configure(): Promise<void> {
    const script = `${this.folder}/dhcp`;
    // It was up before anything was forwarded: what it sent on that is lost.
    await this.#iproute("link", "set", LINK, "txqueuelen", QUEUE_LENGTH, "down");
    await this.agent.run("ip", "link", "set", LINK, "up");
    await this.agent.run("udhcpc", "-i", LINK, "-q", "-f", "-n", "-s", script);
    await awaitIpv6(this.agent);
  }

  /** Ends everything and removes the namespace. */
  async close(): Promise<void> {
    await this.stop();
    await this.agent.stop();
    const remove = [this.ip.path, ...this.ip.args, "netns", "del", this.namespace];
    await run(remove, { env: this.ip.env });
    await Deno.remove(this.folder, { recursive: true });
  }

  /** For what busybox does by calls that only the machine's own root may make. */
  async #iproute(...args: readonly string[]): Promise<void> {
    const { path, args: before, env } = this.ip;
    await run([path, ...before, "-n", this.namespace, ...args], { env });
  }
}
