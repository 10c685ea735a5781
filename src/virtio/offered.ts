/** Which virtio features the device offers to the driver. */
import type { OffloadName, StateFormat } from "../config.ts";
import type { FeatureBits } from "../vhost_user/backend.ts";
import { NetFeature, NetFeatureHigh } from "./net_header.ts";
import { limitOffloads } from "./offloads.ts";

/** What must be there: no option takes it away. */
const ALWAYS: readonly number[] = [
  NetFeature.logAll,
  NetFeature.protocolFeatures,
];
const ALWAYS_HIGH: readonly number[] = [NetFeatureHigh.version1];
/** Offloads, and cheaper rings. */
const FASTER: readonly number[] = [
  NetFeature.csum,
  NetFeature.guestCsum,
  NetFeature.guestTso4,
  NetFeature.guestTso6,
  NetFeature.guestEcn,
  NetFeature.hostTso4,
  NetFeature.hostTso6,
  NetFeature.hostEcn,
  NetFeature.mrgRxbuf,
  NetFeature.mtu,
  NetFeature.indirectDesc,
  NetFeature.eventIdx,
];
/**
 * UFO, for one datagram that IP is to cut up, is not among them: no driver has sent such
 * frames since Linux 4.14.
 */
const FASTER_HIGH: readonly number[] = [
  NetFeatureHigh.ringPacked,
  NetFeatureHigh.guestUso4,
  NetFeatureHigh.guestUso6,
  NetFeatureHigh.hostUso,
];
/**
 * All that passt offers besides, as GET_FEATURES of Debian's packages says: guestCsum in
 * that of sid (2026), not yet in that of trixie (2025_05_03).
 */
const OF_PASST: readonly number[] = [NetFeature.guestCsum, NetFeature.mrgRxbuf];

/**
 * The features on offer. QEMU refuses a guest whose driver uses a feature that the back-end
 * of the target lacks, so that one which is to go to passt is offered what passt has.
 *
 * @param offloads those that may be among them; undefined is all
 * @param queues pairs on offer
 */
export function offeredFeatures(
  format: StateFormat,
  offloads?: ReadonlySet<OffloadName>,
  queues = 1,
): FeatureBits {
  const [more, high] = format === "passt"
    ? [OF_PASST, ALWAYS_HIGH]
    : [FASTER, [...ALWAYS_HIGH, ...FASTER_HIGH]];
  const several = queues > 1 ? [NetFeature.multiqueue] : [];
  const features = { lo: bits([...ALWAYS, ...more, ...several]), hi: bits(high) };
  return limitOffloads(features, offloads);
}

function bits(numbers: readonly number[]): number {
  return numbers.reduce((mask, bit) => (mask | (1 << bit)) >>> 0, 0);
}
