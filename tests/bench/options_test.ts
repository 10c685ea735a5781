import { assert, assertEquals, assertThrows } from "@std/assert";
import { parse, UsageError } from "./options.ts";

Deno.test("without arguments every level and case is wanted", () => {
  const options = parse([])!;
  assertEquals([...options.levels], ["micro", "native", "guest"]);
  assert(options.wanted("anything"));
  assertEquals(options.peer, undefined);
});

Deno.test("a filter is matched without regard to case", () => {
  const { wanted, levels } = parse(["--filter=tcp UP|udp", "--level", "micro,guest"])!;
  assert(wanted("tap MTU 1500 TCP up, 1 stream"));
  assert(!wanted("tap MTU 1500 TCP down, 1 stream"));
  assertEquals([...levels], ["micro", "guest"]);
});

Deno.test("what makes no sense is refused", () => {
  for (
    const word of [
      "--level=fast",
      "--seconds=0",
      "--rounds=x",
      "--filter=(",
      "--what",
      "x",
    ]
  ) {
    assertThrows(() => parse([word]), UsageError);
  }
  assertEquals(parse(["--quiet=0"])!.quiet, 0);
  assertEquals(parse(["--help"]), undefined);
});
