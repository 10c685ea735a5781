/** What a guest and the world around it say to each other in one round of a soak. */
import type { Agent } from "../support/lab_agent.ts";
import { Port } from "../support/lab_agent.ts";
import { BULK, type Scenario } from "../support/migrate_run.ts";
import { BEAT, guestBeats, peerBeats } from "../support/migrate_scenarios.ts";
import { FAMILIES, IPV4, IPV6 } from "../support/netns.ts";
import { DNS, NAME } from "../support/lab.ts";

/** Bytes of each long transfer. */
const LONG = 16 << 20;

/** Streams and questions that go on while the guest moves; all are checked. */
export const WHILE_MOVING: Scenario = {
  name: "soak",
  about: "streams both ways, connections, datagrams and pings while the guest moves",
  flows: [
    guestBeats(IPV4),
    peerBeats(IPV6),
    { origin: "guest", family: IPV6, peer: { limit: BULK }, until: "guest receives" },
    { origin: "peer", family: IPV4, guest: { limit: BULK }, until: "peer receives" },
    { origin: "guest", family: IPV4, count: 20, guest: { beat: 50 * BEAT } },
    { origin: "peer", family: IPV6, count: 20 },
  ],
  questions: [
    { kind: "connect", from: "peer", family: IPV4 },
    { kind: "connect", from: "guest", family: IPV6 },
    { kind: "udp", from: "guest", family: IPV4, allowed: ["unanswered"] },
    { kind: "ping", from: "guest", family: IPV6, allowed: ["unanswered"] },
  ],
};

/** One thing that is done in a round; what is wrong with what came of it, if anything. */
type Deed = readonly [what: string, run: () => Promise<string | undefined>];

function streams(guest: Agent, peer: Agent): Deed[] {
  const same = (one: { sent: string | null; received: string }) =>
    one.sent === one.received ? undefined : "other bytes arrived";
  return FAMILIES.flatMap((family): Deed[] => [
    [
      "download",
      async () => same(await guest.call("download", { host: family.peer, bytes: LONG })),
    ],
    [
      "upload",
      async () => same(await guest.call("upload", { host: family.peer, bytes: LONG })),
    ],
    [
      "echo to the guest",
      async () => same(await peer.call("echo", { host: family.host, bytes: LONG >> 2 })),
    ],
  ]);
}

function storms(guest: Agent, peer: Agent): Deed[] {
  const all = (count: number, { good, errors }: { good: number; errors: unknown }) =>
    good === count ? undefined : `${good} of ${count}: ${JSON.stringify(errors)}`;
  const many = { count: 200, bytes: 2000 };
  return [
    [
      "200 at once from the guest",
      async () => all(200, await guest.call("many", { host: IPV6.peer, ...many })),
    ],
    [
      "200 at once to the guest",
      async () => all(200, await peer.call("many", { host: IPV4.host, ...many })),
    ],
    [
      "100 short from the guest",
      async () => all(100, await guest.call("short", { host: IPV4.peer, count: 100 })),
    ],
    ["100 short to the guest", async () => {
      const to = { host: IPV6.host, count: 100, port: Port.echo };
      return all(100, await peer.call("short", to));
    }],
  ];
}

function questions(guest: Agent): Deed[] {
  return [
    ["datagrams", async () => {
      const sizes = { host: IPV4.peer, first: 1, last: 1400, step: 50 };
      const { failed } = await guest.call("udp_echo", sizes);
      return failed.length === 0 ? undefined : JSON.stringify(failed);
    }],
    ["names", async () => {
      const { addresses } = await guest.call("resolve", { name: NAME, server: DNS });
      return addresses.includes(IPV4.peer) ? undefined : `${NAME} is ${addresses}`;
    }],
    ["ping", async () => {
      for (const { peer } of FAMILIES) {
        await guest.run("ping", "-c", "3", "-i", "0.2", peer);
      }
      return undefined;
    }],
  ];
}

/** Does all of it at once; a line for whatever did not go well. */
export async function traffic(guest: Agent, peer: Agent): Promise<string[]> {
  const deeds = [...streams(guest, peer), ...storms(guest, peer), ...questions(guest)];
  const outcomes = await Promise.all(deeds.map(async ([what, run]) => {
    const wrong = await run().catch((error: Error) => error.message);
    return wrong === undefined ? [] : [`${what}: ${wrong}`];
  }));
  return outcomes.flat();
}
