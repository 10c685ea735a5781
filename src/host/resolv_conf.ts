/** What resolv.conf(5) says: resolvers and search domains. */
import { parseAddress } from "../wire/address.ts";

/** Resolvers and search domains (resolv.conf(5)). */
export interface ResolvConf {
  /** Resolvers in order, 16 bytes each, as the host uses them. */
  readonly nameservers: readonly Uint8Array[];
  readonly search: readonly string[];
}

/** MAXNS of the resolver: later lines are ignored there, too. */
const MAX_NAMESERVERS = 3;
const MAX_SEARCH = 32;

/**
 * Reads the text of a resolv.conf. A resolver with a zone (`fe80::1%eth0`) is left out:
 * the guest is on another link. The last `search` or `domain` line counts.
 */
export function parseResolvConf(text: string): ResolvConf {
  const nameservers: Uint8Array[] = [];
  let search: readonly string[] = [];
  for (const line of text.split("\n")) {
    if (/^[;#]/.test(line)) continue;
    const [keyword, ...values] = line.trim().split(/[ \t]+/);
    if (keyword === "nameserver") {
      const address = parseAddress(values[0] ?? "");
      if (address !== undefined && nameservers.length < MAX_NAMESERVERS) {
        nameservers.push(address);
      }
    } else if (keyword === "search") {
      search = values.filter(isDomain).slice(0, MAX_SEARCH);
    } else if (keyword === "domain") {
      search = values.slice(0, 1).filter(isDomain);
    }
  }
  return { nameservers, search };
}

/** A name as RFC 1035, section 2.3.4 bounds it, with the characters that hosts use. */
export function isDomain(name: string): boolean {
  const bare = name.endsWith(".") ? name.slice(0, -1) : name;
  return bare.length <= 253 &&
    bare.split(".").every((label) => /^[a-z0-9_](?:[a-z0-9_-]{0,62})$/i.test(label));
}
