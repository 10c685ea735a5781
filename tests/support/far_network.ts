/**
 * A third namespace behind the peer's, which routes: for time exceeded and path MTU. The
 * link to it carries less than the one between host and peer.
 */
import type { Network } from "./netns.ts";
import { run } from "./lab_process.ts";

/** MTU of the link behind the router. */
export const FAR_MTU = 1400;
/** Addresses of the far host (RFC 5737, RFC 3849) and of the router's side of the link. */
export const FAR = {
  IPv4: { host: "203.0.113.2", router: "203.0.113.1", prefix: 24, any: "0.0.0.0/0" },
  IPv6: { host: "2001:db8:3::2", router: "2001:db8:3::1", prefix: 64, any: "::/0" },
} as const;

export class FarNetwork {
  readonly name: string;
  readonly #network: Network;

  private constructor(network: Network) {
    this.#network = network;
    this.name = network.host.replace(/host$/, "far");
  }

  static async create(network: Network): Promise<FarNetwork> {
    const far = new FarNetwork(network);
    try {
      await far.#build();
    } catch (error) {
      await far.close();
      throw error;
    }
    return far;
  }

  async #build(): Promise<void> {
    const { name } = this;
    const { peer } = this.#network;
    await this.#ip("netns", "add", name);
    const ends = ["name", "far0", "mtu", `${FAR_MTU}`, "netns", peer, "type", "veth"];
    const other = ["peer", "name", "far0", "mtu", `${FAR_MTU}`, "netns", name];
    await this.#ip("link", "add", ...ends, ...other);
    await this.#ip("-n", name, "link", "set", "lo", "up");
    for (const where of [peer, name]) {
      await this.#ip("-n", where, "link", "set", "far0", "up");
      for (const { host, router, prefix } of Object.values(FAR)) {
        const address = `${where === peer ? router : host}/${prefix}`;
        const nodad = address.includes(":") ? ["nodad"] : [];
        await this.#ip("-n", where, "addr", "add", address, "dev", "far0", ...nodad);
      }
    }
    for (const { router, any } of Object.values(FAR)) {
      await this.#ip("-n", name, "route", "add", any, "via", router);
    }
  }

  async #ip(...args: string[]): Promise<void> {
    const { ip } = this.#network;
    await run([ip.path, ...ip.args, ...args], { env: ip.env });
  }

  async close(): Promise<void> {
    await this.#ip("netns", "del", this.name).catch(() => {});
  }
}
