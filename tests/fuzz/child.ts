/**
 * Runs one target with counters, out of dist/fuzz/tree, for main.ts: one line of JSON for
 * each thing to tell, the working corpus in a file.
 *
 * child.ts TARGET SECONDS SEED COMMITTED WORKING SAVE
 */
import "./host/install.ts";
import "./engine/coverage.ts";
import { readCorpus, writeCorpus } from "./engine/corpus.ts";
import { FlightRecorder } from "./engine/flight.ts";
import { Fuzzer } from "./engine/fuzzer.ts";
import { loadTarget } from "./targets.ts";

/** Bytes of a corpus that is committed. */
const SAVED_LIMIT = 9000;
const REPORT_MS = 5000;
const SAVE_MS = 60_000;

const [name, seconds, seed, committed, working, save] = Deno.args;
const target = await loadTarget(name);
const recorder = new FlightRecorder(target.maxLength);
const note = recorder.note.bind(recorder);
const fuzzer = new Fuzzer(target, Number(seed), note);

function say(what: Record<string, unknown>): void {
  Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(what) + "\n"));
}

function report(): void {
  const { executions, coverage: { edges }, corpus, branches } = fuzzer;
  say({ executions, edges, corpus, branches });
  for (; told < fuzzer.findings.length; told++) {
    const { signature, message, input } = fuzzer.findings[told];
    say({ signature, message, input: input.toBase64() });
  }
}

let told = 0;
say({ recorder: recorder.fd });
const files = [committed, working].flatMap(readCorpus);
for (const input of [...target.seeds, ...files]) fuzzer.add(input);
const start = performance.now();
let reported = start;
let saved = start;
for (let now = start; now < start + 1000 * Number(seconds); now = performance.now()) {
  if (now >= reported + REPORT_MS) {
    report();
    reported = now;
  }
  if (now >= saved + SAVE_MS) {
    writeCorpus(working, fuzzer.inputs());
    saved = now;
  }
  fuzzer.step();
}
report();
writeCorpus(working, fuzzer.inputs());
if (save === "save") writeCorpus(committed, fuzzer.minimized(SAVED_LIMIT));
say({ done: (performance.now() - start) / 1000 });
target.close?.();
Deno.exit(0);
