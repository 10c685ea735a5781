import { assert, assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../errors.ts";
import { updated } from "../../scripts/readme.ts";
import { helpText } from "./help.ts";
import { GROUPS, type OptionName, OPTIONS, type OptionSpec } from "./options.ts";
import { parseOptions } from "./parse_options.ts";

function texts(args: string[], name: OptionName): string[] {
  return parseOptions(args).all(name).map(({ text }) => text);
}

Deno.test("values may be attached, separate, repeated and begin with a dash", () => {
  assertEquals(
    texts(["-t22", "-t", "23", "--tcp-ports=24", "--tcp-ports", "25"], "tcp-ports"),
    [
      "22",
      "23",
      "24",
      "25",
    ],
  );
  assertEquals(texts(["-H", "-x"], "hostname"), ["-x"]);
  assertEquals(texts(["--mtu="], "mtu"), [""]);
});

Deno.test("switches cluster, and the last of a cluster may take a value", () => {
  const options = parseOptions(["-1f4", "-qt22"]);
  for (const name of ["one-off", "foreground", "ipv4-only", "quiet"] as const) {
    assert(options.has(name), name);
  }
  assertEquals(options.last("tcp-ports"), { text: "22", written: "-t '22'" });
});

Deno.test("-s, --socket and --socket-path are one option", () => {
  const args = ["--socket", "a", "-sb", "--socket-path=c"];
  assertEquals(texts(args, "socket-path"), ["a", "b", "c"]);
});

Deno.test("what is no option is refused by name", () => {
  const cases: [args: string[], message: string][] = [
    [["--nonsense"], "--nonsense: unknown option"],
    [["--socket-p", "/tmp/x"], "did you mean --socket-path?"],
    [["-1Z"], "-Z: unknown option"],
    [["guest"], "'guest'"],
    [["-f", "--", "-1"], "'-1'"],
    [["-m"], "-m: a value is missing"],
    [["--mtu"], "--mtu: a value is missing"],
    [["--help=x"], "--help=x: this option takes no value"],
    [["a\nb"], "'a?b'"],
  ];
  for (const [args, message] of cases) {
    assertThrows(() => parseOptions(args), UsageError, message, args.join(" "));
  }
});

Deno.test("names and letters of options are unique", () => {
  const specs: readonly OptionSpec[] = OPTIONS;
  const names = specs.flatMap((spec) => [spec.name, ...spec.aliases ?? []]);
  const letters = specs.flatMap((spec) => spec.short ?? []);
  assertEquals(new Set(names).size, names.length);
  assertEquals(new Set(letters).size, letters.length);
});

Deno.test("each group of --help fits a terminal of 24 lines and 85 columns", () => {
  const parts = helpText().split("\n\n").slice(2);
  assertEquals(parts.map((part) => part.split(":")[0]), [...GROUPS]);
  for (const part of parts) {
    const lines = part.split("\n");
    assert(lines.length <= 24, lines[0]);
    for (const line of lines) assert(line.length <= 85, line);
  }
});

Deno.test("README shows the options as they are", async () => {
  const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
  assertEquals(readme, updated(readme), "run scripts/readme.ts");
});
