import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Sample } from "../net/results.ts";
import { comparisonChart } from "./chart.ts";
import type { Figures } from "./figures.ts";
import { merge } from "./plot.ts";
import { rowsOf, spread } from "./ratio.ts";
import { asMarkdown, asText, sections } from "./table.ts";

const BACKENDS = ["vuelo", "passt"];

function sample(backend: string, round: number, throughput: number): Sample {
  const name = "TCP up, 1 stream";
  const figures = { throughput };
  return { level: "native", frontend: "tap", mtu: 1500, name, backend, round, figures };
}

const SAMPLES = [
  sample("vuelo", 0, 10),
  sample("passt", 0, 5),
  sample("passt", 1, 4),
  sample("vuelo", 1, 12),
];

Deno.test("the median of an even number of values lies between two", () => {
  assertEquals(spread([4, 1, 3, 2]), { median: 2.5, least: 1, most: 4 });
  assertEquals(spread([3, 9, 1]), { median: 3, least: 1, most: 9 });
});

Deno.test("a ratio is of figures of the same round", () => {
  const [row] = rowsOf(SAMPLES, BACKENDS);
  assertEquals(row.ratio, { median: 2.5, least: 2, most: 3 });
  assertEquals(row.byBackend.get("passt"), { median: 4.5, least: 4, most: 5 });
});

Deno.test("what failed is said, and has no ratio", () => {
  const failed = { ...sample("passt", 0, 0), figures: {}, error: "it ended" };
  const [section] = sections([sample("vuelo", 0, 7), failed], BACKENDS);
  assertEquals(section.rows, [[
    "TCP up, 1 stream",
    "throughput, Gbit/s",
    "7.00",
    "failed",
    "-",
  ]]);
  assertStringIncludes(asText(section), "passt: it ended");
  assertStringIncludes(asMarkdown(section), "| 7.00 | failed | - |");
});

Deno.test("a later run of a case replaces an earlier one", () => {
  const run = (backends: Figures["backends"], samples: Sample[]): Figures => ({
    about: {},
    backends,
    micro: [],
    heap: [],
    samples,
  });
  const again = [sample("vuelo", 0, 99)];
  const { samples } = merge([run({ vuelo: "a" }, SAMPLES), run({ vuelo: "b" }, again)]);
  assertEquals(samples, again);
});

Deno.test("a chart says what it shows", () => {
  const svg = comparisonChart(rowsOf(SAMPLES, BACKENDS), BACKENDS);
  assert(svg.startsWith("<svg"));
  const words = ["native, tap: throughput (more is better)", "Gbit/s", "passt"];
  for (const word of [...words, "TCP up, 1 stream, MTU 1500", "vuelo / passt", "2.50"]) {
    assertStringIncludes(svg, word);
  }
});
