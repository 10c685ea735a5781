/** passt, the back-end that vuelo migrates guests from and to, as Debian builds it. */
import { type Program, provide, SETS, unpacked } from "./packages.ts";

/** Of which Debian: trixie has passt of May 2025, sid the newest. */
export type Suite = "trixie" | "sid";

/** passt and its privileged helper. */
export interface Passt {
  readonly passt: Program;
  readonly repair: Program;
}

/** Fetches passt, unless it is there. */
export async function passt(suite: Suite): Promise<Passt> {
  const root = await provide(suite === "sid" ? SETS.passtOfSid : SETS.passt);
  return {
    passt: unpacked(root, "usr/bin/passt"),
    repair: unpacked(root, "usr/bin/passt-repair"),
  };
}
