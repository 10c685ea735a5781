/**
 * Lives of a guest in which calls of libc fail: the short form of `deno task faults`. What
 * may become of them is stated in stated.ts, and in docs/security/faults.md.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { RULES } from "../ffi_check/prototypes.ts";
import { Injector } from "./injector.ts";
import type { Report } from "./outcome.ts";
import type { Live, Site } from "./run.ts";
import type { Form } from "./helpers.ts";
import type { Way } from "./starts.ts";

const injector = Injector.install();
const { Errno } = await import("../../ffi/errno.ts");
const { FAULTS, faultName, faultsOf, UNFAILING } = await import("./errors.ts");
const {
  live,
  live6,
  liveFull,
  liveHelped,
  liveOdd,
  livePolling,
  liveRehearsing,
  liveWithHelper,
} = await import("./lives.ts");
const { isFinding, once, storm, survey } = await import("./run.ts");
const { callSites } = await import("./call_sites.ts");
const { listed } = await import("./listed.ts");
const { announceAt } = await import("../../src/host/announce.ts");
const { LOOPBACK4 } = await import("../support/host_tcp.ts");
const { judge, start, surveyStart, WAYS } = await import("./starts.ts");
const { help, judgeHelper, surveyHelper } = await import("./helpers.ts");
const { defaultUser } = await import("../../src/host/privileges.ts");
const { HelperThread } = await import("./helper_thread.ts");
const { effectiveUser } = await import("../../ffi/process.ts");
const { canRepair } = await import("../../src/repair/switch.ts");
const { log } = await import("../../src/log.ts");

log.configure({ level: "error", size: 0 });
const sites = [...survey(injector, live).values()];

/** One in so many call sites of the survey is tried here, with one of its errors. */
const SHARE = 3;

for (let i = 0; i < sites.length; i += SHARE) {
  const site = sites[i];
  const faults = faultsOf(site.name);
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
  [/^fcntl by isBlocking .*rings/, Errno.EPERM, {}],
  [/^sendmsg .*channel/, Errno.EINTR, {}],
  [/^epoll_ctl .*forward\.ts/, Errno.ENOMEM, {}],
  [/^setsockopt .*tcp\/spare/, Errno.ENOMEM, undefined],
  [/^recvmsg .*to_guest/, Errno.EINTR, {}],
  [/^shutdown .*gathered/, Errno.ENOTCONN, { TCP: "reset" }],
  [/^mmap by unmap .*file_mapper/, Errno.ENOMEM, {}],
  [/^getsockopt by timestamp .*save/, Errno.ENOBUFS, { "TCP after a move": "reset" }],
  [/^setsockopt by setTimestamp .*rebuild/, Errno.EPERM, { "TCP after a move": "reset" }],
  [/^setsockopt by selectQueue .*rebuild/, Errno.EPERM, { "TCP after a move": "reset" }],
  [/^setsockopt by undeafen .*thaw/, Errno.ENOMEM, { "TCP after a move": "reset" }],
  [/^setsockopt by setOption .*thaw/, Errno.ENOMEM, undefined],
];

type Found = typeof FOUND;
const TRIES = 3;

/** Runs `body` until it does not throw; what is wrong throws every time. */
function eventually(body: () => void): void {
  for (let tries = 1;; tries++) {
    try {
      return body();
    } catch (error) {
      if (tries === TRIES) throw error;
    }
  }
}

/** Has the first or the last call fail of all sites that are meant. */
function findAgain(life: Live, found: Found, sites: readonly Site[], last = false): void {
  for (const [pattern, fault, report] of found) {
    Deno.test(`found: ${pattern.source}: ${faultName(fault)}`, () => {
      const matching = sites.filter(({ site }) => pattern.test(site));
      assertEquals(matching.length > 0, true, "no such call");
      for (const site of matching) {
        const nth = last ? site.calls : 1;
        const attempt = () => {
          const result: unknown = once(injector, life, site, fault, nth);
          if (report !== undefined) assertEquals(result, report, site.site);
          else assertEquals(isFinding(result as Report), false, JSON.stringify(result));
        };
        // The kernel's time is not that of the life, which runs ahead.
        eventually(attempt);
      }
    });
  }
}

findAgain(live, FOUND, sites);
if (defaultUser() !== undefined) {
  const given: Found[number] = [
    /^open by pointTo .*socket_access/,
    Errno.EMFILE,
    { start: "start refused" },
  ];
  findAgain(live, [given], sites);
}

