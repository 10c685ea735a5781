/** `deno task bench` with one short case of each frontend: that it can still measure. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Figures } from "../bench/report/figures.ts";
import { run } from "../support/lab_process.ts";

const SCRIPT = new URL("../bench/main.ts", import.meta.url).pathname;

async function bench(level: string, filter: string): Promise<[string, Figures]> {
  const json = await Deno.makeTempFile({ prefix: "vuelo-bench-" });
  try {
    const options = [`--level=${level}`, `--filter=${filter}`, `--json=${json}`];
    options.push("--peer=passt", "--rounds=1", "--seconds=0.3", "--quiet=0");
    const said = await run([Deno.execPath(), "run", "-A", "--no-check", SCRIPT].concat(
      options,
    ));
    return [said, JSON.parse(await Deno.readTextFile(json))];
  } finally {
    await Deno.remove(json);
  }
}

/** Each back-end has one sample of each name, with figures that are numbers above 0. */
function assertMeasured({ samples }: Figures, names: readonly string[]): void {
  for (const backend of ["vuelo", "passt"]) {
    const own = samples.filter((sample) => sample.backend === backend);
    assertEquals(own.map(({ name }) => name), names);
    for (const { name, figures, error } of own) {
      assertEquals(error, undefined, `${backend}: ${name}`);
      assert(Object.values(figures).every((value) => value > 0), name);
    }
  }
}

for (const frontend of ["tap", "dpdk"]) {
  Deno.test(`bench: behind ${frontend}, beside passt`, async () => {
    const name = "TCP up, 1 stream";
    const [table, figures] = await bench("native", `${frontend} MTU 1500 ${name}`);
    assertMeasured(figures, [name, "process"]);
    assertStringIncludes(table, "vuelo / passt");
  });
}
