/**
 * What a driver may leave to the device and the device to the driver, by name, and what
 * each of them needs (virtio 1.3, section 5.1.3.1).
 */
import type { OffloadName } from "../config.ts";
import type { FeatureBits } from "../vhost_user/backend.ts";
import { NetFeature, NetFeatureHigh } from "./net_header.ts";

interface Offload {
  /** Feature bit, below 32, */
  readonly bit?: number;
  /** or counted from 32. */
  readonly high?: number;
  /** Without any of these it cannot be; absent: it stands alone. */
  readonly needs?: readonly OffloadName[];
}

/** Every offload by the name that --offload knows it by. */
export const OFFLOADS: Readonly<Record<OffloadName, Offload>> = {
  "csum": { bit: NetFeature.csum },
  "tso4": { bit: NetFeature.hostTso4, needs: ["csum"] },
  "tso6": { bit: NetFeature.hostTso6, needs: ["csum"] },
  "uso": { high: NetFeatureHigh.hostUso, needs: ["csum"] },
  "ecn": { bit: NetFeature.hostEcn, needs: ["tso4", "tso6"] },
  "guest-csum": { bit: NetFeature.guestCsum },
  "guest-tso4": { bit: NetFeature.guestTso4, needs: ["guest-csum"] },
  "guest-tso6": { bit: NetFeature.guestTso6, needs: ["guest-csum"] },
  "guest-uso4": { high: NetFeatureHigh.guestUso4, needs: ["guest-csum"] },
  "guest-uso6": { high: NetFeatureHigh.guestUso6, needs: ["guest-csum"] },
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

/** Takes from features the offloads that are not among `names`; undefined takes none. */
export function limitOffloads(
  features: FeatureBits,
  names: ReadonlySet<OffloadName> | undefined,
): FeatureBits {
  if (names === undefined) return features;
  const possible = possibleOffloads(names);
  let { lo, hi } = features;
  for (const name of OFFLOAD_NAMES) {
    if (possible.has(name)) continue;
    const { bit, high } = OFFLOADS[name];
    if (bit !== undefined) lo &= ~(1 << bit);
    if (high !== undefined) hi &= ~(1 << high);
  }
  return { lo: lo >>> 0, hi: hi >>> 0 };
}
