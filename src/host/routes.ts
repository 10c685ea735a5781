/** The host's interfaces, addresses and routes, asked for over rtnetlink. */
import { netlinkRequest } from "../../ffi/netlink.ts";
import {
  AF_INET,
  AF_INET6,
  type Dump,
  dumpRequest,
  DumpType,
  type InterfaceAddress,
  readDump,
  type Route,
} from "./netlink.ts";
import { isIPv4, isLinkLocal, isLoopback } from "../wire/address.ts";

export type { Dump, InterfaceAddress, Route } from "./netlink.ts";

/** Where a guest's addresses of one family come from. */
export interface Template {
  readonly interface: string;
  /** The interface's address for the outside, if it has one. */
  readonly address?: InterfaceAddress;
  /** The interface's link-local IPv6 address. */
  readonly linkLocal?: Uint8Array;
  readonly gateway?: Uint8Array;
}

const RT_SCOPE_UNIVERSE = 0;

/**
 * Reads the host's interfaces, addresses and routes, as the calling process sees them
 * in its network namespace.
 *
 * @throws {SyscallError} if the kernel doesn't answer
 */
export function readHost(): Dump {
  const dump: Dump = { links: [], addresses: [], routes: [] };
  const ask = (type: number, family?: number) =>
    netlinkRequest(dumpRequest(type, family), (datagram) => readDump(datagram, dump));
  ask(DumpType.link);
  ask(DumpType.address);
  ask(DumpType.route, AF_INET);
  ask(DumpType.route, AF_INET6);
  return dump;
}

/**
 * The interface that a guest's addresses are taken from, as passt chooses it: that of
 * the first default route; without one, the first that has a route at all.
 *
 * @param name the interface to use, if the user said so
 * @return undefined if the host has none of that family
 */
export function findTemplate(
  dump: Dump,
  family: typeof AF_INET | typeof AF_INET6,
  name?: string,
): Template | undefined {
  const routes = dump.routes.filter((route) =>
    route.family === family && isGlobal(route)
  );
  const wanted = name === undefined
    ? undefined
    : dump.links.find((link) => link.name === name)?.index;
  if (name !== undefined && wanted === undefined) return undefined;
  const loopbacks = new Set(
    dump.links.filter((link) => link.loopback).map(({ index }) => index),
  );
  const candidates = routes.filter(({ index }) =>
    wanted === undefined ? index !== 0 && !loopbacks.has(index) : index === wanted
  );
  const defaultRoute = candidates.find(({ prefixLength }) => prefixLength === 0);
  const route = defaultRoute ?? candidates[0];
  if (route === undefined && wanted === undefined) return undefined;
  const index = wanted ?? route.index;
  const link = dump.links.find((link) => link.index === index);
  if (link === undefined) return undefined;
  const own = dump.addresses.filter((entry) =>
    entry.index === index && isIPv4(entry.address) === (family === AF_INET)
  );
  return {
    interface: link.name,
    address: bestAddress(own),
    linkLocal: own.find(({ address }) => !isIPv4(address) && isLinkLocal(address))
      ?.address,
    gateway: defaultRoute?.gateway,
  };
}

/** Every interface has routes to link-local addresses; they say nothing. */
function isGlobal(route: Route): boolean {
  return route.destination === undefined || isIPv4(route.destination) ||
    !isLinkLocal(route.destination);
}

/** The first that is meant for the outside; the kernel lists primary ones first. */
function bestAddress(own: readonly InterfaceAddress[]): InterfaceAddress | undefined {
  const outside = own.filter(({ address, scope }) =>
    !isLoopback(address) && (isIPv4(address) || scope === RT_SCOPE_UNIVERSE)
  );
  return outside.find(({ usable, scope }) => usable && scope === RT_SCOPE_UNIVERSE) ??
    outside.find(({ usable }) => usable) ?? outside[0];
}