/** What was found where connections move with full queues, and with odd frontends. */
const FOUND_FULL: Found = [
  [/^setsockopt .*to_guest/, Errno.ENOMEM, {}],
  [/^setsockopt by selectQueue .*rebuild/, Errno.EPERM, { "TCP after a move": "reset" }],
  [/^recv .*save/, Errno.EINTR, {}],
  [/^send .*rebuild/, Errno.EINTR, {}],
];
const FOUND_ODD: Found = [[/^poll by isHungUp/, Errno.EINTR, {}]];

const FOUND_POLLING: Found = [
  [/^getsockopt .*tcp\/service/, Errno.ENOPROTOOPT, undefined],
];

if (canRepair()) {
  findAgain(livePolling, FOUND_POLLING, [...survey(injector, livePolling).values()]);
  findAgain(liveFull, FOUND_FULL, [...survey(injector, liveFull).values()], true);
}
findAgain(liveOdd, FOUND_ODD, [...survey(injector, liveOdd).values()], true);

Deno.test({
  name: "a repair helper that takes no message is sent away, and the guest stays",
  ignore: !canRepair(),
  fn: async () => {
    const helper = await HelperThread.start();
    try {
      const life = liveHelped(helper);
      const calls = [...survey(injector, life).values()];
      const site = calls.find(({ site }) => /^sendmsg .*remote/.test(site));
      assert(site !== undefined, "no such call");
      const result: unknown = once(injector, life, site, Errno.EAGAIN, 1);
      assertEquals(result, { move: "not moved" });
    } finally {
      helper.end();
    }
  },
});

Deno.test("of every function it is said how it may fail", () => {
  const unsaid = Object.keys(RULES).filter((name) =>
    !(name in FAULTS) && !UNFAILING.includes(name)
  );
  assertEquals(unsaid, [], "say so in tests/faults/errors.ts");
});

Deno.test("what is said not to be reached is in the code", () => {
  const sites = callSites((name) => faultsOf(name).length > 0);
  const stale = [...listed()].flatMap(([file, calls]) =>
    calls.filter((name) =>
      !sites.some(({ at, calls }) => at.startsWith(`${file}:`) && calls === name)
    ).map((name) => `${file} ${name}`)
  );
  assertEquals(stale, [], "see docs/security/faults.md");
  assert(listed().size > 0);
});

Deno.test("found: without memory for an announcement the process goes on", () => {
  let refused = 0;
  injector.decide = (name) => {
    if (name !== "mmap") return undefined;
    refused++;
    return Errno.ENOMEM;
  };
  injector.within(() => announceAt(LOOPBACK4, LOOPBACK4, 0));
  injector.decide = () => undefined;
  assertEquals(refused, 1);
});

Deno.test("found: a repair helper that cannot be watched is sent away", () => {
  const calls = [...survey(injector, liveWithHelper).values()];
  const site = calls.find(({ site }) => /^epoll_ctl by Epoll.tryAdd .*link/.test(site));
  assert(site !== undefined, "no such call");
  const result: unknown = once(injector, liveWithHelper, site, Errno.ENOSPC, 1);
  assertEquals(result, { "repair helper": "closed" });
});

Deno.test("found: a rehearsal that fails leaves nothing open", () => {
  const calls = [...survey(injector, liveRehearsing).values()];
  const own = canRepair() ? /^epoll_ctl .*rehearsal/ : /^ftruncate .*rehearsal/;
  for (const pattern of [/^ftruncate .*rehearsal/, own]) {
    const site = calls.find(({ site }) => pattern.test(site));
    assert(site !== undefined, "no such call");
    const fault = site.name === "ftruncate" ? Errno.EIO : Errno.ENOMEM;
    assertEquals(once(injector, liveRehearsing, site, fault, 1) as unknown, {});
  }
});

Deno.test("found: a rehearsal that has no memory leaves nothing open", () => {
  const calls = [...survey(injector, liveRehearsing).values()];
  const site = calls.find(({ site }) => /^mmap by Arena at src\/flow\/ping/.test(site));
  assertEquals(site?.calls, 2, "the guest's and the rehearsal's");
  assertEquals(once(injector, liveRehearsing, site!, Errno.ENOMEM, 2) as unknown, {});
});

const known = new Set(sites.map(({ site }) => site));
const sites6 = [...survey(injector, live6).values()].filter(({ site }) =>
  !known.has(site)
);

Deno.test("calls that only a guest with IPv6 and packed rings leads to", () => {
  assert(sites6.length > 0);
  for (let i = 0; i < sites6.length; i += SHARE) {
    const faults = faultsOf(sites6[i].name);
    const result = once(injector, live6, sites6[i], faults[i % faults.length], 1);
    if (isFinding(result)) throw new Error(`${result.what}: ${result.error}`);
  }
});

