/** `deno task bench` with one short case of each frontend: that it can still measure. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Figures } from "../bench/report/figures.ts";
import { run } from "../support/lab_process.ts";

const SCRIPT = new URL("../bench/main.ts", import.meta.url).pathname;

async function bench(
  level: string,
  filter: string,
  ...more: readonly string[]
): Promise<[string, Figures]> {
  const json = await Deno.makeTempFile({ prefix: "vuelo-bench-" });
  try {
    const options = [`--level=${level}`, `--filter=${filter}`, `--json=${json}`];
    options.push("--rounds=1", "--seconds=0.3", "--quiet=0", ...more);
    const said = await run([Deno.execPath(), "run", "-A", "--no-check", SCRIPT].concat(
      options,
    ));
    return [said, JSON.parse(await Deno.readTextFile(json))];
  } finally {
    await Deno.remove(json);
  }
}

/** vuelo has one sample of each name, with figures; the other back-end has samples. */
function assertMeasured(
  { samples, backends }: Figures,
  names: readonly string[],
): void {
  for (const backend of Object.keys(backends)) {
    const own = samples.filter((sample) => sample.backend === backend);
    assert(own.length > 0, backend);
    // On a machine that has much else to do, passt may fail: that is no fault of ours.
    if (backend !== "vuelo") continue;
    assertEquals(own.map(({ name }) => name), names);
    for (const { name, figures, error } of own) {
      assertEquals(error, undefined, name);
      const values = Object.values(figures);
      assert(values.length > 0 && values.every((value) => value >= 0), name);
    }
  }
}

Deno.test("bench: behind tap, beside passt", async () => {
  const name = "TCP up, 1 stream";
  const [table, figures] = await bench("native", `tap MTU 1500 ${name}`, "--peer=passt");
  assertMeasured(figures, [name, "process"]);
  assertStringIncludes(table, "vuelo / passt");
});

Deno.test("bench: behind DPDK", async () => {
  const name = "UDP up, 64 bytes";
  const [, figures] = await bench("native", `dpdk MTU 1500 ${name}`);
  assertMeasured(figures, [name, "process"]);
});

Deno.test("bench: in QEMU", async () => {
  const name = "TCP down, 1 stream";
  const [, figures] = await bench("guest", `qemu MTU 1500 ${name}`);
  assertMeasured(figures, [name]);
});

Deno.test("bench: in user-mode-linux", async () => {
  const name = "TCP request-response, forwarded";
  const [, figures] = await bench("native", `uml MTU 1500 ${name}`);
  assertMeasured(figures, [name]);
});
