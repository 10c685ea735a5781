/** Ports of the host that lead to the guest, in the forms of the grammar of -t and -u. */
import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { type Case, e2e, type World } from "../support/lab.ts";
import type { Agent } from "../support/lab_agent.ts";
import { FAMILIES, IPV4, IPV6 } from "../support/netns.ts";

const RULES = [
  "8000",
  "8001:8101",
  "8002-8004",
  "8005-8007:8105-8107",
  "8010-8014,~8012",
  "127.0.0.1/8020",
  "::1/8021",
  `${IPV4.host}/8022:8122`,
  "%eth0/8023",
  `${IPV4.host}%eth0/8024-8025:8124-8125`,
  `${IPV6.host}/8026`,
  "8030,8031:8131",
];

/** Who connects (a program on the host, or one beyond), where to, and what it meets. */
interface Probe {
  readonly from: "local" | "peer";
  readonly host: string;
  readonly port: number;
  /** The guest's port; null if nothing listens. */
  readonly to: number | null;
}

const LOCAL4 = "127.0.0.1";
const LOCAL6 = "::1";
const PROBES: readonly Probe[] = [
  ...[LOCAL4, LOCAL6, IPV4.host, IPV6.host].map((host) => (
    { from: "local", host, port: 8000, to: 8000 } as const
  )),
  ...[IPV4.host, IPV6.host].flatMap((host) => [
    { from: "peer", host, port: 8000, to: 8000 } as const,
    { from: "peer", host, port: 8001, to: 8101 } as const,
    { from: "peer", host, port: 8002, to: 8002 } as const,
    { from: "peer", host, port: 8004, to: 8004 } as const,
    { from: "peer", host, port: 8005, to: 8105 } as const,
    { from: "peer", host, port: 8007, to: 8107 } as const,
    { from: "peer", host, port: 8010, to: 8010 } as const,
    { from: "peer", host, port: 8012, to: null } as const,
    { from: "peer", host, port: 8014, to: 8014 } as const,
    { from: "peer", host, port: 8015, to: null } as const,
    { from: "peer", host, port: 8020, to: null } as const,
    { from: "peer", host, port: 8021, to: null } as const,
    { from: "peer", host, port: 8023, to: 8023 } as const,
    { from: "peer", host, port: 8030, to: 8030 } as const,
    { from: "peer", host, port: 8031, to: 8131 } as const,
  ]),
  { from: "local", host: LOCAL4, port: 8020, to: 8020 },
  { from: "local", host: LOCAL6, port: 8020, to: null },
  { from: "local", host: LOCAL6, port: 8021, to: 8021 },
  { from: "local", host: LOCAL4, port: 8021, to: null },
  { from: "peer", host: IPV4.host, port: 8022, to: 8122 },
  { from: "peer", host: IPV6.host, port: 8022, to: null },
  { from: "local", host: LOCAL4, port: 8022, to: null },
  { from: "local", host: LOCAL4, port: 8023, to: null },
  { from: "peer", host: IPV4.host, port: 8025, to: 8125 },
  { from: "peer", host: IPV6.host, port: 8025, to: null },
  { from: "peer", host: IPV6.host, port: 8026, to: 8026 },
  { from: "peer", host: IPV4.host, port: 8026, to: null },
];
const GUEST_PORTS = [...new Set(PROBES.map((probe) => probe.to))].filter((to) =>
  to !== null
);

async function seen({ guest }: World, port: number): Promise<number> {
  return (await guest.call("stats", {}))[port]?.count ?? 0;
}

async function probeTcp(world: World, probe: Probe): Promise<void> {
  const { host, port } = probe;
  const agent: Agent = world[probe.from];
  if (probe.to === null) {
    assertEquals((await agent.call("connect", { host, port })).outcome, "ECONNREFUSED");
    return;
  }
  const before = await seen(world, probe.to);
  const result = await agent.call("echo", { host, port, bytes: 100_000 });
  assertEquals(result.received, result.sent);
  assertEquals(await seen(world, probe.to), before + 1);
}

