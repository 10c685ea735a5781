/**
 * `vuelo migrate-check`: whether this host could receive a guest, before anybody migrates
 * one. It takes the options that the target's vuelo is (or will be) started with, and
 * changes nothing: sockets that it tries are closed at once.
 */
import { Errno, errno, errnoName } from "../../ffi/errno.ts";
import { effectiveUser, raiseDescriptorLimit } from "../../ffi/process.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  closeFd,
  openSocket,
  SOCK_DGRAM,
  supportsBufferLock,
  supportsPeekOffset,
} from "../../ffi/socket.ts";
import { deafen } from "../../ffi/socket_filter.ts";
import type { Config, ForwardRule } from "../config.ts";
import { UsageError } from "../errors.ts";
import { anyAddress, listen } from "../flow/forward_socket.ts";
import { readFacts } from "../host/facts.ts";
import { probeRepair } from "../repair/switch.ts";
import { formatAddress, isIPv4, isLinkLocal, isUnspecified } from "../wire/address.ts";
import { VERSIONS } from "../migrate/versions.ts";
import { configure } from "./configure.ts";
import { parseOptions } from "./parse_options.ts";

/** Descriptors beyond the flows': rings, listening sockets, logs. */
const FEW_DESCRIPTORS = 4096;
const LISTENING = "01";
const CONNECTED = "03";

const USAGE = `Usage: vuelo migrate-check [OPTIONS OF VUELO]...

Says whether this host could receive a guest by migration: the guest's addresses, the
forwarded ports, the repair helper, the kernel and the formats, each with yes or no.
Give the options that vuelo has (or will have) here, at least --socket.

  vuelo migrate-check --socket /tmp/vm.sock -a 192.0.2.1 -t 22

"NO" means that it could not, or not with its connections; a "no" in small letters costs
time alone.

Exit status: 0 it could, 1 an answer is NO, 2 wrong usage.
`;

/** One question and its answer; `advice` says what to do if it is no. */
export interface Check {
  readonly ok: boolean;
  readonly what: string;
  readonly advice?: string;
  /** A guest can come with all its connections all the same. */
  readonly mayLack?: true;
}

/**
 * Runs the subcommand.
 *
 * @param args what follows `migrate-check`
 * @returns exit status, see {@link statusOf}
 * @throws {UsageError} for wrong options
 */
export function migrateCheckCommand(args: string[]): number {
  const options = parseOptions(args);
  if (options.has("help")) {
    write(USAGE);
    return 0;
  }
  const socket = options.last("socket-path");
  if (socket === undefined) {
    throw new UsageError("migrate-check", "needs --socket PATH, that of the target");
  }
  const { config } = configure(options, readFacts(), () => socket.text);
  const checks = checkHost(config, unixSockets());
  for (const { ok, what, advice, mayLack } of checks) {
    const answer = ok ? "yes" : mayLack ? "no " : "NO ";
    write(`${answer}  ${what}${ok || !advice ? "" : `: ${advice}`}\n`);
  }
  return statusOf(checks);
}

/** 0 if every answer is yes that has to be, else 1. */
export function statusOf(checks: readonly Check[]): number {
  return checks.every(({ ok, mayLack }) => ok || mayLack === true) ? 0 : 1;
}

function write(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}

/** All questions, in the order of the printed list. */
export function checkHost(config: Config, sockets: readonly UnixSocket[]): Check[] {
  const served = sockets.some(({ path, state }) =>
    path === config.socketPath && state === LISTENING
  );
  return [
    ...addresses(config),
    ...config.forwards.map((rule) => ports(rule, config, served)),
    {
      ok: served,
      what: `vuelo listens at ${config.socketPath}`,
      advice: "start it before the migration",
    },
    repair(config, sockets),
    ...kernel(config),
    descriptors(),
    formats(),
  ];
}

/** Connections keep their addresses, so that the host must have them. */
function addresses({ ip4, ip6 }: Config): Check[] {
  return [ip4, ip6].filter((family) => family !== undefined)
    .map(({ address }) => address)
    .filter((address) => !isUnspecified(address) && !isLinkLocal(address))
    .map((address) => {
      const number = tryAddress(address);
      return {
        ok: number === 0,
        what: `the host has the guest's address ${formatAddress(address)}`,
        advice: number === Errno.EADDRNOTAVAIL
          ? "give it to an interface, or connections from it are reset"
          : errnoName(number),
      };
    });
}

