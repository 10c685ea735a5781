/** --offload: a list of names, as ethtool(8) and QEMU's device properties have them. */
import type { OffloadName } from "../config.ts";
import { UsageError } from "../errors.ts";
import { OFFLOAD_NAMES, OFFLOADS, possibleOffloads } from "../virtio/offloads.ts";
import type { OptionValue } from "./parse_options.ts";

/** Names for several at once. */
const GROUPS: Readonly<Record<string, readonly OffloadName[]>> = {
  "tso": ["tso4", "tso6"],
  "guest-tso": ["guest-tso4", "guest-tso6"],
  "guest-uso": ["guest-uso4", "guest-uso6"],
  "all": OFFLOAD_NAMES,
};

/**
 * Reads the list from left to right: `NAME` adds, `-NAME` takes away, `none` takes all. A
 * list that begins with `-NAME` takes away from all. What is added brings what it needs;
 * what is taken away takes along what needs it, unless that was asked for by name.
 *
 * @throws {UsageError} for an unknown name, or one that needs what was taken away
 */
export function readOffloads(value: OptionValue): ReadonlySet<OffloadName> {
  const items = value.text.split(",").map((item) => item.trim());
  const on = new Set<OffloadName>(items[0].startsWith("-") ? OFFLOAD_NAMES : []);
  const asked = new Set<OffloadName>();
  const taken = new Set<OffloadName>();
  for (const item of items) {
    const minus = item.startsWith("-") || item === "none";
    const names = item === "none" ? OFFLOAD_NAMES : expand(value, item);
    for (const name of names) {
      if (minus) on.delete(name);
      else on.add(name);
      const named = item !== "none" && item !== "all";
      remember(asked, name, named && !minus);
      remember(taken, name, named && minus);
    }
  }
  for (const name of [...asked].reverse()) addNeeds(value, name, on, taken);
  return possibleOffloads(on);
}

function remember(names: Set<OffloadName>, name: OffloadName, is: boolean): void {
  if (is) names.add(name);
  else names.delete(name);
}

function expand(value: OptionValue, item: string): readonly OffloadName[] {
  const name = item.replace(/^-/, "").replaceAll("_", "-").replace(/^host-/, "");
  const found = Object.hasOwn(GROUPS, name)
    ? GROUPS[name]
    : OFFLOAD_NAMES.filter((known) => known === name);
  if (found.length > 0) return found;
  const known = [...OFFLOAD_NAMES, ...Object.keys(GROUPS), "none"].join(", ");
  throw new UsageError(value.written, `no offload '${item}', expected ${known}`);
}

/** Adds what `name` needs and has not. */
function addNeeds(
  value: OptionValue,
  name: OffloadName,
  on: Set<OffloadName>,
  taken: ReadonlySet<OffloadName>,
): void {
  const { needs = [] } = OFFLOADS[name];
  if (needs.length === 0) return;
  const free = needs.filter((need) => !taken.has(need));
  if (free.length === 0) {
    throw new UsageError(value.written, `'${name}' needs ${needs.join(" or ")}`);
  }
  if (!needs.some((need) => on.has(need))) { for (const need of free) on.add(need); }
  for (const need of needs) if (on.has(need)) addNeeds(value, need, on, taken);
}
