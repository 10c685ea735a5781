/** From the command line and the host to one complete, checked {@link Config}. */
import { describeFd } from "../../ffi/process.ts";
import { MAX_SOCKET_PATH } from "../../ffi/unix_socket.ts";
import {
  type Config,
  type ForwardRule,
  SANDBOX_MODES,
  type SandboxMode,
  type StateFormat,
} from "../config.ts";
import { UsageError } from "../errors.ts";
import type { HostFacts } from "../host/facts.ts";
import { defaultUser, parseGroup, parseUser } from "../host/privileges.ts";
import { isIPv4, parseMac } from "../wire/address.ts";
import { configureFamilies } from "./families.ts";
import { readLimits } from "./limits.ts";
import { readOffloads } from "./offload.ts";
import type { OptionName } from "./options.ts";
import type { ParsedOptions } from "./parse_options.ts";
import { parseForwards } from "./ports.ts";
import {
  checkFamily,
  type Families,
  readMac,
  readName,
  readNumber,
  readPath,
} from "./values.ts";

/** A configuration, and what the operator should know of it. */
export interface Configured {
  readonly config: Config;
  /** What the operator should know, though it is no error. */
  readonly warnings: readonly string[];
}

/** The highest MTU whose frames, with an Ethernet header, have a length of 16 bits. */
const MAX_MTU = 65521;
const DEFAULT_MTU = 65520;
/** RFC 791, section 3.2, and RFC 8200, section 5. */
const MIN_MTU4 = 68;
const MIN_MTU6 = 1280;

const DEFAULT_MAC = "9a:55:9a:55:9a:55";
const DEFAULT_LOG_SIZE = 1 << 20;
const MIN_LOG_SIZE = 4096;
const MAX_LOG_SIZE = 1 << 30;
const MAX_FD = 1 << 20;
const DEFAULT_POLL_US = 0;
const MAX_POLL_US = 10_000;
const MAX_QUEUES = 8;

/** Pairs of which one makes the other senseless. */
const CONTRADICTIONS: readonly (readonly [OptionName, OptionName])[] = [
  ["ipv4-only", "ipv6-only"],
  ["quiet", "debug"],
  ["quiet", "trace"],
  ["fd", "socket-path"],
];

/**
 * Makes the configuration.
 *
 * @param host what the host has, for everything that the options leave open
 * @param freePath a path for the socket if none is given
 * @throws {UsageError} naming an option or value that is wrong or contradicts another
 */
export function configure(
  options: ParsedOptions,
  host: HostFacts,
  freePath: () => string,
): Configured {
  for (const [one, other] of CONTRADICTIONS) {
    const value = options.last(one);
    const against = options.last(other);
    if (value !== undefined && against !== undefined) {
      throw new UsageError(value.written, `contradicts ${against.written}`);
    }
  }
  const families: Families = {
    ip4: !options.has("ipv6-only"),
    ip6: !options.has("ipv4-only"),
  };
  const found = configureFamilies(options, host, families);
  const warnings = [...found.warnings];
  const ndp = !options.has("no-ndp") && !options.has("no-icmp");
  const mtu = readMtu(options, families, warnings);
  const socketPath = readSocketPath(options);
  const process = processOptions(options);
  const config: Config = {
    ...process,
    mtu,
    ourMac: readOurMac(options),
    ...found.ip4 === undefined ? {} : { ip4: found.ip4 },
    ...found.ip6 === undefined ? {} : { ip6: found.ip6 },
    ourLinkLocal: found.ourLinkLocal,
    tcp: !options.has("no-tcp"),
    udp: !options.has("no-udp"),
    icmp: !options.has("no-icmp"),
    dhcp: !options.has("no-dhcp") && families.ip4 && found.dhcp,
    dhcpv6: !options.has("no-dhcpv6") && families.ip6,
    ndp: ndp && families.ip6,
    ra: !options.has("no-ra") && ndp && families.ip6,
    dhcpDns: !options.has("no-dhcp-dns"),
    dhcpSearch: !options.has("no-dhcp-search"),
    search: readSearch(options, host),
    ...names(options),
    forwards: [
      ...forwards("tcp", options, host, families),
      ...forwards("udp", options, host, families),
    ],
    // Last, as it may remove a stale socket: only when all else is right.
    socketPath: process.fd === undefined ? socketPath ?? freePath() : undefined,
  };
  return { config, warnings };
}

/** What has to do with the process and its files rather than with the network. */
function processOptions(options: ParsedOptions) {
  const fd = readFd(options);
  const runAs = readUser(options);
  const path = (name: OptionName) => {
    const value = options.last(name);
    return value === undefined ? undefined : readPath(value);
  };
  const size = options.last("log-size");
  return {
    fd,
    oneOff: options.has("one-off") || fd !== undefined,
    foreground: options.has("foreground"),
    pidFile: path("pid"),
    logFile: path("log-file"),
    logSize: size === undefined
      ? DEFAULT_LOG_SIZE
      : readNumber(size, MIN_LOG_SIZE, MAX_LOG_SIZE),
    logLevel: options.has("trace")
      ? "trace"
      : options.has("debug")
      ? "debug"
      : options.has("quiet")
      ? "warning"
      : "info",
    pcap: path("pcap"),
    runAs,
    ...readGroup(options),
    sandbox: readSandbox(options),
    repairPath: path("repair-path"),
    migrateFormat: readFormat(options),
    ...offloads(options),
    queues: readQueues(options),
    pollMs: readPoll(options),
    ...readLimits(options),
    sealedMemory: options.has("sealed-memory"),
  } as const;
}

