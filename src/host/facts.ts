/** What the host says about itself, read once at start. */
import { type Dump, readHost } from "./routes.ts";
import { parseResolvConf, type ResolvConf } from "./resolv_conf.ts";

/** What is asked of the host before options are judged. */
export interface HostFacts {
  readonly network: Dump;
  readonly resolvConf: ResolvConf;
  /** First and last port that the host gives out by itself. */
  readonly ephemeral: readonly [first: number, last: number];
}

/** Linux's default, for a host without /proc. */
const DEFAULT_EPHEMERAL = [32768, 60999] as const;

/**
 * Reads interfaces, addresses and routes, resolvers and the ephemeral ports.
 *
 * @throws {SyscallError} if the kernel doesn't tell its routes
 */
export function readFacts(): HostFacts {
  return {
    network: readHost(),
    resolvConf: parseResolvConf(readText("/etc/resolv.conf")),
    ephemeral: parseEphemeral(readText("/proc/sys/net/ipv4/ip_local_port_range")),
  };
}

function parseEphemeral(text: string): HostFacts["ephemeral"] {
  const [first, last] = text.trim().split(/\s+/).map(Number);
  const valid = Number.isInteger(first) && first >= 1 && first <= last && last <= 65535;
  return valid ? [first, last] : DEFAULT_EPHEMERAL;
}

/** Text of a file; none if it can't be read, which for these files is like an empty one. */
function readText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
