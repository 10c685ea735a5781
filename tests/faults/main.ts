/**
 * `deno task faults [--seeds N] [--verbose] [WORDS]`: every call site that a guest's life
 * comes to, with every error that its function may have, at its first and at its last call;
 * then N lives in which calls fail at random. Only sites that contain WORDS, if given.
 */
import { parseArgs } from "@std/cli";
import { Injector } from "./injector.ts";

const injector = Injector.install();
const { FAULTS, faultName } = await import("./errors.ts");
const { live, liveWithHelper } = await import("./lives.ts");
const { isFinding, once, storm, survey } = await import("./run.ts");
const { log } = await import("../../src/log.ts");

const SEEDS = 500;
/** Of about a thousand calls in a life, so many fail. */
const PROBABILITY = 0.01;

const options = parseArgs(Deno.args, { string: ["seeds"], boolean: ["verbose"] });
const words = options._.join(" ");
const seeds = Number(options.seeds ?? SEEDS);
let findings = 0;

function tell(result: Awaited<ReturnType<typeof once>>, what: string): void {
  const steps = Object.entries(result).map(([step, how]) => `${step}: ${how}`);
  if (isFinding(result)) {
    findings++;
    console.log(`FINDING ${result.what}\n${result.error}`);
  } else if (options.verbose) console.log(`${what}: ${steps.join(", ") || "done"}`);
}

log.configure({ level: "error", size: 0 });
const known = new Set<string>();
let lives = 0;
for (const living of [live, liveWithHelper]) {
  for (const site of survey(injector, living).values()) {
    if (known.has(site.site) || !site.site.includes(words)) continue;
    known.add(site.site);
    for (const fault of FAULTS[site.name]) {
      for (const nth of new Set([1, site.calls])) {
        const what = `${site.site}: ${faultName(fault)}, call ${nth}`;
        tell(once(injector, living, site, fault, nth), what);
        lives++;
      }
    }
  }
}
console.log(`${known.size} call sites: ${lives} lives with one fault`);
for (let seed = 1; seed <= seeds; seed++) {
  tell(storm(injector, live, seed, PROBABILITY), `seed ${seed}`);
}
console.log(`${seeds} lives with faults at random; ${findings} findings in all`);
Deno.exit(findings > 0 ? 1 : 0);
