/** Options that bound what guests and peers can make vuelo use. */
import { type Limits, limitsOf } from "../config.ts";
import type { OptionSpec } from "./options.ts";
import type { ParsedOptions } from "./parse_options.ts";
import { readNumber } from "./values.ts";

/** The options of the group "Limits". */
export const LIMIT_OPTIONS = [
  {
    name: "max-flows",
    argument: "N",
    group: "Limits",
    help: [
      "Connections, UDP flows and pings at once; at so many,",
      "peers are refused, SYNs of the guest wait, datagrams",
      "are dropped; default: 131072",
    ],
  },
  {
    name: "max-tcp",
    argument: "N",
    group: "Limits",
    help: ["TCP connections; default: 13/16 of --max-flows"],
  },
  {
    name: "max-udp",
    argument: "N",
    group: "Limits",
    help: ["UDP flows; default: 5/32"],
  },
  {
    name: "max-ping",
    argument: "N",
    group: "Limits",
    help: ["Ping flows; default: 1/32"],
  },
  {
    name: "max-half-open",
    argument: "N",
    group: "Limits",
    help: [
      "Connections of the guest that no peer has answered: the",
      "oldest makes room, until the guest repeats its SYN",
      "default: 4096, but not more than half of --max-tcp",
    ],
  },
  {
    name: "max-pending",
    argument: "N",
    group: "Limits",
    help: [
      "Connections to forwarded ports, and UDP senders, that",
      "the guest has not answered; the oldest is reset, or",
      "forgotten; default: 4096, at most half as above",
    ],
  },
  {
    name: "max-sockets",
    argument: "N",
    group: "Limits",
    help: [
      "Sockets of flows, for which others wait",
      "default: by ulimit -Hn, less a reserve for all else",
    ],
  },
  {
    name: "budget",
    argument: "FRAMES",
    group: "Limits",
    help: [
      "Frames or datagrams, or 4096 bytes each, of one source",
      "before others have their turn; default: 256",
    ],
  },
  {
    name: "max-state",
    argument: "MIB",
    group: "Limits",
    help: ["State of a guest that comes here; default: 1024"],
  },
  {
    name: "log-rate",
    argument: "N",
    group: "Limits",
    help: [
      "Log lines in a second, 0: any number; those left out",
      "are counted; default: 200",
    ],
  },
] as const satisfies readonly OptionSpec[];

/** What a stream of a migration can carry, and an event's number tell apart. */
const MOST_FLOWS = 1 << 20;
const LEAST_BUDGET = 16;
const MOST_BUDGET = 1024;
const DEFAULT_LOG_RATE = 200;
/** Of which there may be two copies for a moment. */
const MOST_STATE = 2047;
const MIB = 2 ** 20;
const MOST_LOG_RATE = 1_000_000;

/** Reads the limits; those that are not given follow from the others. */
export function readLimits(
  options: ParsedOptions,
): { readonly limits: Limits; readonly logRate: number } {
  type Name = typeof LIMIT_OPTIONS[number]["name"];
  const number = (name: Name, least: number, most: number) => {
    const value = options.last(name);
    return value === undefined ? undefined : readNumber(value, least, most);
  };
  const flows = number("max-flows", 1, MOST_FLOWS);
  const most = flows ?? MOST_FLOWS;
  const state = number("max-state", 1, MOST_STATE);
  const pending = number("max-pending", 1, most);
  const given = {
    tcp: number("max-tcp", 1, most),
    udp: number("max-udp", 1, most),
    ping: number("max-ping", 1, most),
    halfOpen: number("max-half-open", 1, most),
    pendingTcp: pending,
    pendingUdp: pending,
    sockets: number("max-sockets", 1, most),
    budget: number("budget", LEAST_BUDGET, MOST_BUDGET),
    state: state === undefined ? undefined : state * MIB,
  };
  return {
    limits: limitsOf(flows, given),
    logRate: number("log-rate", 0, MOST_LOG_RATE) ?? DEFAULT_LOG_RATE,
  };
}
