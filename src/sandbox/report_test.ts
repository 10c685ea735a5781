import { assertEquals, assertMatch } from "@std/assert";
import { lackingOf, parseStatus } from "./report.ts";

/** Fields of proc_pid_status(5) of a thread that is confined, less a few others. */
const STATUS = {
  Name: "vuelo",
  Uid: "65534\t65534\t65534\t65534",
  Gid: "65534\t65534\t65534\t65534",
  Groups: " ",
  CapInh: "0000000000000000",
  CapPrm: "0000000000000000",
  CapEff: "0000000000000000",
  CapBnd: "000001ffffffffff",
  CapAmb: "0000000000000000",
  NoNewPrivs: "1",
  Seccomp: "2",
};

function thread(other: Partial<typeof STATUS> = {}) {
  const fields = Object.entries({ ...STATUS, ...other });
  return parseStatus(1, fields.map(([key, value]) => `${key}:\t${value}\n`).join(""));
}

const BEFORE = { coreLimit: "0", traceable: false } as const;

Deno.test("nothing is lacking where all threads are confined", () => {
  const threads = [thread(), thread({ CapPrm: "0000000000001000" })];
  assertEquals(lackingOf({ ...BEFORE, threads }), []);
  assertEquals(lackingOf({ ...BEFORE, threads, traceable: null }), []);
});

Deno.test("whatever one thread lacks is said", () => {
  const cases: readonly (readonly [Partial<typeof STATUS>, RegExp])[] = [
    [{ Uid: "65534\t65534\t0\t65534" }, /^an ordinary user: not so on 1 of 3 threads$/],
    [{ CapInh: "0000000000000001" }, /^no capability but CAP_NET_ADMIN: .* 1 of 3/],
    [{ CapPrm: "0000000000003000" }, /^no capability but CAP_NET_ADMIN: .* 1 of 3/],
    [{ CapEff: "0000000100000000" }, /^no capability but CAP_NET_ADMIN: .* 1 of 3/],
    [{ CapAmb: "0000010000000000" }, /^no capability but CAP_NET_ADMIN: .* 1 of 3/],
    [{ NoNewPrivs: "0" }, /^no new privileges: not so on 1 of 3 threads$/],
    [{ Seccomp: "0" }, /^system calls filtered: not so on 1 of 3 threads$/],
    [{ Seccomp: "1" }, /^system calls filtered: /],
    [{ Seccomp: "" }, /^system calls filtered: /],
  ];
  for (const [other, expected] of cases) {
    const threads = [thread(), thread(other), thread()];
    const [line, ...more] = lackingOf({ ...BEFORE, threads });
    assertMatch(line ?? "", expected, JSON.stringify(other));
    assertEquals(more, []);
  }
});

Deno.test("memory that may be dumped or traced is said", () => {
  const threads = [thread()];
  assertMatch(
    lackingOf({ ...BEFORE, threads, coreLimit: "unlimited" })[0],
    /^no core dumps: the limit is unlimited$/,
  );
  assertMatch(lackingOf({ ...BEFORE, threads, traceable: true })[0], /^no tracing: /);
});
