/**
 * Runs scenarios of a guest's migration by hand:
 *
 *     deno run -A scripts/migrate.ts --list
 *     deno run -A scripts/migrate.ts NAME... [--watch] [--from KIND] [--to KIND]
 *         [--repair HELPER] [--mtu BYTES] [--binary PATH]
 *
 * KIND is vuelo, passt (of Debian trixie) or passt-sid; HELPER is vuelo, passt or none.
 * Needs root, or the right to make user namespaces.
 */
import { parseArgs } from "@std/cli";
import type { BackendKind, HelperKind } from "../tests/support/migrate_backend.ts";
import { headline, row, scenarios } from "../tests/support/migrate_suite.ts";
import { Suite } from "../tests/support/migrate_suite.ts";
import { reenter, rights } from "../tests/support/lab_userns.ts";

const args = parseArgs(Deno.args, {
  string: ["from", "to", "repair", "binary", "mtu"],
  boolean: ["list", "watch", "help"],
});

function choose<T extends string>(
  what: string,
  given: unknown,
  usual: T,
  all: readonly T[],
): T {
  if (given === undefined) return usual;
  const found = all.find((one) => one === given);
  if (found !== undefined) return found;
  console.error(`migrate: --${what} is one of ${all.join(", ")}, not ${given}`);
  Deno.exit(2);
}

const KINDS: readonly BackendKind[] = ["vuelo", "passt", "passt-sid"];
const HELPERS: readonly HelperKind[] = ["vuelo", "passt", "none"];

async function main(): Promise<number> {
  if (args.list || args._.length === 0) {
    for (const { name, about } of scenarios()) console.log(`${name.padEnd(28)} ${about}`);
    return 0;
  }
  if (await rights() === "namespace") {
    return await reenter(new URL(import.meta.url).pathname, Deno.args);
  }
  if (args.binary !== undefined) Deno.env.set("VUELO_BIN", String(args.binary));
  const from = choose("from", args.from, "vuelo", KINDS);
  const to = choose("to", args.to, from, KINDS);
  const helper = (kind: BackendKind): HelperKind =>
    choose("repair", args.repair, kind === "vuelo" ? "none" : "passt", HELPERS);
  // vuelo reads either format, and writes its own unless told otherwise.
  const options = from === to ? [] : ["--migrate-format", "passt"];
  const host = (kind: BackendKind) => {
    return { kind, helper: helper(kind), args: kind === "vuelo" ? options : [] };
  };
  const suite = new Suite({
    from: host(from),
    to: host(to),
    mtu: args.mtu === undefined ? undefined : Number(args.mtu),
  }, args.watch ? (text) => console.log(`  ${text}`) : undefined);
  let failed = 0;
  console.log(headline());
  try {
    for (const scenario of scenarios(args._.map(String))) {
      const outcome = await suite.run(scenario);
      console.log(row(outcome));
      for (const fault of outcome.faults.slice(0, args.watch ? undefined : 5)) {
        console.log(`  ${args.watch ? fault : fault.split("\n")[0]}`);
      }
      if (outcome.faults.length > 0) failed++;
    }
  } finally {
    await suite.close();
  }
  return failed > 0 ? 1 : 0;
}

Deno.exit(await main());
