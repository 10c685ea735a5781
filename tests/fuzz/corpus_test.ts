/**
 * The committed corpora, run again on the sources as they are: what the fuzzer once found
 * its way to stays without a finding. `deno task fuzz` looks for more.
 */
import "./host/install.ts";
import { readCorpus } from "./engine/corpus.ts";
import { loadTarget, TARGETS } from "./targets.ts";

/**
 * Findings that no other test can show, as no kernel does what the made-up host did. The
 * corpora's tests, which come after, close the targets.
 */
const FOUND = [{
  what: "a host that joins datagrams unasked has none joined for a guest that takes none",
  target: "datagrams",
  input: "4AEA4MfHAAAAAAAAAAAFeAAAAAAAAAAAAAAAAAAAAJeXl5eXQ0NDQ0NDQ0NDQ0NDQ0NDQ0ND" +
    "Q0NDQ0NDQ0NDQ0NDQ0MB",
}];

for (const { what, target, input } of FOUND) {
  Deno.test(`found by fuzzing: ${what}`, async () => {
    (await loadTarget(target)).run(Uint8Array.fromBase64(input));
  });
}

for (const name of TARGETS) {
  Deno.test(`fuzz target ${name} takes its seeds and corpus`, async () => {
    const target = await loadTarget(name);
    const corpus = readCorpus(new URL(`corpus/${name}.txt`, import.meta.url));
    if (corpus.length === 0) throw new Error(`tests/fuzz/corpus/${name}.txt is empty`);
    for (const input of [...target.seeds, ...corpus]) {
      try {
        target.run(input.slice());
      } catch (error) {
        throw new Error(`input ${input.toBase64()}`, { cause: error });
      }
    }
    target.close?.();
  });
}
