/**
 * The grammar of -t and -u, which is passt's:
 *
 *     spec    = "none" | [[address]["%" interface] "/"] entries
 *     entries = entry {"," entry}
 *     entry   = range [":" [target "/"] range | ":" target]   forwarded
 *             | "all" [":" target]                            every usable port
 *             | "~" range                                     left out
 *     range   = port ["-" port]
 *
 * An address is IPv4 or IPv6, in brackets or without, or "*" for any. Leaving out ports
 * of nothing else leaves them out of "all".
 */
import type { ForwardRule } from "../config.ts";
import { UsageError } from "../errors.ts";
import {
  formatAddress,
  isIPv4,
  isUnspecified,
  parseAddress,
  sameAddress,
} from "../wire/address.ts";
import type { OptionValue } from "./parse_options.ts";

/** Largest port number. */
export const MAX_PORT = 65535;
/** IFNAMSIZ without the terminator. */
const MAX_INTERFACE_NAME = 15;

/** First and last port of a range. */
export type PortRange = readonly [first: number, last: number];

/** Where the specification listens. */
interface Listen {
  readonly address?: Uint8Array;
  readonly interface?: string;
}

/** One entry that forwards, before the exclusions. */
interface Included {
  readonly ports: PortRange;
  readonly guestFirst: number;
  readonly guestAddress?: Uint8Array;
  readonly weak: boolean;
}

/** A message without the option, which only the caller knows. */
class PortError extends Error {}

/**
 * Reads every -t or every -u of a command line, in order.
 *
 * @param ephemeral the host's range of ephemeral ports, which `all` leaves out
 * @param check may refuse a rule for what only the caller knows, by an exception
 * @throws {UsageError} naming the option, its value and what is wrong with it
 */
export function parseForwards(
  protocol: ForwardRule["protocol"],
  values: readonly OptionValue[],
  ephemeral: PortRange,
  check: (rule: ForwardRule, value: OptionValue) => void = () => {},
): ForwardRule[] {
  const rules: ForwardRule[] = [];
  let none = false;
  for (const value of values) {
    const { text, written } = value;
    try {
      if (text === "none") {
        if (rules.length > 0) {
          throw new PortError("'none' contradicts the ports before it");
        }
        none = true;
        continue;
      }
      if (none) throw new PortError("contradicts the 'none' before it");
      for (const rule of parseSpec(protocol, text, ephemeral)) {
        const other = rules.find((other) => conflict(rule, other));
        if (other !== undefined) {
          throw new PortError(`${describeRule(rule)} overlaps ${describeRule(other)}`);
        }
        check(rule, value);
        rules.push(rule);
      }
    } catch (error) {
      if (error instanceof PortError) throw new UsageError(written, error.message);
      throw error;
    }
  }
  return rules;
}

/** `[127.0.0.1]%lo:2222-2223 => 22-23`, as the summary at start shows it. */
export function describeRule(rule: ForwardRule): string {
  const address = rule.address === undefined ? "*" : formatAddress(rule.address);
  const device = rule.interface === undefined ? "" : `%${rule.interface}`;
  const target = rule.guestAddress === undefined
    ? ""
    : `[${formatAddress(rule.guestAddress)}]:`;
  const last = rule.guestFirst + rule.last - rule.first;
  return `[${address}]${device}:${describeRange([rule.first, rule.last])} => ` +
    target + describeRange([rule.guestFirst, last]);
}

function describeRange([first, last]: PortRange): string {
  return first === last ? `${first}` : `${first}-${last}`;
}

function parseSpec(
  protocol: ForwardRule["protocol"],
  text: string,
  ephemeral: PortRange,
): ForwardRule[] {
  const { listen, entries } = splitListen(text);
  const included: Included[] = [];
  const excluded: PortRange[] = [];
  let all: Included[] | undefined;
  for (const entry of entries.split(",")) {
    if (entry.startsWith("~")) {
      const range = parseRange(entry.slice(1));
      if (excluded.some((other) => intersect(range, other))) {
        throw new PortError(`'${entry}' leaves out ports that are left out already`);
      }
      excluded.push(range);
    } else if (entry === "all" || entry.startsWith("all:")) {
      if (all !== undefined) throw new PortError("'all' is given twice");
      all = usable(ephemeral, entry === "all" ? undefined : parseTarget(entry.slice(4)));
    } else included.push(parseEntry(entry));
  }
  if (all !== undefined && included.length > 0) {
    throw new PortError("'all' contradicts single ports");
  }
  if (included.length === 0) included.push(...all ?? usable(ephemeral));
  const rules = included.flatMap((entry) => exclude(entry, excluded))
    .map((entry) => makeRule(protocol, listen, entry));
  if (rules.length === 0) throw new PortError("every port is left out");
  for (const [index, rule] of rules.entries()) {
    const other = rules.slice(0, index).find((other) => conflict(rule, other));
    if (other !== undefined) {
      throw new PortError(`${describeRule(rule)} overlaps ${describeRule(other)}`);
    }
  }
  return rules;
}

