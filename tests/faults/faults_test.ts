/**
 * Lives of a guest in which calls of libc fail: the short form of `deno task faults`. What
 * may become of them is stated in stated.ts, and in docs/security/faults.md.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { RULES } from "../ffi_check/prototypes.ts";
import { Injector } from "./injector.ts";
import type { Report } from "./scenario.ts";

const injector = Injector.install();
const { Errno } = await import("../../ffi/errno.ts");
const { FAULTS, faultName, UNFAILING } = await import("./errors.ts");
const { live, liveWithHelper } = await import("./lives.ts");
const { isFinding, once, storm, survey } = await import("./run.ts");
const { log } = await import("../../src/log.ts");

log.configure({ level: "error", size: 0 });
const sites = [...survey(injector, live).values()];

/** One in so many call sites of the survey is tried here, with one of its errors. */
const SHARE = 3;

for (let i = 0; i < sites.length; i += SHARE) {
  const site = sites[i];
  const faults = FAULTS[site.name];
  const fault = faults[i % faults.length];
  Deno.test(`${site.site.replaceAll(/:\d+$/g, "")}: ${faultName(fault)}`, () => {
    const result = once(injector, live, site, fault, 1);
    if (isFinding(result)) throw new Error(`${result.what}: ${result.error}`);
  });
}

/** What was found once: a call, and what comes of it now, if that is the same for all. */
const FOUND: readonly [
  site: RegExp,
  fault: number,
  report: Record<string, string> | undefined,
][] = [
  [/^epoll_create1 .*guest_service/, Errno.EMFILE, { start: "start refused" }],
  [/^mmap by Arena at src\/flow\/udp_send/, Errno.ENOMEM, { start: "start refused" }],
  [/^epoll_ctl by Epoll.add at src\/vhost_user\/listener/, Errno.ENOSPC, {
    start: "start refused",
  }],
  [/^epoll_ctl .*guest_service/, Errno.ENOSPC, { connect: "closed" }],
  [/^open by pointTo .*socket_access/, Errno.EMFILE, { start: "start refused" }],
  [/^fcntl by isBlocking .*rings/, Errno.EPERM, {}],
  [/^sendmsg .*channel/, Errno.EINTR, {}],
  [/^epoll_ctl .*forward\.ts/, Errno.ENOMEM, {}],
  [/^setsockopt .*tcp\/spare/, Errno.ENOMEM, undefined],
  [/^recvmsg .*to_guest/, Errno.EINTR, {}],
  [/^shutdown .*gathered/, Errno.ENOTCONN, { TCP: "reset" }],
  [/^mmap by unmap .*file_mapper/, Errno.ENOMEM, {}],
  [/^getsockopt by timestamp .*save/, Errno.ENOBUFS, { "TCP after a move": "reset" }],
  [/^setsockopt by setTimestamp .*restore/, Errno.EPERM, { "TCP after a move": "reset" }],
  [/^setsockopt by selectQueue .*restore/, Errno.EPERM, { "TCP after a move": "reset" }],
  [/^setsockopt by undeafen .*thaw/, Errno.ENOMEM, { "TCP after a move": "reset" }],
  [/^setsockopt by setOption .*thaw/, Errno.ENOMEM, undefined],
];

for (const [pattern, fault, report] of FOUND) {
  Deno.test(`found: ${pattern.source}: ${faultName(fault)}`, () => {
    const matching = sites.filter(({ site }) => pattern.test(site));
    assertEquals(matching.length > 0, true, "no such call");
    for (const site of matching) {
      const result: unknown = once(injector, live, site, fault, 1);
      if (report !== undefined) assertEquals(result, report, site.site);
      else assertEquals(isFinding(result as Report), false, JSON.stringify(result));
    }
  });
}

Deno.test("of every function it is said how it may fail", () => {
  const unsaid = Object.keys(RULES).filter((name) =>
    !(name in FAULTS) && !UNFAILING.includes(name)
  );
  assertEquals(unsaid, [], "say so in tests/faults/errors.ts");
});

Deno.test("found: a repair helper that cannot be watched is sent away", () => {
  const calls = [...survey(injector, liveWithHelper).values()];
  const site = calls.find(({ site }) => /^epoll_ctl by Epoll.tryAdd .*link/.test(site));
  assert(site !== undefined, "no such call");
  const result: unknown = once(injector, liveWithHelper, site, Errno.ENOSPC, 1);
  assertEquals(result, { "repair helper": "closed" });
});

const START = ["run", "--quiet", "--allow-all", "--no-check"];
const OPTIONS = ["-f", "-s", "/nowhere/socket", "-a", "192.0.2.5/24", "-g", "192.0.2.1"];
const AT_START = [
  ["socket", Errno.EMFILE],
  ["recv", Errno.ENOMEM],
  ["epoll_create1", Errno.ENFILE],
] as const;

for (const [name, fault] of AT_START) {
  Deno.test(`found: a start is refused in one line: ${name}, ${faultName(fault)}`, async () => {
    const main = new URL("./start_main.ts", import.meta.url).pathname;
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...START, main, ...OPTIONS],
      env: { VUELO_FAULT: `${name} ${fault}`, NO_COLOR: "1" },
      stdin: "null",
    }).output();
    const said = new TextDecoder().decode(stderr);
    assertEquals(code, 1, said);
    assertMatch(said, new RegExp(`^vuelo: [^\\n]*${faultName(fault)}[^\\n]*\\n$`));
  });
}

Deno.test("lives in which calls fail at random", () => {
  for (let seed = 1; seed <= 12; seed++) {
    const result = storm(injector, live, seed, 0.01);
    if (isFinding(result)) throw new Error(`${result.what}\n${result.error}`);
  }
});
