import { assertEquals, assertThrows } from "@std/assert";
import { Script } from "node:vm";
import { asScript } from "../../scripts/compile.ts";

Deno.test("a bundle's imports become values of a function", async () => {
  const { code, imports } = asScript(
    'import util from "node:util";\n' +
      'import { parseArgs as parse, inspect } from "node:util";\n' +
      "globalThis.seen = [util, parse, inspect, import.meta.url];\n",
  );
  assertEquals(imports, ["node:util", "node:util"]);
  const run = new Script(code).runInThisContext();
  await run({ "node:util": { default: 1, parseArgs: 2, inspect: 3 } }, "file:///x");
  assertEquals((globalThis as { seen?: unknown }).seen, [1, 2, 3, "file:///x"]);
});

Deno.test("what cannot be turned is refused", () => {
  for (
    const line of [
      'import * as util from "node:util";',
      'import { a } from "./other.js";',
      "export { main };",
      "console.log(import.meta.main);",
      'const other = await import("./other.js");',
    ]
  ) assertThrows(() => asScript(`${line}\n`), Error, "not expected");
});
