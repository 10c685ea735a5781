/** What is in force for a running instance, from /proc; and that refused calls are. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { landlockVersion } from "../../ffi/landlock.ts";
import type { ProcessReport } from "../../src/sandbox/report.ts";
import {
  background,
  inFolder,
  IS_ROOT,
  run,
  sandboxReport,
  vuelo,
} from "../support/cli.ts";
import { Process, until } from "../support/lab_process.ts";
import { ordinaryUser, vueloOf } from "../support/lab_user.ts";

const FIXED = ["-a", "192.0.2.5/24", "-g", "192.0.2.1"];
const NONE = "0000000000000000";
const GROUP = 54322;
const KINDS = ["socket", "file", "eventpoll", "eventfd", "pipe", "bpf-prog", "timerfd"];

/** What holds for every thread, whoever started it. */
function checkThreads(report: ProcessReport, user: number): void {
  assert(report.threads.length > 1);
  for (const thread of report.threads) {
    assertEquals(thread.users, Array(4).fill(user), thread.name);
    assertEquals(thread.groups, Array(4).fill(user), thread.name);
    const { bounding, ...sets } = thread.capabilities;
    for (const set of Object.values(sets)) assertEquals(set, NONE, thread.name);
    assert(bounding.length === NONE.length);
    assertEquals(thread.noNewPrivileges, true, thread.name);
    assertEquals(thread.seccomp, "filter", thread.name);
  }
  assertEquals(report.coreLimit, "0");
  if (user !== 0) assertEquals(report.traceable, false);
}

if (IS_ROOT) {
  Deno.test("started by root: every thread is confined, and what is open is known", async () => {
    await inFolder(async (folder) => {
      const files = ["-s", `${folder}/socket`, "-l", `${folder}/log`];
      const args = [...FIXED, ...files, "-p", `${folder}/pcap`, "--queues", "2"];
      await background(folder, [...args, "--runas", "54321"], async (pid) => {
        const { code, report } = await sandboxReport(pid);
        assertEquals([code, report.lacking], [0, []]);
        checkThreads(report, 54321);
        for (const thread of report.threads) {
          assertEquals(thread.supplementary, [], thread.name);
        }
        const main = report.threads.find(({ id }) => id === pid);
        assertEquals(main?.capabilities.bounding, NONE);
        // Run from the sources, the runtime has caches open.
        const own = report.writable?.filter((path) => path.startsWith(folder));
        assertEquals(own, [`${folder}/log`, `${folder}/pcap`]);
        const others = report.writable?.filter((path) => !path.includes("/deno/"));
        assertEquals(others, ["/dev/null", ...own ?? []]);
        for (const kind of Object.keys(report.descriptors ?? {})) {
          assert(KINDS.includes(kind), kind);
        }
        assertStringIncludes(await Deno.readTextFile(`${folder}/log`), "info: Sandbox: ");
      });
    });
  });

  /** Runs vuelo, started in the foreground with supplementary groups and an open file. */
  const withMore = (
    runAs: string,
    body: (pid: number, said: string, file: string) => Promise<void>,
  ): Promise<void> =>
    inFolder(async (folder) => {
      // Deno's own child, which a background is, would have no groups.
      const args = ["-f", ...FIXED, "-s", `${folder}/socket`, "--runas", runAs];
      const groups = ["setpriv", "--groups", `${GROUP + 1},${GROUP + 2}`, "--"];
      const file = `${folder}/file`;
      const open = ["sh", "-c", 'exec "$@" 6>>"$0"', file];
      const backend = new Process([...open, ...groups, ...vuelo(args).flat()]);
      try {
        await backend.says(/Sandbox: .*$/m);
        await body(backend.pid, backend.output, file);
      } finally {
        await backend.stop();
      }
    });

  Deno.test("root gives up its supplementary groups and what was open, on every thread", () =>
    withMore(`54321:${GROUP}`, async (pid, _said, file) => {
      const { report } = await sandboxReport(pid);
      assertEquals(report.writable?.includes(file), false);
      for (const { users, groups, supplementary, name } of report.threads) {
        assertEquals([users[1], groups[1], supplementary], [54321, GROUP, []], name);
      }
    }));

  Deno.test("root that stays root does so, too, and says what it keeps", async () => {
    await withMore(`root:${GROUP}`, async (pid, said) => {
      assertMatch(said, /Sandbox: .*lacking: idle threads keep the capabilities/);
      const { code, report } = await sandboxReport(pid);
      assertEquals([code, report.lacking.length], [1, 2], report.lacking.join("\n"));
      for (const { groups, supplementary, ...thread } of report.threads) {
        assertEquals([groups, supplementary], [Array(4).fill(GROUP), []], thread.name);
        assertEquals(thread.seccomp, "filter", thread.name);
      }
    });
    await inFolder(async (folder) => {
      const args = ["-f", ...FIXED, "-s", `${folder}/socket`, "--runas", "root"];
      const { code, stderr } = await run([...args, "--sandbox", "strict"]);
      assertEquals(code, 1);
      assertStringIncludes(stderr, "--sandbox strict: idle threads keep");
    });
  });
}

