/** A guest migrates from passt to vuelo and back, and keeps its connections. */
import type { BackendKind, HypervisorOptions } from "../support/migrate_backend.ts";
import { migrations } from "../support/migrate_suite.ts";

/** In these passt does its part; what it does not is tested between two vuelos. */
const SOME = [
  "none",
  "watched",
  "idle-ipv4",
  "idle-ipv6",
  "bulk-up-ipv4",
  "bulk-down-ipv4",
  "200",
  "half-closed-by-guest-ipv4",
];
/** From passt to vuelo, back and so on. */
const NAMES = SOME.flatMap((name) => [name, name]);

const VUELO: HypervisorOptions = {
  kind: "vuelo",
  helper: "passt",
  args: ["--migrate-format", "passt"],
};

for (const kind of ["passt-sid", "passt"] as const satisfies readonly BackendKind[]) {
  const from: HypervisorOptions = { kind, helper: "vuelo" };
  migrations(`${kind} to vuelo and back`, { from, to: VUELO }, NAMES);
}
