/** A guest migrates between passt and vuelo, either way, and keeps its connections. */
import type { BackendKind, HypervisorOptions } from "../support/migrate_backend.ts";
import { migrations } from "../support/migrate_suite.ts";

/**
 * To vuelo, back and so on. In these passt does its part; what it does not is tested
 * between two vuelos.
 */
const STARTED_WITH_PASST = [
  ...["none", "none"],
  ...["watched", "watched"],
  ...["idle-ipv4", "idle-ipv4"],
  ...["bulk-up-ipv4", "bulk-up-ipv6"],
  ...["200", "200"],
  ...["half-closed-by-guest-ipv4", "half-closed-by-guest-ipv6"],
  // To the passt of May 2025 this loses connections, from whomever they come.
  ...["bulk-down-ipv4", "idle-ipv6"],
  ...["bulk-down-ipv6", "idle-ipv6"],
];

/**
 * To passt with connections, and back without, where passt would not carry them. A peer's
 * end of stream that the guest has not acknowledged is never passed on by passt, and so
 * none is under way here.
 */
const STARTED_WITH_VUELO = [
  ...["watched", "watched"],
  ...["idle-ipv4", "idle-ipv6"],
  ...["bulk-up-ipv4", "bulk-up-ipv6"],
  ...["200", "200"],
  ...["half-closed-by-guest-ipv4", "half-closed-by-guest-ipv6"],
  ...["unread-by-peer", "none"],
  ...["d3-lost-and-closed", "none"],
];

const VUELO: HypervisorOptions = {
  kind: "vuelo",
  helper: "passt",
  args: ["--migrate-format", "passt"],
};

const PASSTS = ["passt-sid", "passt"] as const satisfies readonly BackendKind[];

for (const kind of PASSTS) {
  const passt: HypervisorOptions = { kind, helper: "vuelo" };
  const both = { from: passt, to: VUELO };
  migrations(`${kind} to vuelo and back`, both, STARTED_WITH_PASST);
  const back = { from: VUELO, to: passt };
  migrations(`vuelo to ${kind} and back`, back, STARTED_WITH_VUELO);
}
