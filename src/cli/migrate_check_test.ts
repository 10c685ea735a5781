import { assert, assertEquals, assertMatch } from "@std/assert";
import { ip, serviceConfig } from "../../tests/support/service_config.ts";
import type { Config } from "../config.ts";
import { checkHost, statusOf } from "./migrate_check.ts";

const PATH = "/run/target.sock";

function config(address: string, changes: Partial<Config> = {}): Config {
  const usual = serviceConfig();
  return {
    ...usual,
    ip4: { ...usual.ip4!, address: ip(address) },
    ip6: undefined,
    socketPath: PATH,
    runAs: { uid: 65534, gid: 65534 },
    ...changes,
  };
}

function answers(config: Config, sockets: Parameters<typeof checkHost>[1]) {
  return checkHost(config, sockets).map(({ ok, what }) => `${ok ? "yes" : "no"} ${what}`);
}

Deno.test("migrate-check: a host that has all", () => {
  const sockets = [
    { path: PATH, state: "01" },
    { path: `${PATH}.repair`, state: "01" },
    { path: `${PATH}.repair`, state: "03" },
  ];
  const all = answers(config("127.0.0.1"), sockets);
  assertEquals(all.slice(0, 3), [
    "yes the host has the guest's address 127.0.0.1",
    `yes vuelo listens at ${PATH}`,
    `yes a repair helper is connected at ${PATH}.repair`,
  ]);
  assertMatch(all.at(-1)!, /^yes .*vuelo 1, vuelo 2, passt 2$/);
});

Deno.test("migrate-check: what is missing is named", () => {
  const all = answers(config("203.0.113.77"), [
    { path: `${PATH}.repair`, state: "01" },
  ]);
  assertEquals(all.slice(0, 3), [
    "no the host has the guest's address 203.0.113.77",
    `no vuelo listens at ${PATH}`,
    `no a repair helper is connected at ${PATH}.repair`,
  ]);
});

Deno.test("migrate-check: a port that is taken matters unless vuelo itself has it", () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const forwards = [{
    protocol: "tcp" as const,
    address: ip("127.0.0.1"),
    first: port,
    last: port,
    guestFirst: port,
    weak: false,
  }];
  const ports = (sockets: Parameters<typeof checkHost>[1]) =>
    checkHost(config("127.0.0.1", { forwards }), sockets)
      .find(({ what }) => what.includes("forwarded"))!;
  assertEquals(ports([]).ok, false);
  assertMatch(ports([]).advice!, /EADDRINUSE/);
  assert(ports([{ path: PATH, state: "01" }]).ok);
});

Deno.test("migrate-check: what only costs time does not make the answer no", () => {
  // Debian 12's kernel cannot peek on from where it ended.
  const both = { ...config("127.0.0.1"), ip6: serviceConfig().ip6 };
  const checks = checkHost(both, []);
  const peeking = checks.filter(({ what }) => what.includes("SO_PEEK_OFF"));
  assertEquals(peeking.map(({ mayLack }) => mayLack), [true, true]);
  const others = checks.filter((check) => !peeking.includes(check));
  assert(others.every(({ mayLack }) => mayLack === undefined));
  const without = (what: RegExp) =>
    checks.map((check) => ({ ...check, ok: !what.test(check.what) }));
  assertEquals(statusOf(without(/SO_PEEK_OFF/)), 0);
  assertEquals(statusOf(without(/SO_PEEK_OFF|SO_BUF_LOCK/)), 1);
  assertEquals(statusOf(without(/the host has/)), 1);
});