/** Takes the address and interface off the front, if there are any. */
function splitListen(text: string): { listen: Listen; entries: string } {
  const slash = text.indexOf("/");
  if (slash === -1) return { listen: {}, entries: text };
  const front = text.slice(0, slash);
  const [addressText, device, ...more] = front.split("%");
  const anyAddress = addressText === "" || addressText === "*";
  const address = anyAddress ? undefined : parseBracketed(addressText);
  if (!anyAddress && address === undefined) {
    // The slash may belong to a target: 80:192.0.2.5/8080.
    if (/^[0-9~a]/.test(front) && front.includes(":")) {
      return { listen: {}, entries: text };
    }
    throw new PortError(`'${addressText}' is not an address`);
  }
  if (more.length > 0 || device !== undefined && !isInterfaceName(device)) {
    throw new PortError(`'${front.slice(addressText.length + 1)}' names no interface`);
  }
  const listen: Listen = {
    ...address === undefined ? {} : { address },
    ...device === undefined ? {} : { interface: device },
  };
  return { listen, entries: text.slice(slash + 1) };
}

/** What the kernel takes for the name of an interface (dev_valid_name). */
export function isInterfaceName(name: string): boolean {
  return name.length <= MAX_INTERFACE_NAME && /^[^\s/:]+$/.test(name) &&
    name !== "." && name !== "..";
}

function parseBracketed(text: string): Uint8Array | undefined {
  const inner = /^\[(.*:.*)\]$/.exec(text)?.[1];
  return parseAddress(inner ?? text);
}

function parseEntry(entry: string): Included {
  const colon = entry.indexOf(":");
  const ports = parseRange(colon === -1 ? entry : entry.slice(0, colon));
  if (colon === -1) return { ports, guestFirst: ports[0], weak: false };
  const target = entry.slice(colon + 1);
  const slash = target.lastIndexOf("/");
  if (slash === -1 && !/^[0-9]+(?:-[0-9]*)?$/.test(target)) {
    const guestAddress = parseTarget(target);
    return { ports, guestFirst: ports[0], guestAddress, weak: false };
  }
  const guest = parseRange(target.slice(slash + 1));
  if (guest[1] - guest[0] !== ports[1] - ports[0]) {
    throw new PortError(
      `${describeRange(ports)} and ${describeRange(guest)} differ in length`,
    );
  }
  if (slash === -1) return { ports, guestFirst: guest[0], weak: false };
  const guestAddress = parseTarget(target.slice(0, slash));
  return { ports, guestFirst: guest[0], guestAddress, weak: false };
}

function parseTarget(text: string): Uint8Array {
  const address = parseBracketed(text);
  if (address === undefined || isUnspecified(address)) {
    throw new PortError(`'${text}' is not a port or an address`);
  }
  return address;
}

function parseRange(text: string): PortRange {
  const [firstText, lastText, ...more] = text.split("-");
  if (more.length > 0) throw new PortError(`'${text}' is not a port or a range`);
  const first = parsePort(firstText);
  const last = lastText === undefined ? first : parsePort(lastText);
  if (last < first) throw new PortError(`the range ${text} is the wrong way round`);
  return [first, last];
}

function parsePort(text: string): number {
  if (text === "") throw new PortError("a port is missing");
  if (!/^[0-9]+$/.test(text)) throw new PortError(`'${text}' is not a port`);
  const port = Number(text);
  if (port < 1 || port > MAX_PORT) {
    throw new PortError(`port ${text} is not between 1 and ${MAX_PORT}`);
  }
  return port;
}

/** Every port that the host doesn't hand out by itself. */
function usable([first, last]: PortRange, guestAddress?: Uint8Array): Included[] {
  const ranges: PortRange[] = [[1, first - 1], [last + 1, MAX_PORT]];
  return ranges.filter(([from, to]) => from <= to).map((ports) => ({
    ports,
    guestFirst: ports[0],
    weak: true,
    ...guestAddress === undefined ? {} : { guestAddress },
  }));
}

/** What remains of an entry, in pieces. */
function exclude(entry: Included, excluded: readonly PortRange[]): Included[] {
  const pieces: Included[] = [];
  const [first, last] = entry.ports;
  const take = (from: number, to: number) => {
    if (from > to) return;
    const guestFirst = entry.guestFirst + from - first;
    pieces.push({ ...entry, ports: [from, to], guestFirst });
  };
  let next = first;
  for (const [from, to] of excluded.toSorted((a, b) => a[0] - b[0])) {
    if (to < first || from > last) continue;
    take(next, from - 1);
    next = to + 1;
  }
  take(next, last);
  return pieces;
}

function makeRule(
  protocol: ForwardRule["protocol"],
  listen: Listen,
  { ports: [first, last], guestFirst, guestAddress, weak }: Included,
): ForwardRule {
  const rule = { protocol, ...listen, first, last, guestFirst, weak };
  if (guestAddress === undefined) return rule;
  const family = isIPv4(guestAddress) ? "IPv4" : "IPv6";
  if (listen.address === undefined || isIPv4(listen.address) !== isIPv4(guestAddress)) {
    const any = family === "IPv4" ? "0.0.0.0" : "::";
    throw new PortError(
      `a target with an ${family} address needs one to listen on, e.g. ${any}/${first}`,
    );
  }
  return { ...rule, guestAddress };
}

function intersect(a: PortRange, b: PortRange): boolean {
  return a[0] <= b[1] && b[0] <= a[1];
}

/** Whether the kernel would refuse to bind both. */
function conflict(a: ForwardRule, b: ForwardRule): boolean {
  if (!intersect([a.first, a.last], [b.first, b.last])) return false;
  if (
    a.interface !== undefined && b.interface !== undefined && a.interface !== b.interface
  ) return false;
  if (a.address === undefined || b.address === undefined) return true;
  if (isIPv4(a.address) !== isIPv4(b.address)) return false;
  return isUnspecified(a.address) || isUnspecified(b.address) ||
    sameAddress(a.address, b.address);
}