async function probeUdp(world: World, probe: Probe): Promise<void> {
  const { host, port } = probe;
  const agent: Agent = world[probe.from];
  const request = { host, port, first: 1000, last: 1004 };
  if (probe.to === null) {
    const { failed } = await agent.call("udp_echo", { ...request, last: 1000, tries: 1 });
    assertEquals(failed, [[1000, "ECONNREFUSED"]]);
    return;
  }
  const before = await seen(world, probe.to);
  assertEquals((await agent.call("udp_echo", request)).failed, []);
  assertNotEquals(await seen(world, probe.to), before);
}

/** What the guest sees as source of a connection from beyond the host, or from the host. */
async function sources(world: World): Promise<void> {
  const sourceOf = async (agent: Agent, host: string, source?: string) => {
    await agent.call("echo", { host, port: 8000, bytes: 1, source });
    return (await world.guest.call("stats", {}))[8000].last[0];
  };
  for (const { host, peer } of FAMILIES) {
    assertEquals(await sourceOf(world.peer, host, peer), peer);
  }
  for (const host of [LOCAL4, IPV4.host]) {
    assertEquals(await sourceOf(world.local, host), IPV4.gateway);
  }
  for (const host of [LOCAL6, IPV6.host]) {
    assertEquals(await sourceOf(world.local, host), IPV6.gateway);
  }
}

async function serve(world: World): Promise<void> {
  for (const port of GUEST_PORTS) await world.guest.call("serve_echo", { port });
}

const cases: Case[] = [
  { name: "the guest serves", run: serve },
  ...PROBES.flatMap((probe) => {
    const { from, host, port, to } = probe;
    const name = `from ${from} to ${host} port ${port}: ${to ?? "closed"}`;
    return [
      { name: `TCP ${name}`, run: (world: World) => probeTcp(world, probe) },
      { name: `UDP ${name}`, run: (world: World) => probeUdp(world, probe) },
    ];
  }),
  { name: "sources are kept, or mapped when they are the host's own", run: sources },
  {
    // The host's kernel accepts on vuelo's behalf, so the refusal comes as a reset.
    name: "a port on which the guest does not listen resets",
    run: async ({ guest, peer }) => {
      assertEquals((await guest.call("stats", {}))[8003], undefined);
      for (const { host } of FAMILIES) {
        const outcome = await peer.call("reset", { host, port: 8003 })
          .then((result) => result.outcome, (error) => error.message);
        assertMatch(outcome, /ECONNRESET|EPIPE|ECONNREFUSED|ConnectionRefused/);
      }
    },
  },
  {
    name: "200 connections into the guest at once, and 1000 in a row",
    run: async ({ peer }) => {
      for (const { host } of FAMILIES) {
        const many = await peer.call("many", {
          host,
          port: 8000,
          count: 200,
          bytes: 5000,
        });
        assertEquals(many, { good: 200, errors: {} });
        const { good, errors } = await peer.call("short", {
          host,
          port: 8000,
          count: 1000,
        });
        assertEquals({ good, errors }, { good: 1000, errors: {} });
      }
    },
  },
];

const options = RULES.flatMap((rule) => ["-t", rule, "-u", rule]);
e2e("Forwarded ports", { guest: {}, backend: { args: options } }, cases);

/** The rules that concern all ports, each with a port that works and one that does not. */
const WHOLE = [
  { rule: "all", open: 8000, closed: null },
  { rule: "~8001", open: 8000, closed: 8001 },
  { rule: "none", open: null, closed: 8000 },
] as const;

for (const { rule, open, closed } of WHOLE) {
  const probes = [[open, open], [closed, null]] as const;
  e2e(`Forwarding of "${rule}"`, {
    guest: {},
    backend: { args: ["-t", rule, "-u", rule] },
  }, [
    {
      name: "ports are open or closed as the rule says",
      run: async (world) => {
        for (const port of [8000, 8001]) await world.guest.call("serve_echo", { port });
        for (const [port, to] of probes) {
          if (port === null) continue;
          await probeTcp(world, { from: "peer", host: IPV4.host, port, to });
          await probeUdp(world, { from: "peer", host: IPV6.host, port, to });
        }
      },
    },
  ]);
}