Deno.test("started by an ordinary user: every thread is confined", async () => {
  await using user = await ordinaryUser();
  const folder = await Deno.makeTempDir({ prefix: "vuelo-sandbox-" });
  const { uid = Deno.uid() ?? 0 } = user.backend;
  await Deno.chown(folder, uid, uid);
  const command = vueloOf(user, ["-f", ...FIXED, "-s", `${folder}/socket`]);
  const backend = new Process(command, user.backend);
  try {
    await until("vuelo says what is in force", () => {
      if (backend.ended) throw new Error(backend.output);
      return /^.*Sandbox: .*$/m.test(backend.output);
    });
    const { code, report } = await sandboxReport(backend.pid);
    assertEquals([code, report.lacking], [0, []]);
    checkThreads(report, uid);
  } finally {
    await backend.stop();
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("--sandbox none leaves calls and files, and is said to lack them", async () => {
  await inFolder((folder) =>
    background(
      folder,
      [...FIXED, "-s", `${folder}/socket`, "--sandbox=none"],
      async (pid, printed) => {
        assertMatch(printed, /Sandbox: .*lacking: --sandbox none/);
        const { code, report } = await sandboxReport(pid);
        assertEquals(code, 1);
        assertStringIncludes(report.lacking.join(), "system calls filtered");
      },
    )
  );
  const wrong = await run(["-f", "--sandbox", "some"]);
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.stderr, "--sandbox 'some'");
  assertEquals((await run(["sandbox-report", "x"])).code, 2);
  assertEquals((await run(["sandbox-report", "2147483647"])).code, 1);
});

/** Runs tests/support/confined.ts. */
async function confined(...args: string[]) {
  const script = new URL("../support/confined.ts", import.meta.url).pathname;
  const config = new URL("../../deno.json", import.meta.url).pathname;
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "-A", `--config=${config}`, script, ...args],
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  const text = decoder.decode(output.stdout);
  return { ...output, text, said: decoder.decode(output.stderr) };
}

/** Calls of which a library would believe that the kernel is older. */
const MISSING = ["clone3", "a call to come"];
const ENOTSOCK = 88;

/** Has the process that MAKERS stands for try what it may not, and checks the outcome. */
async function checkRefused(makers: string): Promise<Record<string, unknown>> {
  const folder = await Deno.makeTempDir({ prefix: "vuelo-sandbox-" });
  for (const path of ["own/socket", "other/file"]) {
    await Deno.mkdir(`${folder}/${path.slice(0, path.indexOf("/"))}`);
    await Deno.writeTextFile(`${folder}/${path}`, "");
  }
  const { text, said } = await confined("refused", makers, folder);
  await Deno.remove(folder, { recursive: true });
  assert(text !== "", said);
  const { whole, thread, talk, repair, removed, ...refused } = JSON.parse(text);
  assertEquals(whole, true);
  for (const [call, result] of Object.entries(refused)) {
    const error = MISSING.includes(call) ? Errno.ENOSYS : Errno.EPERM;
    assertEquals(result, -error, call);
  }
  assertEquals(thread, "PermissionDenied");
  return { talk, repair, removed };
}

Deno.test("what the service never does is refused, on every thread; it can talk", async () => {
  const { talk, removed } = await checkRefused("service");
  assertEquals(talk, "word");
  // Its filter lets it remove files: which, is up to Landlock.
  const other = landlockVersion() > 0 ? "PermissionDenied" : "removed";
  assertEquals(removed, ["removed", other]);
});

for (const makers of ["repair", "repair,folder"]) {
  Deno.test(`what the repair helper never does is refused: ${makers}`, async () => {
    assertEquals((await checkRefused(makers)).repair, -ENOTSOCK);
  });
}

for (const call of ["execve", "ptrace", "mount", "unshare", "add_key", "init_module"]) {
  for (const makers of ["service", "repair,folder"]) {
    Deno.test(`${call} ends a process that has been taken over: ${makers}`, async () => {
      const { signal, code, said, text } = await confined("deadly", makers, call);
      assertEquals([signal, text], ["SIGSYS", ""], `${code}: ${said}`);
    });
  }
}

Deno.test("Landlock: no files are opened or made; a socket can be removed", async () => {
  const { text, said } = await confined("files");
  assert(text !== "", said);
  const result = JSON.parse(text);
  assertEquals(result.before, "read");
  if (result.version === 0) {
    assert(result.reached.error !== 0);
    return;
  }
  assertEquals(result.reached.error, 0);
  assertEquals(result.own, "PermissionDenied");
  // A thread that was there before: see confine.ts for why that does not matter.
  assertEquals(result.thread, result.reached.everyThread ? "PermissionDenied" : "read");
  assertEquals([result.made, result.removed], ["PermissionDenied", true]);
  assertEquals(result.signal, result.version >= 6 ? -Errno.EPERM : 0);
});
