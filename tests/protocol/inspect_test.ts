/** `vuelo inspect` from outside. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { inFolder, run, vuelo } from "../support/cli.ts";
import { sampleState } from "../support/state_samples.ts";
import { MACHINES, writeState } from "../support/state_writer.ts";

Deno.test("inspect prints files and standard input, and its exit status tells", async () => {
  await inFolder(async (folder) => {
    const bytes = writeState(MACHINES[0], sampleState());
    const path = `${folder}/stream`;
    await Deno.writeFile(path, bytes);
    const whole = await run(["inspect", path]);
    assertEquals([whole.code, whole.stderr], [0, ""]);
    assertStringIncludes(whole.stdout, "TCP connections: 2\n");

    const [program, args] = vuelo(["inspect", "--json", "-"]);
    const child = new Deno.Command(program, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(bytes.subarray(0, 66000));
    await writer.close();
    const { code, stdout } = await child.output();
    const report = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals([code, report.damage.length], [1, 1]);
    assertEquals(report.damage[0].offset, 66000);
  });
  const missing = await run(["inspect", "/nonexistent/stream"]);
  assertEquals(missing.code, 1);
  assertStringIncludes(missing.stderr, "vuelo: inspect '/nonexistent/stream': ");
  const wrong = await run(["inspect"]);
  assertEquals([wrong.code, wrong.stdout], [2, ""]);
  assertStringIncludes(wrong.stderr, "needs one file");
});
