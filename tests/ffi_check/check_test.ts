import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { Checker } from "./checker.ts";
import { EXIT_OUTSIDE, FOLDER, outcome } from "./install.ts";
import { RULES } from "./prototypes.ts";
import { Registry, REGISTRY_SIZE } from "./regions.ts";

const ROOT = new URL("../..", import.meta.url).pathname;

/** Runs wrong.ts; what it printed, its exit status, and what the check left. */
async function wrong(fault: string, excess: number) {
  const folder = await Deno.makeTempDir({ prefix: "vuelo-wrong-" });
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "--no-check",
        "--allow-all",
        `--config=${ROOT}deno.json`,
        new URL("./wrong.ts", import.meta.url).pathname,
        fault,
        String(excess),
      ],
      env: { [FOLDER]: folder, NO_COLOR: "1" },
      stdin: "null",
    });
    const { code, stdout, stderr } = await child.output();
    const decoder = new TextDecoder();
    return {
      code,
      stdout: decoder.decode(stdout),
      stderr: decoder.decode(stderr),
      outcome: outcome(folder),
    };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What a program with each fault is ended for. */
const FAULTS: Readonly<Record<string, RegExp>> = {
  iovec: /recvmsg\(\): iovec 0: 9 bytes at 0x[0-9a-f]+, of which only 8 are one piece/,
  "second-iovec": /recvmsg\(\): iovec 1: 4097 bytes at .*, of which only 4096 are/,
  "second-message": /sendmmsg\(\): iovecs: 16 bytes at .*, of which only 8 are one piece/,
  name: /recvmsg\(\): msg_name: 33 bytes at .*, of which only 32 are one piece/,
  control: /recvmsg\(\): msg_control: 33 bytes at .*, of which only 32 are one piece/,
  freed: /recvmsg\(\): iovec 0: 8 bytes at 0x[0-9a-f]+, where vuelo has no memory/,
  "neighbour-of-a-piece":
    /recv\(\): buffer: 9 bytes at .*, of which only 8 are one piece/,
  array: /read\(\): buffer has 8 bytes, not 9/,
  "map-over-foreign-memory": /mmap\(\): replaces foreign memory/,
  string: /inotify_add_watch\(\): path has no end/,
  thread: /recvmsg\(\): iovec 0: 9 bytes at .*, of which only 8 are one piece/,
};

for (const [fault, pattern] of Object.entries(FAULTS)) {
  Deno.test(`an address outside ends the program: ${fault}`, async () => {
    const [right, broken] = await Promise.all([wrong(fault, 0), wrong(fault, 1)]);
    assertEquals([right.code, right.stdout], [0, "reached\n"], right.stderr);
    assertEquals(right.outcome.violations, []);
    assert(right.outcome.calls > 0 && right.outcome.ranges > 0);
    assertEquals([broken.code, broken.stdout], [EXIT_OUTSIDE, ""], broken.stderr);
    assertMatch(broken.stderr, pattern);
    assertEquals(broken.outcome.violations.length, 1);
    assertMatch(broken.outcome.violations[0], pattern);
  });
}

Deno.test("every function that ffi binds has a rule, and no other", () => {
  const bound = new Set<string>();
  for (const { name } of Deno.readDirSync(`${ROOT}ffi`)) {
    const text = Deno.readTextFileSync(`${ROOT}ffi/${name}`);
    for (const [, called] of text.matchAll(/^ {2}(\w+): \{\s+parameters: \[/gm)) {
      bound.add(called);
    }
  }
  const known = Object.keys(RULES);
  assertEquals(
    [...bound].filter((name) => !known.includes(name)),
    [],
    "say what it takes",
  );
  assertEquals(known.filter((name) => !bound.has(name) && !OTHERS.includes(name)), []);
});

/** Functions that are bound by tests, or that vuelo may come to call. */
const OTHERS = ["dup", "munmap", "readv"];

Deno.test("a function without a rule is refused when it is bound", () => {
  const checker = new Checker(new Registry(new ArrayBuffer(REGISTRY_SIZE)), (text) => {
    throw new Error(text);
  });
  assertThrows(
    () => checker.wrap("vmsplice", () => 0),
    Error,
    "vmsplice: tests/ffi_check",
  );
});

Deno.test("regions: what is mapped anew stands in the place of what was there", () => {
  const registry = new Registry(new ArrayBuffer(REGISTRY_SIZE));
  registry.map(0x1000, 0x9000, false);
  registry.map(0x20000, 0x21000, true);
  registry.map(0x3000, 0x5000, true);
  const at = (address: number) => registry.find(address);
  assertEquals(at(0xfff), undefined);
  assertEquals(at(0x2fff), { start: 0x1000, end: 0x3000, accessible: false, origin: 1 });
  assertEquals(at(0x3000), { start: 0x3000, end: 0x5000, accessible: true, origin: 1 });
  assertEquals(at(0x5000), { start: 0x5000, end: 0x9000, accessible: false, origin: 1 });
  assertEquals(at(0x9000), undefined);
  assertEquals(at(0x20000)?.origin, 2);
  registry.map(0x4000, 0x6000, false);
  assertEquals(at(0x3fff)?.end, 0x4000);
  assertEquals(at(0x5fff), { start: 0x4000, end: 0x6000, accessible: false, origin: 1 });
  registry.unmap(0x2000, 0x8000);
  assertEquals(registry.within(0, 0x10000).map(({ start, end }) => [start, end]), [
    [0x1000, 0x2000],
    [0x8000, 0x9000],
  ]);
});