function readSandbox(options: ParsedOptions): SandboxMode {
  const value = options.last("sandbox");
  if (value === undefined) return "default";
  const mode = SANDBOX_MODES.find((m) => m === value.text);
  if (mode !== undefined) return mode;
  throw new UsageError(value.written, "expected 'strict', 'default' or 'none'");
}

function readFormat(options: ParsedOptions): StateFormat {
  const value = options.last("migrate-format");
  if (value === undefined || value.text === "vuelo") return "vuelo";
  if (value.text === "passt") return "passt";
  throw new UsageError(value.written, "expected 'vuelo' or 'passt'");
}

function offloads(options: ParsedOptions): Pick<Config, "offloads"> {
  const value = options.last("offload");
  return value === undefined ? {} : { offloads: readOffloads(value) };
}

function readPoll(options: ParsedOptions): number {
  const value = options.last("poll");
  if (value === undefined) return DEFAULT_POLL_US / 1000;
  if (value.text === "off") return 0;
  return readNumber(value, 1, MAX_POLL_US, "or 'off'") / 1000;
}

function readQueues(options: ParsedOptions): number {
  const value = options.last("queues");
  if (value === undefined) return 1;
  const queues = readNumber(value, 1, MAX_QUEUES);
  const format = options.last("migrate-format");
  if (queues > 1 && format?.text === "passt") {
    throw new UsageError(value.written, `contradicts ${format.written}: passt has one`);
  }
  return queues;
}

function readSocketPath(options: ParsedOptions): string | undefined {
  const value = options.last("socket-path");
  if (value === undefined) return undefined;
  const path = readPath(value);
  if (new TextEncoder().encode(path).length > MAX_SOCKET_PATH) {
    throw new UsageError(value.written, `longer than ${MAX_SOCKET_PATH} bytes`);
  }
  return path;
}

function readFd(options: ParsedOptions): number | undefined {
  const value = options.last("fd");
  if (value === undefined) return undefined;
  const fd = readNumber(value, 0, MAX_FD);
  const kind = describeFd(fd);
  if (kind === "stream socket" && fd !== 1 && fd !== 2) return fd;
  const is = kind === "closed"
    ? "no such descriptor was passed in"
    : "not a connected socket";
  throw new UsageError(value.written, is);
}

function readUser(options: ParsedOptions): Config["runAs"] {
  const value = options.last("runas");
  if (value === undefined) {
    const user = defaultUser();
    return user === undefined ? undefined : { ...user, byDefault: true };
  }
  const user = parseUser(value.text);
  if (user === undefined) {
    throw new UsageError(value.written, "the host has no such user or group");
  }
  return user;
}

function readGroup(options: ParsedOptions): Pick<Config, "socketGroup"> {
  const value = options.last("socket-group");
  if (value === undefined) return {};
  const group = parseGroup(value.text);
  if (group === undefined) {
    throw new UsageError(value.written, "the host has no such group");
  }
  return { socketGroup: group };
}

function readMtu(options: ParsedOptions, families: Families, warnings: string[]): number {
  const value = options.last("mtu");
  if (value === undefined) return DEFAULT_MTU;
  const mtu = readNumber(value, 0, MAX_MTU);
  if (mtu === 0) return 0;
  if (mtu < MIN_MTU4) {
    throw new UsageError(value.written, `expected 0 or at least ${MIN_MTU4}`);
  }
  if (mtu < MIN_MTU6 && families.ip6) {
    warnings.push(`${value.written}: IPv6 needs at least ${MIN_MTU6}`);
  }
  return mtu;
}

function readOurMac(options: ParsedOptions): Uint8Array {
  const value = options.last("mac-addr");
  return value === undefined ? parseMac(DEFAULT_MAC) as Uint8Array : readMac(value);
}

function readSearch(options: ParsedOptions, host: HostFacts): readonly string[] {
  if (!options.has("search")) return host.resolvConf.search;
  let search: string[] = [];
  for (const value of options.all("search")) {
    if (value.text === "none") search = [];
    else {search.push(
        ...value.text.trim().split(/ +/).map((name) => readName(value, name)),
      );}
  }
  return search;
}

function names(options: ParsedOptions): Pick<Config, "hostname" | "fqdn"> {
  const hostname = options.last("hostname");
  const fqdn = options.last("fqdn");
  return {
    ...hostname === undefined ? {} : { hostname: readName(hostname) },
    ...fqdn === undefined ? {} : { fqdn: readName(fqdn) },
  };
}

function forwards(
  protocol: ForwardRule["protocol"],
  options: ParsedOptions,
  host: HostFacts,
  families: Families,
): ForwardRule[] {
  const values = options.all(protocol === "tcp" ? "tcp-ports" : "udp-ports");
  const off = options.last(protocol === "tcp" ? "no-tcp" : "no-udp");
  return parseForwards(protocol, values, host.ephemeral, (rule, value) => {
    if (off !== undefined) {
      throw new UsageError(value.written, `contradicts ${off.written}`);
    }
    if (rule.address !== undefined) checkFamily(value, isIPv4(rule.address), families);
    const { interface: device } = rule;
    if (device !== undefined && !host.network.links.some(({ name }) => name === device)) {
      throw new UsageError(value.written, `the host has no interface ${device}`);
    }
  });
}
