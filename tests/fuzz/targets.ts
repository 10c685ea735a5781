/** The targets by name; the code of each is loaded when it is asked for. */
import type { Target } from "./engine/target.ts";

/** Names of the files in targets/. */
export const TARGETS: readonly string[] = [
  "arp",
  "configure",
  "datagrams",
  "device",
  "dhcpv4",
  "dhcpv6",
  "dirty_log",
  "icmp_error",
  "inspect",
  "ndp",
  "netlink",
  "offloads",
  "options",
  "packed_ring",
  "packet",
  "ports",
  "repair",
  "resolv_conf",
  "split_ring",
  "state",
  "tcp",
  "vhost_user",
  "wire",
];

/** @throws {TypeError} if there is no such target */
export async function loadTarget(name: string): Promise<Target> {
  const module = await import(new URL(`targets/${name}.ts`, import.meta.url).href);
  return module.default as Target;
}
