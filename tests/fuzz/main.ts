/**
 * Fuzzes what reads bytes from outside. A finding is written to dist/fuzz/findings with the
 * command that replays it. What was found out is kept in dist/fuzz/corpus for the next
 * time; --save writes a small part of it to tests/fuzz/corpus, which is committed. See
 * --help.
 */
import "./host/install.ts";
import { toolArgs } from "../../scripts/tool_args.ts";
import { FlightReader } from "./engine/flight.ts";
import { makeTree } from "./engine/tree.ts";
import { loadTarget, TARGETS } from "./targets.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const OUTPUT = `${ROOT}dist/fuzz/`;
const FINDINGS = `${OUTPUT}findings/`;
const USAGE = `deno task fuzz [TARGET...] [--seconds N] [--seed S] [--jobs K] [--save]
deno task fuzz --replay FILE

Fuzzes each target N seconds (all targets and 60 if not said), K at a time (1); the exit
status is 1 if something was found. --replay runs one input on the sources as they are.
Targets: ${TARGETS.join(" ")}`;
/** An input that runs longer is one that never ends. */
const HANG_MS = 60_000;
const LOOK_MS = 2000;

interface Options {
  readonly seconds: number;
  readonly seed: number;
  readonly save: boolean;
}

/** What a child said last, and what was found. */
class Run {
  executions = 0;
  edges = 0;
  corpus = 0;
  branches = 0;
  seconds = 0;
  findings = 0;
  #reader: FlightReader | undefined;
  #done = false;

  constructor(readonly name: string, readonly options: Options) {}

  async finish(tree: string): Promise<void> {
    const { seconds, seed, save } = this.options;
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--allow-all",
        "--no-check",
        `--config=${ROOT}deno.json`,
        `${tree}tests/fuzz/child.ts`,
        this.name,
        String(seconds),
        String(seed),
        `${ROOT}tests/fuzz/corpus/${this.name}.txt`,
        `${OUTPUT}corpus/${this.name}.txt`,
        save ? "save" : "",
      ],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const watch = this.#watch(child);
    let text = "";
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      text += part;
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) this.#take(JSON.parse(line), child.pid);
    }
    const status = await child.status;
    clearInterval(watch);
    if (!this.#done) this.#died(`the process ended: ${status.signal ?? status.code}`);
    this.#reader?.close();
  }

  #take(said: Record<string, unknown>, pid: number): void {
    if (typeof said.recorder === "number") {
      this.#reader = new FlightReader(pid, said.recorder);
    } else if (typeof said.done === "number") {
      this.#done = true;
      this.seconds = said.done;
    } else if (typeof said.input === "string") {
      this.#report(said.message as string, Uint8Array.fromBase64(said.input));
    } else Object.assign(this, said);
  }

  /** Ends a child whose input never ends. */
  #watch(child: Deno.ChildProcess): ReturnType<typeof setInterval> {
    let [last, since] = [-1, performance.now()];
    return setInterval(() => {
      const executions = this.#reader?.read().executions ?? -1;
      if (executions !== last) [last, since] = [executions, performance.now()];
      else if (performance.now() - since > HANG_MS) child.kill("SIGKILL");
    }, LOOK_MS);
  }

  #died(why: string): void {
    const last = this.#reader?.read();
    this.#report(why, last?.input ?? new Uint8Array(0));
  }

  #report(message: string, input: Uint8Array): void {
    this.findings++;
    Deno.mkdirSync(FINDINGS, { recursive: true });
    const file = `${FINDINGS}${this.name}.${Date.now()}.${this.findings}`;
    Deno.writeFileSync(file, input);
    console.error(`\n${this.name}: ${message}`);
    console.error(`${input.length} bytes: deno task fuzz --replay ${file}\n`);
  }

  line(): string {
    const rate = Math.round(this.executions / Math.max(1, this.seconds));
    const numbers = [this.executions, rate, this.edges, this.corpus, this.findings];
    return row(this.name, Math.round(this.seconds), ...numbers);
  }
}

function row(name: string, ...columns: (string | number)[]): string {
  return name.padEnd(20) + columns.map((column) => String(column).padStart(12)).join("");
}

async function fuzz(names: readonly string[], jobs: number, options: Options) {
  const tree = makeTree();
  console.log(`seed ${options.seed}`);
  const head = ["seconds", "executions", "per second", "branches", "corpus", "findings"];
  console.log(row("target", ...head));
  const waiting = [...names];
  let findings = 0;
  await Promise.all(Array.from({ length: jobs }, async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      const run = new Run(name, options);
      await run.finish(tree);
      console.log(run.line());
      findings += run.findings;
    }
  }));
  return findings;
}

/** Runs an input of a file whose name begins with the target's. */
async function replay(file: string): Promise<void> {
  const name = file.slice(file.lastIndexOf("/") + 1).split(".")[0];
  const target = await loadTarget(name);
  target.run(Deno.readFileSync(file));
  target.close?.();
  console.log(`${name}: nothing is thrown`);
}

function usage(message: string): never {
  console.error(`fuzz: ${message}`);
  Deno.exit(2);
}

const args = toolArgs({
  name: "fuzz",
  usage: USAGE,
  operands: true,
  string: ["seconds", "seed", "jobs", "replay"],
  boolean: ["save"],
  default: { seconds: "60", jobs: "1", seed: String(Date.now() % 2 ** 32) },
});
if (typeof args.replay === "string") {
  await replay(args.replay);
  Deno.exit(0);
}
const names = args._.length > 0 ? args._.map(String) : [...TARGETS];
const wrong = names.find((name) => !TARGETS.includes(name));
if (wrong !== undefined) usage(`no target '${wrong}': ${TARGETS.join(" ")}`);
const [seconds, seed, jobs] = [args.seconds, args.seed, args.jobs].map(Number);
if (!(seconds > 0) || !(jobs >= 1) || !Number.isInteger(seed)) {
  usage("--seconds, --jobs and --seed want numbers");
}
Deno.exit(
  await fuzz(names, jobs, { seconds, seed, save: args.save === true }) > 0 ? 1 : 0,
);
