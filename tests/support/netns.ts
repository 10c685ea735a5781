/**
 * Two network namespaces joined by a veth pair: `host`, where vuelo runs, and `peer`, the
 * rest of the world. Needs root, of the machine or of a user namespace.
 */
import { type Program, program } from "../../scripts/lab/packages.ts";
import { run } from "./lab_process.ts";

/** Addresses of one family. */
export interface Family {
  readonly name: "IPv4" | "IPv6";
  /** The host's own address, which the guest gets too. */
  readonly host: string;
  readonly prefix: number;
  /** The host's default gateway, in the peer's namespace. */
  readonly gateway: string;
  /** Where the peer serves. */
  readonly peer: string;
  /** Swallows what it gets. */
  readonly blackHole: string;
  /** For which the gateway says "host unreachable". */
  readonly unreachable: string;
}

/** Of the ranges that RFC 5737 and RFC 3849 keep for examples. */
export const IPV4: Family = {
  name: "IPv4",
  host: "192.0.2.1",
  prefix: 24,
  gateway: "192.0.2.254",
  peer: "198.51.100.2",
  blackHole: "198.51.100.99",
  unreachable: "198.51.100.98",
};
export const IPV6: Family = {
  name: "IPv6",
  host: "2001:db8:1::1",
  prefix: 64,
  gateway: "2001:db8:1::fe",
  peer: "2001:db8:2::2",
  blackHole: "2001:db8:2::99",
  unreachable: "2001:db8:2::98",
};
export const FAMILIES: readonly Family[] = [IPV4, IPV6];

let counter = 0;

/** The namespaces; names are unique on the machine. */
export class Network {
  readonly host: string;
  readonly peer: string;
  /** The interfaces of the veth pair. */
  readonly hostLink = "eth0";
  readonly peerLink = "eth0";

  private constructor(readonly ip: Program, name: string) {
    this.host = `${name}-host`;
    this.peer = `${name}-peer`;
  }

  /** Makes the namespaces, with `mtu` on the wire between them. */
  static async create(mtu = 65520): Promise<Network> {
    const network = new Network(await program("ip"), `vuelo-${Deno.pid}-${counter++}`);
    try {
      await network.#removeStale();
      await network.#build(mtu);
    } catch (error) {
      await network.close();
      throw error;
    }
    return network;
  }

  /** Changes the MTU of the wire. */
  async setMtu(mtu: number): Promise<void> {
    await this.#batch(this.host, [`link set ${this.hostLink} mtu ${mtu}`]);
    await this.#batch(this.peer, [`link set ${this.peerLink} mtu ${mtu}`]);
  }

  /** Sets a variable under /proc/sys/net in a namespace. */
  async sysctl(namespace: string, path: string, value: string): Promise<void> {
    const line = 'echo "$1" > "/proc/sys/net/$0"';
    await run(["sh", "-c", line, path, value], { namespace });
  }

  /** Removes the namespaces, with all that is in them. */
  async close(): Promise<void> {
    for (const name of [this.host, this.peer]) {
      await this.#run(["netns", "del", name]).catch(() => {});
    }
  }

  /** Removes what runs left that were killed before they could. */
  async #removeStale(): Promise<void> {
    for (
      const [name, pid] of (await this.#run(["netns"])).matchAll(/^vuelo-(\d+)-\S+/gm)
    ) {
      const alive = await Deno.stat(`/proc/${pid}`).then(() => true, () => false);
      if (!alive) await this.#run(["netns", "del", name]).catch(() => {});
    }
  }

  async #build(mtu: number): Promise<void> {
    const { host, peer, hostLink, peerLink } = this;
    for (const name of [host, peer]) {
      await this.#run(["netns", "add", name]);
      // Addresses are usable at once, without the second that detection would take.
      await this.sysctl(name, "ipv6/conf/default/accept_dad", "0");
      await this.sysctl(name, "ipv6/conf/default/accept_ra", "0");
      // Whoever runs the tests may ping, as distributions have it.
      // Each refusal is told, however many there are in a second.
      await this.sysctl(name, "ipv6/icmp/ratelimit", "0");
      await this.sysctl(name, "ipv4/icmp_ratelimit", "0");
      // With few ports that are not ephemeral, "all" of them need few descriptors.
      await this.sysctl(name, "ipv4/ip_local_port_range", "8192 65535");
      // A user namespace has no group but 0.
      const groups = "ipv4/ping_group_range";
      await this.sysctl(name, groups, "0 2147483647")
        .catch(() => this.sysctl(name, groups, "0 0"));
    }
    await this.#run(
      ["link", "add", hostLink, "mtu", `${mtu}`, "netns", host, "type", "veth"]
        .concat(["peer", "name", peerLink, "mtu", `${mtu}`, "netns", peer]),
    );
    await this.#batch(host, [
      "link set lo up",
      `link set ${hostLink} up`,
      ...FAMILIES.map((f) => `addr add ${f.host}/${f.prefix} dev ${hostLink}${nodad(f)}`),
    ]);
    await this.#batch(peer, [
      "link set lo up",
      `link set ${peerLink} up`,
      ...FAMILIES.flatMap((f) => [
        `addr add ${f.gateway}/${f.prefix} dev ${peerLink}${nodad(f)}`,
        `addr add ${f.peer} dev lo${nodad(f)}`,
        `route add blackhole ${f.blackHole}`,
        `route add unreachable ${f.unreachable}`,
      ]),
    ]);
    await this.#batch(
      host,
      FAMILIES.map((f) => `route add default via ${f.gateway} dev ${hostLink}`),
    );
    await this.sysctl(peer, "ipv4/ip_forward", "1");
    await this.sysctl(peer, "ipv6/conf/all/forwarding", "1");
  }

  async #batch(namespace: string, lines: readonly string[]): Promise<void> {
    for (const line of lines) {
      const family = line.startsWith("route") && line.includes(":") ? ["-6"] : [];
      await this.#run(["-n", namespace, ...family, ...line.split(" ")]);
    }
  }

  async #run(args: readonly string[]): Promise<string> {
    return await run([this.ip.path, ...this.ip.args, ...args], { env: this.ip.env });
  }
}

function nodad(family: Family): string {
  return family.name === "IPv6" ? " nodad" : "";
}
