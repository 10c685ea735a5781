/** UDP, DNS and ping between a guest and the world. */
import { assertEquals, assertMatch } from "@std/assert";
import { type Case, DNS, e2e, NAME, Port, type World } from "../support/lab.ts";
import { FAMILIES, type Family, IPV4, IPV6 } from "../support/netns.ts";

const MTU = 1500;
const HEADERS = { IPv4: 28, IPv6: 48 } as const;

async function everySize({ guest }: World, family: Family): Promise<void> {
  const last = MTU - HEADERS[family.name];
  const result = await guest.call("udp_echo", { host: family.peer, first: 0, last });
  assertEquals(result.failed, []);
}

/** More than the MTU leaves the guest as fragments, which are refused with a count. */
async function afterFragments({ guest }: World, family: Family): Promise<void> {
  await guest.call("udp_echo", { host: family.peer, first: 3000, last: 3000, tries: 1 });
  const small = await guest.call("udp_echo", {
    host: family.peer,
    first: 100,
    last: 100,
  });
  assertEquals(small.failed, []);
}

async function ping({ guest }: World, host: string): Promise<void> {
  for (const size of [0, 56, 1400]) {
    const text = await guest.run("ping", "-c", "3", "-i", "0.1", "-s", `${size}`, host);
    assertMatch(text, /3 packets transmitted, 3 packets received, 0% packet loss/);
  }
}

function cases(family: Family): Case[] {
  const { name, peer: host } = family;
  return [
    {
      name: `${name}: echo of every size up to the MTU`,
      run: (world) => everySize(world, family),
    },
    {
      name: `${name}: goes on after fragments`,
      run: (world) => afterFragments(world, family),
    },
    {
      name: `${name}: a closed port is told by ICMP`,
      run: async ({ guest }) => {
        const request = { host, first: 10, last: 10, port: 9, tries: 2 };
        const { failed } = await guest.call("udp_echo", request);
        assertEquals(failed, [[10, "ECONNREFUSED"]]);
      },
    },
    {
      name: `${name}: the peer sees one flow from the host's own address`,
      run: async ({ guest, peer }) => {
        const request = { host, first: 20, last: 40 };
        assertEquals((await guest.call("udp_echo", request)).failed, []);
        const stats = await peer.call("stats", {});
        assertEquals(stats[Port.udpEcho].last[0], family.host);
      },
    },
    { name: `${name}: ping`, run: (world) => ping(world, host) },
  ];
}

const dns: Case[] = [
  {
    name: "DNS goes to the forwarded resolver",
    run: async ({ guest }) => {
      for (const [kind, address] of [[1, IPV4.peer], [28, IPV6.peer]] as const) {
        const result = await guest.call("resolve", { name: NAME, server: DNS, kind });
        assertEquals(result, { code: 0, addresses: [address] });
      }
    },
  },
  {
    name: "DNS tells of a name that is not there",
    run: async ({ guest }) => {
      const result = await guest.call("resolve", { name: "no.such.test", server: DNS });
      assertEquals(result, { code: 3, addresses: [] });
    },
  },
  {
    name: "the guest's own resolver works",
    run: async ({ guest }) => {
      assertMatch(await guest.run("nslookup", NAME), new RegExp(IPV4.peer));
    },
  },
];

e2e(
  "UDP, DNS and ping from a guest",
  { guest: {}, backend: { args: ["-m", `${MTU}`] } },
  [...FAMILIES.flatMap(cases), ...dns],
);
