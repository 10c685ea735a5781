/**
 * The long form of the tests of network abuse, and what a well-behaved flow keeps of its
 * rate beside each abuse, measured in turns in one run. See --help.
 */
import { abusedVuelo } from "../tests/support/abuse_world.ts";
import { downloadRates, peerRates, type Rates, stormRates } from "../tests/soak/rates.ts";
import { STORMS } from "../tests/soak/storms.ts";
import { toolArgs } from "./tool_args.ts";

const args = toolArgs({
  name: "abuse",
  usage: "deno task abuse [--binary PATH] [--rates-only] [--only WORDS]",
  string: ["binary", "only"],
  boolean: ["rates-only"],
});
const ROOT = new URL("..", import.meta.url).pathname;
const TESTS = ["guest", "lengths", "opening", "peer", "segments"];
const ADDRESS = `127.99.${Deno.pid >> 8 & 255}.${1 + Deno.pid % 250}`;
const PORT = 7000;
/** Abusive packets of the guest for each packet of the good flow. */
const SHARES = [1, 8];
const FLOODED = [["round trips", peerRates], [
  "bytes downloaded",
  downloadRates,
]] as const;

/** What was less than half of its rate. */
const less: string[] = [];

function show(what: string, { alone, beside }: Rates): void {
  const ratio = beside / alone;
  if (ratio < 0.5) less.push(`${what} (${ratio.toFixed(2)})`);
  console.log(
    `${what.padEnd(48)} ${alone.toFixed(0).padStart(7)} ${
      beside.toFixed(0).padStart(7)
    }` +
      `  ${ratio.toFixed(2)}${ratio < 0.5 ? "  less than half" : ""}`,
  );
}

function wanted(name: string): boolean {
  return name.includes(String(args.only ?? ""));
}

async function rates(): Promise<void> {
  console.log(`${"round trips a second".padEnd(48)}   alone  beside  ratio`);
  const forward = ["-t", `${ADDRESS}/${PORT}:80`, "-u", `${ADDRESS}/${PORT}:80`];
  await abusedVuelo({ args: forward }, async (serve) => {
    for (const [name, begin] of Object.entries(STORMS)) {
      if (!wanted(name)) continue;
      for (const each of SHARES) {
        await serve(async (world) => {
          show(`${each}:1 ${name}`, await stormRates(world, begin, each));
        });
      }
    }
    for (const kind of ["tcp", "udp"] as const) {
      for (const [what, measure] of FLOODED) {
        const name = `a process floods by ${kind}: ${what}`;
        if (!wanted(name)) continue;
        await serve(async (world) => {
          show(name, await measure(world, kind, { address: ADDRESS, port: PORT }));
        });
      }
    }
  });
  console.log(`less than half of the rate: ${less.join(", ") || "nothing"}`);
}

async function tests(): Promise<boolean> {
  const paths = TESTS.map((name) => `${ROOT}tests/protocol/abuse_${name}_test.ts`);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "--allow-all", "--no-check", ...paths],
    env: { VUELO_ABUSE: "long" },
    cwd: ROOT,
  }).spawn().status;
  return success;
}

if (args.binary !== undefined) Deno.env.set("VUELO_BIN", String(args.binary));
await rates();
Deno.exit(args["rates-only"] || await tests() ? 0 : 1);
