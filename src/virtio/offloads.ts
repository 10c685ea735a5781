/**
 * What a driver may leave to the device and the device to the driver, by name, and what
 * each of them needs (virtio 1.3, section 5.1.3.1).
 */
import type { OffloadName } from "../config.ts";
import { NetFeature } from "./net_header.ts";

interface Offload {
  /** Feature bit, below 32. */
  readonly bit: number;
  /** Without any of these it cannot be; absent: it stands alone. */
  readonly needs?: readonly OffloadName[];
}

export const OFFLOADS: Readonly<Record<OffloadName, Offload>> = {
  "csum": { bit: NetFeature.csum },
  "tso4": { bit: NetFeature.hostTso4, needs: ["csum"] },
  "tso6": { bit: NetFeature.hostTso6, needs: ["csum"] },
  "ecn": { bit: NetFeature.hostEcn, needs: ["tso4", "tso6"] },
  "guest-csum": { bit: NetFeature.guestCsum },
  "guest-tso4": { bit: NetFeature.guestTso4, needs: ["guest-csum"] },
  "guest-tso6": { bit: NetFeature.guestTso6, needs: ["guest-csum"] },
  "guest-ecn": { bit: NetFeature.guestEcn, needs: ["guest-tso4", "guest-tso6"] },
  "mrg-rxbuf": { bit: NetFeature.mrgRxbuf },
};

/** Every name, each after those that it needs. */
export const OFFLOAD_NAMES: readonly OffloadName[] = Object.keys(
  OFFLOADS,
) as OffloadName[];

/** The names among `names` whose needs are met by the others. */
export function possibleOffloads(names: ReadonlySet<OffloadName>): Set<OffloadName> {
  const possible = new Set<OffloadName>();
  for (const name of OFFLOAD_NAMES) {
    const { needs } = OFFLOADS[name];
    const met = needs === undefined || needs.some((need) => possible.has(need));
    if (names.has(name) && met) possible.add(name);
  }
  return possible;
}

/**
 * Takes from the low word of features the offloads that are not among `names`;
 * undefined takes none.
 */
export function limitOffloads(
  features: number,
  names: ReadonlySet<OffloadName> | undefined,
): number {
  if (names === undefined) return features;
  const possible = possibleOffloads(names);
  const off = OFFLOAD_NAMES.filter((name) => !possible.has(name))
    .reduce((mask, name) => mask | (1 << OFFLOADS[name].bit), 0);
  return (features & ~off) >>> 0;
}
