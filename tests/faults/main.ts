/**
 * `deno task faults [--seeds N] [--verbose] [WORDS]`: every call site that a guest's life
 * comes to, with every error that its function may have, at its first and at its last call;
 * then N lives in which calls fail at random. Only sites that contain WORDS, if given.
 */
import { parseArgs } from "@std/cli";
import { enterNetwork } from "./network.ts";
import { Injector } from "./injector.ts";
import type { Failing } from "./order.ts";
import type { Way } from "./starts.ts";

await enterNetwork(import.meta.url);
const injector = Injector.install();
const { faultName, faultsOf } = await import("./errors.ts");
const { livesWith } = await import("./lives.ts");
const { isFinding, once, storm, survey } = await import("./run.ts");
const { failingOf, judge, start, surveyStart, WAYS } = await import("./starts.ts");
const { help, judgeHelper, surveyHelper } = await import("./helpers.ts");
const { canRepair } = await import("../../src/repair/switch.ts");
const { HelperThread } = await import("./helper_thread.ts");
const { isListed, listed } = await import("./listed.ts");
const { callSites } = await import("./call_sites.ts");
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
let lived = 0;
const places = new Set<string>();
injector.reached = (reached) => reached.forEach((place) => places.add(place));
/** A helper needs the right that it is there for. */
const helper = canRepair() ? await HelperThread.start() : undefined;
const lives = livesWith(helper, true);
for (const living of lives) {
  for (const site of survey(injector, living).values()) {
    if (!site.site.includes(words)) continue;
    // What another life has tried already, this one tries once.
    const again = known.has(site.site);
    known.add(site.site);
    const faults = faultsOf(site.name);
    for (const fault of again ? [faults[lived % faults.length]] : faults) {
      for (const nth of new Set(again ? [site.calls] : [1, site.calls])) {
        const what = `${site.site}: ${faultName(fault)}, call ${nth}`;
        tell(once(injector, living, site, fault, nth), what);
        lived++;
      }
    }
  }
}
console.log(`${known.size} call sites: ${lived} lives with one fault`);

/** Starts of processes, several at a time. */
const AT_ONCE = 3;
const tried = new Set<string>();
let starts = 0;

async function startWith(way: Way, failing: Failing): Promise<void> {
  const { thread, site, fault, nth } = failing;
  const what = `${way.name}: thread ${thread}: ${site}: ${faultName(fault)}, call ${nth}`;
  starts++;
  try {
    const started = await start(way, failing);
    const error = judge(way, failing, started);
    if (error !== "") tell({ what, error }, what);
    else tell(started.report === undefined ? { start: "start refused" } : {}, what);
  } catch (error) {
    tell({ what, error: String(error) }, what);
  }
}

for (const way of WAYS) {
  const surveyed = await surveyStart(way);
  surveyed.places.forEach((place) => places.add(place));
  const todo = failingOf(way, surveyed.sites, tried, known)
    .filter(({ site }) => site.includes(words));
  const work = async () => {
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      await startWith(way, next);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}
for (const form of helper !== undefined ? ["socket", "folder"] as const : []) {
  const surveyed = await surveyHelper(form);
  surveyed.places.forEach((place) => places.add(place));
  const todo = failingOf(WAYS[0], surveyed.sites, tried, known)
    .filter(({ site }) => site.includes(words));
  const work = async () => {
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const { site, fault, nth } = next;
      const what = `repair ${form}: ${site}: ${faultName(fault)}, call ${nth}`;
      starts++;
      try {
        const error = judgeHelper(form, next, await help(form, next));
        tell(error === "" ? {} : { what, error }, what);
      } catch (error) {
        tell({ what, error: String(error) }, what);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}
console.log(`${tried.size} call sites: ${starts} starts with one fault`);
for (let seed = 1; seed <= seeds; seed++) {
  tell(storm(injector, lives[seed % lives.length], seed, PROBABILITY), `seed ${seed}`);
}
const rows = listed();
const all = callSites((name) => faultsOf(name).length > 0);
const missed = all.filter(({ at }) => !places.has(at));
for (const { at, calls } of missed) {
  const known = isListed(rows, at, calls) ? " (listed)" : "";
  console.log(`not reached: ${at} ${calls}${known}`);
}
const others = missed.filter(({ at, calls }) => !isListed(rows, at, calls)).length;
console.log(
  `${missed.length} of ${all.length} call sites in the source are not reached, ` +
    `${others} of them are not listed`,
);
console.log(`${seeds} lives with faults at random; ${findings} findings in all`);
Deno.exit(findings > 0 ? 1 : 0);
