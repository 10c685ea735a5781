/** Addresses, gateways, resolvers and mappings of IPv4 and IPv6, from options and host. */
import type { FamilyConfig } from "../config.ts";
import { UsageError } from "../errors.ts";
import type { HostFacts } from "../host/facts.ts";
import { findTemplate, type Template } from "../host/routes.ts";
import {
  isIPv4,
  isLinkLocal,
  isLoopback,
  isUnspecified,
  parseAddress,
  sameAddress,
} from "../wire/address.ts";
import type { OptionName } from "./options.ts";
import type { OptionValue, ParsedOptions } from "./parse_options.ts";
import {
  checkFamily,
  type Families,
  readAddress,
  readNetmask,
  readPrefix,
} from "./values.ts";

/** What {@link configureFamilies} finds. */
export interface FamilyResult {
  readonly ip4?: FamilyConfig;
  readonly ip6?: FamilyConfig;
  readonly ourLinkLocal: Uint8Array;
  /** False if IPv4 has no gateway to name: passt then serves no DHCP. */
  readonly dhcp: boolean;
  readonly warnings: readonly string[];
}

const AF_INET = 2;
const AF_INET6 = 10;

/** Where the host has no interface to copy, as passt has them. */
const LOCAL_IP4 = address("169.254.2.1");
const LOCAL_IP4_LENGTH = 16;
const LOCAL_GATEWAY4 = address("169.254.2.2");
const LOCAL_GATEWAY6 = address("fe80::1");
const NO_IP4 = address("0.0.0.0");
const NO_IP6 = address("::");
/** SLAAC needs prefixes of this length (RFC 4862, section 5.5.3). */
const SLAAC_LENGTH = 64;

/** One family's view of the options: what was said for it, else what the host has. */
interface Context {
  readonly options: ParsedOptions;
  readonly host: HostFacts;
  readonly families: Families;
  readonly ip4: boolean;
  readonly template?: Template;
  readonly warnings: string[];
}

/**
 * Fills in both families as far as -4 and -6 leave them.
 *
 * @throws {UsageError} naming the option whose value is wrong or contradicts another
 */
export function configureFamilies(
  options: ParsedOptions,
  host: HostFacts,
  families: Families,
): FamilyResult {
  const warnings: string[] = [];
  const context = (ip4: boolean): Context => ({
    options,
    host,
    families,
    ip4,
    warnings,
    template: template(options, host, families, ip4),
  });
  checkBothFamilies(options, families);
  const four = families.ip4 ? context(true) : undefined;
  const six = families.ip6 ? context(false) : undefined;
  const gateway4 = four && gateway(four, LOCAL_GATEWAY4, NO_IP4);
  const gateway6 = six && gateway(six, LOCAL_GATEWAY6, NO_IP6);
  const ourLinkLocal = gateway6 !== undefined && isLinkLocal(gateway6)
    ? gateway6
    : six?.template?.linkLocal ?? LOCAL_GATEWAY6;
  const noGateway4 = gateway4 !== undefined && isUnspecified(gateway4);
  if (noGateway4) {
    warnings.push("no IPv4 gateway, so no DHCP: give one with --gateway");
  }
  return {
    ...four && gateway4
      ? { ip4: family(four, gateway4, noGateway4 ? LOCAL_GATEWAY4 : gateway4) }
      : {},
    ...six && gateway6 ? { ip6: family(six, gateway6, ourLinkLocal) } : {},
    ourLinkLocal,
    dhcp: !noGateway4,
    warnings,
  };
}

function address(text: string): Uint8Array {
  const bytes = parseAddress(text);
  if (bytes === undefined) throw new Error(text);
  return bytes;
}

/** Every value is checked, whichever family it is of, before families are filled in. */
function checkBothFamilies(options: ParsedOptions, families: Families): void {
  for (const value of options.all("address")) readPrefix(value, families);
  for (const name of ["gateway", "outbound", "dns-forward"] as const) {
    for (const value of options.all(name)) readAddress(value, families, "no loopback");
  }
  for (const value of options.all("dns-host")) {
    readAddress(value, families, "loopback too");
  }
  for (const [name, scope] of LISTS) {
    for (const value of options.all(name)) {
      if (value.text !== "none") readAddress(value, families, scope);
    }
  }
  for (const value of options.all("outbound-if4")) checkFamily(value, true, families);
  for (const value of options.all("outbound-if6")) checkFamily(value, false, families);
  const netmask = options.last("netmask");
  if (netmask === undefined) return;
  readNetmask(netmask);
  checkFamily(netmask, true, families);
  const prefixed = options.all("address").findLast((value) =>
    isIPv4(readPrefix(value, families).address)
  );
  if (prefixed?.text.includes("/")) {
    throw new UsageError(
      netmask.written,
      `contradicts the length in ${prefixed.written}`,
    );
  }
}

const LISTS = [
  ["dns", "loopback too"],
  ["map-host-loopback", "no loopback"],
  ["map-guest-addr", "no loopback"],
] as const;

/** The interface to copy, if the host has one with an address of this family. */
function template(
  options: ParsedOptions,
  host: HostFacts,
  families: Families,
  ip4: boolean,
): Template | undefined {
  const outbound = options.last(ip4 ? "outbound-if4" : "outbound-if6");
  const named = options.last("interface") ?? outbound;
  for (const value of [named, outbound]) {
    if (value === undefined || !(ip4 ? families.ip4 : families.ip6)) continue;
    if (!host.network.links.some(({ name }) => name === value.text)) {
      throw new UsageError(value.written, "the host has no such interface");
    }
  }
  const found = findTemplate(host.network, ip4 ? AF_INET : AF_INET6, named?.text);
  return found?.address === undefined ? undefined : found;
}

