/** Answers of rtnetlink (src/host/netlink.ts). */
import { type Dump, readDump } from "../../../src/host/netlink.ts";
import golden from "../../golden/netlink.json" with { type: "json" };
import type { Target } from "../engine/target.ts";

const CAPTURED = [...golden.address, ...golden.route4, ...golden.route6]
  .map((hex) => Uint8Array.fromHex(hex));
const SHORTEST_MESSAGE = 16;

function sized(what: string, ...addresses: readonly (Uint8Array | undefined)[]): void {
  for (const address of addresses) {
    if (address !== undefined && address.length !== 16) {
      throw new Error(`${what} of ${address.length} bytes`);
    }
  }
}

const target: Target = {
  maxLength: 1500,
  seeds: CAPTURED,
  run(input) {
    const dump: Dump = { links: [], addresses: [], routes: [] };
    readDump(input, dump);
    const { links, addresses, routes } = dump;
    const entries = links.length + addresses.length + routes.length;
    // A multipath route has several next hops in one message, of 8 bytes each.
    if (entries > input.length / 8) {
      throw new Error(`${entries} of ${input.length} bytes`);
    }
    if (links.length > input.length / SHORTEST_MESSAGE) throw new Error("too many links");
    for (const { address, prefixLength } of addresses) {
      sized("address", address);
      if (!(prefixLength >= 0 && prefixLength <= 255)) throw new Error("prefix length");
    }
    for (const { destination, gateway } of routes) sized("route", destination, gateway);
  },
};
export default target;
