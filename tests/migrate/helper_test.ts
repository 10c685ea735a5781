/** vuelo without rights of its own: its helper and passt's switch repair mode. */
import type { HelperKind, HypervisorOptions } from "../support/migrate_backend.ts";
import { migrations } from "../support/migrate_suite.ts";

const SOME = [
  "watched",
  "200",
  "d9-growing-batches",
  "cancel-late",
  "target-killed-late",
  "source-refuses",
  "target-refuses",
  "source-helper-killed",
  "source-helper-silent",
  "target-helper-killed",
  "target-helper-silent",
];

for (const helper of ["vuelo", "passt"] as const satisfies readonly HelperKind[]) {
  const host: HypervisorOptions = { kind: "vuelo", helper };
  const name = helper === "passt" ? "passt-repair" : "vuelo repair";
  migrations(`vuelo to vuelo, with ${name}`, { from: host, to: host }, SOME);
}