function tryAddress(address: Uint8Array): number {
  const fd = openSocket(isIPv4(address) ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
  if (fd === -1) return errno();
  const number = bindSocket(fd, address, 0, 0) === 0 ? 0 : errno();
  closeFd(fd);
  return number;
}

function ports(rule: ForwardRule, config: Config, served: boolean): Check {
  const range = rule.first === rule.last ? `${rule.first}` : `${rule.first}-${rule.last}`;
  const what = `${rule.protocol.toUpperCase()} port ${range} can be forwarded`;
  for (let port = rule.first; port <= rule.last; port++) {
    const fd = listen(rule, port, anyAddress(config));
    if (fd >= 0) {
      closeFd(fd);
      continue;
    }
    // The vuelo that is already there has it, which is as it should be.
    if (-fd === Errno.EADDRINUSE && (served || rule.weak)) continue;
    return { ok: false, what, advice: `port ${port}: ${errnoName(-fd)}` };
  }
  return { ok: true, what };
}

function repair(config: Config, sockets: readonly UnixSocket[]): Check {
  const own = probeRepair();
  if (own === 0 && (config.runAs?.uid ?? effectiveUser()) === effectiveUser()) {
    return { ok: true, what: "TCP connections can be repaired by vuelo's own right" };
  }
  const what = "a repair helper is connected";
  if (config.repairPath === "none") {
    return { ok: false, what, advice: "--repair-path none, and no CAP_NET_ADMIN" };
  }
  const path = config.repairPath ?? `${config.socketPath}.repair`;
  const ok = sockets.some((entry) => entry.path === path && entry.state === CONNECTED);
  return {
    ok,
    what: `${what} at ${path}`,
    advice: `start 'vuelo repair ${path}' as root`,
  };
}

function kernel({ ip4, ip6 }: Config): Check[] {
  const repairable = probeRepair();
  const families = [
    ...ip4 === undefined ? [] : [[AF_INET, "IPv4"] as const],
    ...ip6 === undefined ? [] : [[AF_INET6, "IPv6"] as const],
  ];
  return [
    {
      // Whoever has no right for it learns so only where the kernel has it.
      ok: repairable === 0 || repairable === Errno.EPERM,
      what: "the kernel can repair TCP connections (TCP_REPAIR)",
      advice: `${errnoName(repairable)}: it needs CONFIG_CHECKPOINT_RESTORE`,
    },
    {
      ok: canFilter(),
      what: "the kernel can hold connections still (SO_ATTACH_FILTER)",
    },
    ...families.map(([family, name]) => ({
      ok: supportsPeekOffset(family),
      what: `${name}: peeking goes on where it ended (SO_PEEK_OFF)`,
      advice: "connections move all the same, but slower; Linux 6.9 and 6.11 have it",
      mayLack: true as const,
    })),
    {
      ok: supportsBufferLock(),
      what: "buffers made large are tuned on (SO_BUF_LOCK)",
      advice: "full send queues may not fit; Linux 5.14 has it",
    },
  ];
}

function canFilter(): boolean {
  const fd = openSocket(AF_INET, SOCK_DGRAM, 0);
  if (fd === -1) return false;
  const able = deafen(fd) === 0;
  closeFd(fd);
  return able;
}

function descriptors(): Check {
  const limit = raiseDescriptorLimit();
  return {
    ok: limit >= FEW_DESCRIPTORS,
    what: `${limit} descriptors may be open`,
    advice: `each connection takes one: raise the hard limit (ulimit -Hn)`,
  };
}

function formats(): Check {
  const known = VERSIONS.map(({ format, version }) => `${format} ${version}`).join(", ");
  return { ok: true, what: `formats and versions taken: ${known}` };
}

/** A line of /proc/net/unix. */
export interface UnixSocket {
  /** Two digits: 01 unconnected (or listening), 03 connected. */
  readonly state: string;
  readonly path: string;
}

/** UNIX sockets with a path, of this network namespace. */
function unixSockets(): UnixSocket[] {
  let text = "";
  try {
    text = Deno.readTextFileSync("/proc/net/unix");
  } catch {
    // Without /proc nothing is known to listen.
  }
  return text.split("\n").slice(1).map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields.length >= 8)
    .map((fields) => ({ state: fields[5], path: fields.slice(7).join(" ") }));
}
