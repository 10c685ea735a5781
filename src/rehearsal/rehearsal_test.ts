/** That a rehearsal goes through to its end, and that nobody notices. */
import { assert, assertEquals } from "@std/assert";
import { flowConfig } from "../../tests/support/flow_config.ts";
import { withoutDescriptors } from "../../tests/support/descriptor_limit.ts";
import { openDescriptors } from "../../tests/support/frontend.ts";
import type { Config } from "../config.ts";
import { OwnRepair, type RepairSwitch } from "../repair/switch.ts";
import { Rehearsal } from "./rehearsal.ts";

/** Rehearses all there is; why that ended early, "" if it did not. */
function rehearseAll(config: Config, repair: RepairSwitch | undefined): string {
  const rehearsal = new Rehearsal(config);
  for (let i = 0; rehearsal.wants(repair); i++) {
    assert(i < 1000, "it never ends");
    rehearsal.round(repair);
  }
  return rehearsal.problem;
}

const ways: readonly [name: string, Config][] = [
  ["both families", flowConfig()],
  ["IPv6 alone, without TCP", flowConfig({ ip4: undefined, tcp: false })],
  [
    "IPv4 alone, in passt's format",
    flowConfig({
      ip6: undefined,
      migrateFormat: "passt",
    }),
  ],
];
for (const [name, config] of ways) {
  Deno.test(`a move is rehearsed without a trace: ${name}`, () => {
    const before = openDescriptors();
    assertEquals(rehearseAll(config, undefined), "");
    assertEquals(rehearseAll(config, new OwnRepair()), "");
    assertEquals(openDescriptors(), before);
  });
}

Deno.test("without descriptors, or with a helper that fails, it is given up", () => {
  const before = openDescriptors();
  withoutDescriptors(() => {
    assert(rehearseAll(flowConfig(), undefined) !== "");
  });
  const broken: RepairSwitch = {
    available: true,
    switchSockets: () => 1,
    describe: () => "a helper that fails",
  };
  assert(rehearseAll(flowConfig(), broken) !== "");
  assertEquals(openDescriptors(), before);
});
