/**
 * Network abuse from start to end: what a well-behaved flow keeps of its rate beside each
 * abuse, measured in turns in one run, then the long form of the tests. See --help.
 *
 * It fails if a flow kept less than half, did not go on at all, or a test failed. The short
 * form, whose rates are too few to be judged, shows that all of it works.
 */
import { abusedVuelo, type AbuseWorld } from "../tests/support/abuse_world.ts";
import {
  downloadRates,
  type Pace,
  peerRates,
  type Rates,
  stormRates,
} from "../tests/soak/rates.ts";
import { STORMS } from "../tests/soak/storms.ts";
import { toolArgs } from "./tool_args.ts";

const args = toolArgs({
  name: "abuse",
  usage: "deno task abuse [--binary PATH] [--only WORDS] [--rates-only] [--short]",
  string: ["binary", "only"],
  boolean: ["rates-only", "short"],
});
const ROOT = new URL("..", import.meta.url).pathname;
const TESTS = ["guest", "lengths", "opening", "peer", "segments"];
const ADDRESS = `127.99.${Deno.pid >> 8 & 255}.${1 + Deno.pid % 250}`;
const PORT = 7000;
const PACE: Pace = args.short ? { window: 100, turns: 1 } : { window: 500, turns: 6 };
/** Abusive packets of the guest for each packet of the good flow. */
const SHARES = [1, 8];
const FLOODED = [["round trips", peerRates], [
  "bytes downloaded",
  downloadRates,
]] as const;

type Measure = (world: AbuseWorld) => Promise<Rates>;

/** What was less than half of its rate, and what could not be measured. */
const less: string[] = [];
const failed: string[] = [];

function show(what: string, { alone, beside }: Rates): void {
  const ratio = beside / alone;
  const isLess = ratio < 0.5 && !args.short;
  if (isLess) less.push(`${what} (${ratio.toFixed(2)})`);
  const rates = [alone, beside].map((rate) => rate.toFixed(0).padStart(11)).join(" ");
  console.log(
    `${what.padEnd(52)} ${rates}  ${ratio.toFixed(2)}${isLess ? "  less than half" : ""}`,
  );
}

/** All that is measured, by name. */
function* measures(): Generator<readonly [string, Measure]> {
  for (const [name, begin] of Object.entries(STORMS)) {
    for (const each of SHARES) {
      yield [`${each}:1 ${name}`, (world) => stormRates(world, begin, each, PACE)];
    }
  }
  const forwarded = { address: ADDRESS, port: PORT };
  for (const kind of ["tcp", "udp"] as const) {
    for (const [what, measure] of FLOODED) {
      const name = `a process floods by ${kind}: ${what}`;
      yield [name, (world) => measure(world, kind, forwarded, PACE)];
    }
  }
}

function load(): string {
  const [one] = Deno.loadavg();
  return `load average ${one.toFixed(1)}, ${navigator.hardwareConcurrency} cores`;
}

async function rates(): Promise<void> {
  const wanted = [...measures()].filter(([name]) =>
    name.includes(String(args.only ?? ""))
  );
  console.log(`before: ${load()}`);
  console.log(`${"a second".padEnd(52)}       alone      beside  ratio`);
  const forward = ["-t", `${ADDRESS}/${PORT}:80`, "-u", `${ADDRESS}/${PORT}:80`];
  await abusedVuelo({ args: forward }, async (serve) => {
    for (const [name, measure] of wanted) {
      try {
        await serve(async (world) => show(name, await measure(world)));
      } catch (error) {
        failed.push(name);
        console.log(`${name}: ${(error as Error).message}`);
      }
    }
    // What vuelo has said of it is shown with the error.
    if (failed.length > 0) throw new Error(`not measured: ${failed.join(", ")}`);
  }).catch((error) => {
    if (failed.length === 0) failed.push("vuelo");
    console.log(error.message);
  });
  console.log(`after: ${load()}`);
}

async function tests(): Promise<boolean> {
  const paths = TESTS.map((name) => `${ROOT}tests/protocol/abuse_${name}_test.ts`);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "--allow-all", "--no-check", ...paths],
    env: args.short ? {} : { VUELO_ABUSE: "long" },
    cwd: ROOT,
  }).spawn().status;
  return success;
}

if (args.binary !== undefined) {
  Deno.env.set("VUELO_BIN", Deno.realPathSync(String(args.binary)));
}
await rates();
const passed = args["rates-only"] || await tests();
console.log(
  args.short
    ? "less than half of the rate: not judged in the short form"
    : `less than half of the rate: ${less.join(", ") || "nothing"}`,
);
if (failed.length > 0) console.log(`failed: ${failed.join(", ")}`);
if (!args["rates-only"]) console.log(`tests: ${passed ? "passed" : "failed"}`);
Deno.exit(passed && failed.length === 0 && less.length === 0 ? 0 : 1);