/** The last value of an option that is of the context's family. */
function own(
  context: Context,
  name: OptionName,
  loopback: "loopback too" | "no loopback",
): Uint8Array | undefined {
  return context.options.all(name)
    .map((value) => readAddress(value, context.families, loopback))
    .findLast((address) => isIPv4(address) === context.ip4);
}

/** Likewise for options that `none` clears. */
function ownOrNone(
  context: Context,
  name: OptionName,
): { addresses: Uint8Array[]; none: boolean } {
  let addresses: Uint8Array[] = [];
  let none = false;
  for (const value of context.options.all(name)) {
    if (value.text === "none") {
      addresses = [];
      none = true;
      continue;
    }
    const address = readAddress(value, context.families, "loopback too");
    if (isIPv4(address) === context.ip4) addresses.push(address);
  }
  return { addresses, none };
}

function gateway(context: Context, local: Uint8Array, none: Uint8Array): Uint8Array {
  const given = own(context, "gateway", "no loopback");
  if (given !== undefined) return given;
  return context.template === undefined ? local : context.template.gateway ?? none;
}

function family(
  context: Context,
  gateway: Uint8Array,
  ourAddress: Uint8Array,
): FamilyConfig {
  const { options, ip4, template } = context;
  const mapHostLoopback = mapping(context, gateway);
  const mapGuestAddress = ownOrNone(context, "map-guest-addr").addresses.at(-1);
  const outbound = own(context, "outbound", "no loopback");
  const outboundInterface = options.last(ip4 ? "outbound-if4" : "outbound-if6")?.text;
  return {
    ...guestAddress(context, template),
    gateway,
    ourAddress,
    ...resolvers(context, mapHostLoopback),
    ...mapHostLoopback === undefined ? {} : { mapHostLoopback },
    ...mapGuestAddress === undefined ? {} : { mapGuestAddress },
    ...outbound === undefined ? {} : { outbound },
    ...outboundInterface === undefined ? {} : { outboundInterface },
  };
}

function guestAddress(
  context: Context,
  template: Template | undefined,
): Pick<FamilyConfig, "address" | "prefixLength"> {
  const { options, families, ip4 } = context;
  const netmask = options.last("netmask");
  const mask = ip4 && netmask !== undefined ? readNetmask(netmask) : undefined;
  const given = options.all("address").map((value) => readPrefix(value, families))
    .findLast(({ address }) => isIPv4(address) === ip4);
  if (given !== undefined) {
    const length = given.prefixLength ?? mask ??
      (ip4 ? classLength(given.address) : SLAAC_LENGTH);
    return { address: given.address, prefixLength: length };
  }
  const found = template?.address;
  if (ip4) {
    return {
      address: found?.address ?? LOCAL_IP4,
      prefixLength: mask ?? found?.prefixLength ?? LOCAL_IP4_LENGTH,
    };
  }
  return { address: found?.address ?? NO_IP6, prefixLength: SLAAC_LENGTH };
}

/** The length that an address had before there were prefixes (RFC 791, section 3.2). */
function classLength(address: Uint8Array): number {
  const first = address[12];
  return first < 128 ? 8 : first < 192 ? 16 : first < 224 ? 24 : 32;
}

function mapping(context: Context, gateway: Uint8Array): Uint8Array | undefined {
  const { addresses, none } = ownOrNone(context, "map-host-loopback");
  if (addresses.length > 0) return addresses.at(-1);
  if (none || context.options.has("no-map-gw") || isUnspecified(gateway)) {
    return undefined;
  }
  return gateway;
}

/**
 * The resolvers that the guest is told of, and what is behind them. A resolver of the
 * host that is at a loopback address is told as the address that maps to loopback, and
 * one that is at the mapped address itself is reached instead of the host: queries for
 * it are forwarded, as with --dns-forward.
 */
function resolvers(
  context: Context,
  mapped: Uint8Array | undefined,
): Pick<FamilyConfig, "dns" | "dnsForward" | "dnsHost"> {
  const { options, host, ip4, warnings } = context;
  const hostResolvers = host.resolvConf.nameservers
    .filter((address) => isIPv4(address) === ip4);
  const dnsHost = own(context, "dns-host", "loopback too") ?? hostResolvers[0];
  let dnsForward = own(context, "dns-forward", "no loopback");
  if (dnsForward !== undefined && dnsHost === undefined) {
    const value = options.all("dns-forward")
      .find(({ text }) => isIPv4(parseAddress(text) ?? NO_IP6) === ip4) as OptionValue;
    warnings.push(`${value.written}: the host has no such resolver, see --dns-host`);
  }
  let dns = ownOrNone(context, "dns").addresses;
  if (!options.has("dns")) {
    const usable = hostResolvers.flatMap((address) =>
      !isLoopback(address) ? [address] : mapped === undefined ? [] : [mapped]
    );
    dns = usable.filter((address, at) =>
      usable.findIndex((other) => sameAddress(address, other)) === at
    );
  }
  if (dnsForward === undefined && mapped !== undefined && dnsHost !== undefined) {
    const shadowed = hostResolvers.some((address) =>
      isLoopback(address) || sameAddress(address, mapped)
    );
    if (shadowed) dnsForward = mapped;
  }
  return {
    dns,
    ...dnsForward === undefined ? {} : { dnsForward },
    ...dnsHost === undefined ? {} : { dnsHost },
  };
}
