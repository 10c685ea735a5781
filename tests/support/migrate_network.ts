/**
 * Three network namespaces: two hypervisors that have the same addresses, and the outside
 * world, whose routes lead to one of the two and are flipped when the guest has moved.
 */
import { type Program, program } from "../../scripts/lab/packages.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { Process, run, until } from "./lab_process.ts";
import { FAMILIES, type Family, IPV6 } from "./netns.ts";

/** Which of the two hypervisors. */
export type Side = "a" | "b";

/** The other hypervisor. */
export function other(side: Side): Side {
  return side === "a" ? "b" : "a";
}

let counter = 0;

/** The namespaces; `netns.ts` removes those of test runs that were killed. */
export class MigrationNetwork {
  readonly outside: string;
  /** Where the outside world's routes lead. */
  side: Side = "a";
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;

  private constructor(
    readonly ip: Program,
    readonly name: string,
    readonly router: Process,
  ) {
    this.outside = `${name}-out`;
    this.#writer = router.stdin.getWriter();
  }

  /** Makes them, with `mtu` on the wires. */
  static async create(mtu: number): Promise<MigrationNetwork> {
    const ip = await program("ip");
    const name = `vuelo-${Deno.pid}-migrate${counter++}`;
    const batch = async (namespace: string, lines: readonly string[]) => {
      const file = await Deno.makeTempFile({ prefix: "vuelo-ip-" });
      await Deno.writeTextFile(file, lines.join("\n") + "\n");
      const args = [...ip.args, "-n", namespace, "-batch", file];
      await run([ip.path, ...args], { env: ip.env }).finally(() => Deno.remove(file));
    };
    try {
      await build(ip, name, mtu, batch);
    } catch (error) {
      await remove(ip, name);
      throw error;
    }
    // One that runs already flips the routes within a millisecond.
    const router = new Process([ip.path, ...ip.args, "-batch", "-"], {
      namespace: `${name}-out`,
      env: ip.env,
      piped: true,
    });
    return new MigrationNetwork(ip, name, router);
  }

  /** The namespace of a hypervisor. */
  host(side: Side): string {
    return `${this.name}-${side}`;
  }

  /** Leads what goes to the guest's addresses to `side` from now on. */
  async flip(side: Side): Promise<void> {
    this.side = side;
    const lines = FAMILIES.map((family) => route(family, side) + "\n").join("");
    await this.#writer.write(new TextEncoder().encode(lines));
  }

  /** Waits until routes lead to `side`: those of IPv6 are turned last. */
  async leadsTo(side: Side): Promise<void> {
    const address = parseAddress(IPV6.host) as Uint8Array;
    const start = `${encodeHex(address)} 80 `;
    await until(`routes lead to ${side}`, async () => {
      const table = await Deno.readTextFile(`/proc/${this.router.pid}/net/ipv6_route`);
      return table.split("\n").some((line) =>
        line.startsWith(start) && line.endsWith(` to-${side}`)
      );
    });
  }

  /**
   * What goes to the guest's addresses is lost until the next flip, as when the source's
   * host is gone.
   */
  async swallow(): Promise<void> {
    const lines = FAMILIES.map((family) =>
      `route replace ${family.host}/${width(family)} dev hole src ${family.peer}\n`
    );
    await this.#writer.write(new TextEncoder().encode(lines.join("")));
  }

  /** Runs `ip` in a namespace. */
  async command(namespace: string, ...words: string[]): Promise<void> {
    const { path, args, env } = this.ip;
    await run([path, ...args, "-n", namespace, ...words], { env });
  }

  /** Sets a variable under /proc/sys/net in a namespace. */
  async sysctl(namespace: string, path: string, value: string): Promise<void> {
    await run(["sh", "-c", 'echo "$1" > "/proc/sys/net/$0"', path, value], { namespace });
  }

  /** Removes the namespaces, with all that is in them. */
  async close(): Promise<void> {
    await this.#writer.close();
    await this.router.stop();
    await this.router.stdout.cancel();
    await remove(this.ip, this.name);
  }
}

async function remove(ip: Program, name: string): Promise<void> {
  for (const part of ["a", "b", "out"]) {
    const args = [...ip.args, "netns", "del", `${name}-${part}`];
    await run([ip.path, ...args], { env: ip.env }).catch(() => {});
  }
}

const SYSCTL = [
  "ipv4/conf/all/rp_filter=0",
  "ipv4/conf/default/rp_filter=0",
  "ipv6/conf/default/accept_dad=0",
  "ipv6/conf/default/accept_ra=0",
  "ipv4/icmp_ratelimit=0",
  "ipv6/icmp/ratelimit=0",
];

/** Whoever runs the tests may ping; a user namespace has no group but 0. */
const PREPARE = 'cd /proc/sys/net && for entry in "$@"; do ' +
  'echo "${entry#*=}" > "${entry%%=*}"; done; ' +
  "echo 0 2147483647 > ipv4/ping_group_range 2>/dev/null || " +
  "echo 0 0 > ipv4/ping_group_range";

async function build(
  ip: Program,
  name: string,
  mtu: number,
  batch: (namespace: string, lines: readonly string[]) => Promise<void>,
): Promise<void> {
  const outside = `${name}-out`;
  for (const part of ["a", "b", "out"]) {
    const namespace = `${name}-${part}`;
    await run([ip.path, ...ip.args, "netns", "add", namespace], { env: ip.env });
    await run(["sh", "-c", PREPARE, "sh", ...SYSCTL], { namespace });
  }
  for (const side of ["a", "b"]) {
    const namespace = `${name}-${side}`;
    await batch(outside, [
      `link add to-${side} mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${namespace}`,
      `link set to-${side} up`,
      ...FAMILIES.map((f) =>
        `addr add ${f.gateway}/${width(f)} dev to-${side}${nodad(f)}`
      ),
    ]);
    await batch(namespace, [
      "link set lo up",
      "link set eth0 up",
      ...FAMILIES.map((f) => `addr add ${f.host}/${f.prefix} dev eth0${nodad(f)}`),
      ...FAMILIES.map((f) => `route add default via ${f.gateway} dev eth0`),
    ]);
  }
  await batch(outside, [
    "link set lo up",
    ...FAMILIES.map((f) => `addr add ${f.peer} dev lo${nodad(f)}`),
    "link add hole type veth peer name bottom",
    "link set bottom up",
    "link set hole up",
    ...FAMILIES.map((f) => `neigh add ${f.host} lladdr 02:00:00:00:00:01 dev hole`),
    ...FAMILIES.map((f) => route(f, "a")),
  ]);
}

function encodeHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Connections to the guest come from the peer's address, not from the gateway's. */
function route(family: Family, side: Side): string {
  return `route replace ${family.host}/${
    width(family)
  } dev to-${side} src ${family.peer}`;
}

function width(family: Family): number {
  return family === IPV6 ? 128 : 32;
}

function nodad(family: Family): string {
  return family === IPV6 ? " nodad" : "";
}
