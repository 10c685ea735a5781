/** Runs scenarios of a guest's migration by hand. See --help. */
import type { BackendKind, HelperKind } from "../tests/support/migrate_backend.ts";
import { figures } from "../tests/support/migrate_figures.ts";
import { headline, row, scenarios } from "../tests/support/migrate_suite.ts";
import { Suite } from "../tests/support/migrate_suite.ts";
import { reenter, rights } from "../tests/support/lab_userns.ts";
import { toolArgs } from "./tool_args.ts";

const USAGE = `deno run -A scripts/migrate.ts [--list]
deno run -A scripts/migrate.ts NAME... [--watch] [--from KIND] [--to KIND]
    [--repair HELPER] [--mtu BYTES] [--binary PATH]
deno run -A scripts/migrate.ts --figures [COUNT...] [--times N] [--binary PATH]

--list shows the scenarios' names.
--figures measures vuelo beside passt, with so many connections (1, 200 and 5000).
KIND is vuelo, passt (of Debian trixie) or passt-sid; HELPER is vuelo, passt or none.
Needs root, or the right to make user namespaces.`;

const args = toolArgs({
  name: "migrate",
  usage: USAGE,
  operands: true,
  string: ["from", "to", "repair", "binary", "mtu", "times"],
  boolean: ["list", "watch", "figures"],
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

/** vuelo by its own right and with a helper, beside passt. */
async function compare(): Promise<number> {
  const pairs: readonly [BackendKind, HelperKind, string][] = [
    ["passt-sid", "passt", "passt of sid"],
    ["vuelo", "none", "vuelo"],
    ["vuelo", "vuelo", "vuelo with vuelo repair"],
  ];
  const worlds = pairs.map(([kind, helper, name]) => {
    return { name, options: { from: { kind, helper }, to: { kind, helper } } };
  });
  const counts = args._.length > 0 ? args._.map(Number) : [1, 200, 5000];
  await figures(worlds, counts, Number(args.times ?? 5), (line) => console.log(line));
  return 0;
}

async function main(): Promise<number> {
  if (args.list || args._.length === 0 && !args.figures) {
    for (const { name, about } of scenarios()) console.log(`${name.padEnd(28)} ${about}`);
    return 0;
  }
  if (await rights() === "namespace") {
    return await reenter(new URL(import.meta.url).pathname, Deno.args);
  }
  if (args.binary !== undefined) Deno.env.set("VUELO_BIN", String(args.binary));
  if (args.figures) return await compare();
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
      for (const fault of outcome.faults) console.log(`  ${fault}`);
      if (outcome.faults.length > 0) failed++;
    }
  } finally {
    await suite.close();
  }
  return failed > 0 ? 1 : 0;
}

Deno.exit(await main());
