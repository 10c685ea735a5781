/**
 * The committed corpora, run again on the sources as they are: what the fuzzer once found
 * its way to stays without a finding. `deno task fuzz` looks for more.
 */
import "./host/install.ts";
import { readCorpus } from "./engine/corpus.ts";
import { loadTarget, TARGETS } from "./targets.ts";

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
