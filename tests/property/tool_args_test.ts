import { assertEquals, assertStringIncludes } from "@std/assert";

const ROOT = new URL("../../", import.meta.url).pathname;
const TOOLS = [
  "scripts/abuse.ts",
  "scripts/demo.ts",
  "scripts/migrate.ts",
  "scripts/soak.ts",
  "tests/bench/main.ts",
  "tests/fuzz/main.ts",
];

async function tool(path: string, word: string) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "--allow-all", path, word],
    cwd: ROOT,
  }).output();
  const decoder = new TextDecoder();
  return { code, told: decoder.decode(stdout), error: decoder.decode(stderr) };
}

Deno.test("every tool tells its usage, and refuses what it does not know", async (t) => {
  for (const path of TOOLS) {
    await t.step(path, async () => {
      const [helped, refused] = await Promise.all([
        tool(path, "--help"),
        tool(path, "--none-such"),
      ]);
      assertEquals([helped.code, helped.error], [0, ""]);
      assertStringIncludes(helped.told, "deno ");
      assertEquals([refused.code, refused.told], [2, ""]);
      assertEquals(refused.error.trim().split("\n").length, 1, refused.error);
      assertStringIncludes(refused.error, "--none-such");
    });
  }
});
