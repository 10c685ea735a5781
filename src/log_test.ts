import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { LogFile } from "./log_file.ts";
import { log, LogSite } from "./log.ts";

/** Runs `body` with the log in a file of its own; returns what the file then has. */
function logged(body: () => void, level: "info" | "debug" = "info", size = 1 << 20) {
  const path = Deno.makeTempFileSync();
  try {
    log.configure({ level, file: path, size });
    body();
    return Deno.readTextFileSync(path);
  } finally {
    log.configure({ level: "info", size: 0 });
    Deno.removeSync(path);
  }
}

Deno.test("a log file has time and level on every line", () => {
  const text = logged(() => {
    log.info("first");
    log.debug("not wanted");
    log.warn("second");
  });
  const lines = text.trimEnd().split("\n");
  assertEquals(lines.length, 2);
  assert(/^\d{4}-\d\d-\d\dT[\d:.]+Z info: first$/.test(lines[0]), lines[0]);
  assert(lines[1].endsWith("Z warning: second"), lines[1]);
});

Deno.test("the text of a message is no template and stays on one line", () => {
  const text = logged(() => log.info("{a} %s {*}\nforged\x1b[31m"));
  assertStringIncludes(text, "info: {a} %s {*} forged [31m\n");
});

Deno.test("isDebug() and isTrace() follow the level", () => {
  logged(() => {
    assert(log.isDebug());
    assert(!log.isTrace());
  }, "debug");
  assert(!log.isDebug());
});

Deno.test("a log file keeps its bound, its newest lines and whole lines", () => {
  const path = Deno.makeTempFileSync();
  const file = new LogFile(path, 1000);
  for (let i = 0; i < 500; i++) {
    file.write(new TextEncoder().encode(`line ${i} ${"x".repeat(i % 40)}\n`));
    assert(Deno.statSync(path).size <= 1000);
  }
  const lines = Deno.readTextFileSync(path).trimEnd().split("\n");
  file.close();
  Deno.removeSync(path);
  assertEquals(lines.at(-1), `line 499 ${"x".repeat(499 % 40)}`);
  for (const line of lines) assert(/^line \d+ x*$/.test(line), line);
  assert(lines.length > 10);
});

Deno.test("a log file that exists is continued", () => {
  const path = Deno.makeTempFileSync();
  Deno.writeTextFileSync(path, "before\n");
  const file = new LogFile(path, 4096);
  file.write(new TextEncoder().encode("after\n"));
  file.close();
  assertEquals(Deno.readTextFileSync(path), "before\nafter\n");
  Deno.removeSync(path);
});

Deno.test("no more lines in a second than allowed, and those left out are counted", () => {
  const time = performance.now;
  let now = 5000;
  performance.now = () => now;
  try {
    const text = logged(() => {
      log.limit(3);
      for (let i = 0; i < 10; i++) log.warn(`flood ${i}`);
      log.tick();
      now += 1000;
      log.tick();
      log.tick();
      log.info("as ever");
      now += 1000;
      for (let i = 0; i < 3; i++) log.info("no more than that");
      log.limit(0);
      for (let i = 0; i < 10; i++) log.info("any number");
    });
    const lines = text.trimEnd().split("\n").map((line) => line.replace(/^\S+ /, ""));
    assertEquals(lines, [
      ...[0, 1, 2].map((i) => `warning: flood ${i}`),
      "warning: 7 lines were left out, more than 3 a second (--log-rate)",
      "info: as ever",
      ...new Array(3).fill("info: no more than that"),
      ...new Array(10).fill("info: any number"),
    ]);
  } finally {
    performance.now = time;
    log.limit(0);
  }
});

Deno.test("a call site writes no more than its bound", () => {
  const text = logged(() => {
    const site = new LogSite(3);
    for (let i = 0; i < 1000; i++) site.write("info", `line ${i}`);
  });
  // The second may change while the loop runs, hence at most twice the bound.
  const lines = text.trimEnd().split("\n").length;
  assert(lines >= 3 && lines <= 6, `${lines} lines`);
});