const [DEFAULT, STRICT, QUEUES, BACKGROUND] = WAYS;
/** Starts in which a call fails, what is said then, and whether it serves. */
const STARTS: readonly (readonly [Way, RegExp, number, RegExp, boolean])[] = [
  [DEFAULT, /^socket .*routes/, Errno.EMFILE, /EMFILE/, false],
  [DEFAULT, /^recv .*routes/, Errno.ENOMEM, /ENOMEM/, false],
  [DEFAULT, /^epoll_create1 .*guest_service/, Errno.ENFILE, /ENFILE/, false],
  [DEFAULT, /^syscall \d+ 38 .*dropCapabilities/, Errno.EPERM, /EPERM/, false],
  [DEFAULT, /^syscall \d+ by installFilter/, Errno.ENOMEM, /lacking: .*no seccomp/, true],
  [STRICT, /^syscall \d+ by installFilter/, Errno.ENOMEM, /strict: .*no seccomp/, false],
  [DEFAULT, /^syscall \d+ 4 by forbidDumps/, Errno.EPERM, /lacking: .*dumped/, true],
  [STRICT, /^syscall \d+ 4 by forbidDumps/, Errno.EPERM, /strict: .*dumped/, false],
  [QUEUES, /^prctl 38 .*worker/, Errno.EPERM, /a thread for --queues: .*EPERM/, false],
  [QUEUES, /^epoll_create1 .*worker/, Errno.EMFILE, /for --queues: .*EMFILE/, false],
  [QUEUES, /^write .*mesh\/mesh/, Errno.EINTR, /Sandbox/, true],
  [BACKGROUND, /^dup2 /, Errno.EINTR, /Sandbox/, true],
  [BACKGROUND, /^dup2 /, Errno.EMFILE, /waits for its end, stays/, true],
];
/** As these, where root becomes another user. */
const OF_ROOT: typeof STARTS = [
  [DEFAULT, /^setresuid /, Errno.EAGAIN, /setresuid.*EAGAIN/, false],
  [DEFAULT, /^setgroups /, Errno.EPERM, /setgroups.*EPERM/, false],
  [
    DEFAULT,
    /^syscall \d+ 24 by boundToNothing/,
    Errno.EPERM,
    /CAPBSET_DROP.*EPERM/,
    false,
  ],
];

Deno.test({
  name: "found: starts in which a call fails",
  // Root of a user namespace: Deno itself ends with an error where it may not see its maps.
  ignore: effectiveUser() === 0 && defaultUser() === undefined,
  fn: async () => {
    const ways = [DEFAULT, QUEUES, BACKGROUND];
    const surveys = await Promise.all(ways.map((way) => surveyStart(way)));
    const todo = defaultUser() !== undefined ? [...STARTS, ...OF_ROOT] : [...STARTS];
    const work = async () => {
      for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
        const [way, pattern, fault, says, serves] = next;
        // With strict the calls are those of default.
        const { sites } = surveys[Math.max(0, ways.indexOf(way))];
        const site = sites.find(({ site }) => pattern.test(site));
        assert(site !== undefined, `no such call: ${pattern.source}`);
        const failing = { ...site, nth: 1, fault };
        const started = await start(way, failing);
        const what = `${way.name}: ${pattern.source}: ${started.said}`;
        assertEquals(judge(way, failing, started), "", what);
        assertEquals(started.report !== undefined, serves, what);
        assertMatch(started.said, says);
      }
    };
    await Promise.all([work(), work(), work()]);
  },
});

/** Repair helpers in which a call fails: each serves all the same, or says why not. */
const HELPERS: readonly (readonly [Form, RegExp, number, boolean])[] = [
  ["folder", /^socket .*folder/, Errno.EMFILE, true],
  ["folder", /^epoll_ctl .*tryAdd .*folder/, Errno.ENOMEM, true],
  ["folder", /^capset /, Errno.EPERM, false],
];

Deno.test({
  name: "found: repair helpers in which a call fails",
  ignore: !canRepair() || defaultUser() === undefined,
  fn: async () => {
    const { sites } = await surveyHelper("folder");
    await Promise.all(HELPERS.map(async ([form, pattern, fault, serves]) => {
      const site = sites.find(({ site }) => pattern.test(site));
      assert(site !== undefined, `no such call: ${pattern.source}`);
      const failing = { ...site, nth: 1, fault };
      const helped = await help(form, failing);
      assertEquals(judgeHelper(form, failing, helped), "", helped.said);
      assertEquals(helped.served, serves, helped.said);
    }));
  },
});

Deno.test("lives in which calls fail at random", () => {
  for (let seed = 1; seed <= 12; seed++) {
    const result = storm(injector, live, seed, 0.01);
    if (isFinding(result)) throw new Error(`${result.what}\n${result.error}`);
  }
});
