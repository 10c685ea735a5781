/** A guest migrates from passt to vuelo and back, and keeps its connections. */
import type { BackendKind, HypervisorOptions } from "../support/migrate_backend.ts";
import { migrations } from "../support/migrate_suite.ts";

/**
 * To vuelo, back and so on. In these passt does its part; what it does not is tested
 * between two vuelos.
 */
const NAMES = [
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

const VUELO: HypervisorOptions = {
  kind: "vuelo",
  helper: "passt",
  args: ["--migrate-format", "passt"],
};

for (const kind of ["passt-sid", "passt"] as const satisfies readonly BackendKind[]) {
  const from: HypervisorOptions = { kind, helper: "vuelo" };
  migrations(`${kind} to vuelo and back`, { from, to: VUELO }, NAMES);
}
