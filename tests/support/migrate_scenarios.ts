/** Scenarios in which the guest moves, whatever its connections do at the time. */
import { assert, assertEquals } from "@std/assert";
import { BULK, type Flow, move, type Run, type Scenario } from "./migrate_run.ts";
import { DATAGRAM_PORT } from "./migrate_streams.ts";
import { type Family, IPV4, IPV6 } from "./netns.ts";

/** A few bytes every so many seconds, often enough to see a pause. */
const BEAT = 0.002;
/** The same for many connections at once. */
const SLOW_BEAT = 0.25;

const guestBeats = (family: Family): Flow => ({
  origin: "guest",
  family,
  guest: { beat: BEAT },
  until: "peer receives",
});
const peerBeats = (family: Family): Flow => ({
  origin: "peer",
  family,
  peer: { beat: BEAT },
  until: "guest receives",
});
/** One connection each way that a guest always has besides, to see the pause by. */
const WATCH: readonly Flow[] = [guestBeats(IPV4), peerBeats(IPV6)];

const idle = (family: Family): Flow[] => [
  { origin: "guest", family },
  { origin: "peer", family },
];
const bulk = (family: Family, up: boolean, down: boolean): Flow[] =>
  (["guest", "peer"] as const).map((origin): Flow => ({
    origin,
    family,
    ...(up ? { guest: { limit: BULK }, until: "peer receives" } : {}),
    ...(down ? { peer: { limit: BULK }, until: "guest receives" } : {}),
  }));

/** The peer must have got all datagrams from one and the same address and port. */
async function oneSource(run: Run): Promise<void> {
  const seen = await run.world.streams.peer.call("datagrams_seen", {
    port: DATAGRAM_PORT,
  });
  assertEquals(Object.keys(seen as Record<string, number>).length, 1, `${seen}`);
}

async function forgetSources(run: Run): Promise<void> {
  await run.world.streams.peer.call("datagrams_serve", { port: DATAGRAM_PORT });
}

async function thereAndBack(run: Run): Promise<Awaited<ReturnType<typeof move>>> {
  const { world } = run;
  let result = await world.migrate();
  const descriptors = [world.hosts.a, world.hosts.b].map((h) => h.backend.descriptors());
  for (let turn = 1; turn < 20; turn++) {
    run.say(`turn ${turn}`);
    result = await world.migrate();
  }
  const after = [world.hosts.a, world.hosts.b].map((h) => h.backend.descriptors());
  // Both have had the guest come and go by the first measurement's end.
  for (const [index, count] of after.entries()) {
    assert(
      count <= Math.max(...descriptors) + 4,
      `hypervisor ${index}: ${count} descriptors, ${descriptors} at first`,
    );
  }
  return result;
}

function perFamily(make: (family: Family) => Scenario): Scenario[] {
  return [IPV4, IPV6].map((family) => {
    const scenario = make(family);
    return { ...scenario, name: `${scenario.name}-${family.name.toLowerCase()}` };
  });
}

export const MOVES: readonly Scenario[] = [
  { name: "none", about: "no connection" },
  {
    name: "watched",
    about: "one connection each way with a few bytes every 2 ms: the figures' scenario",
    flows: WATCH,
  },
  ...perFamily((family) => ({
    name: "idle",
    about: "one connection each way, idle",
    flows: idle(family),
  })),
  ...perFamily((family) => ({
    name: "bulk-up",
    about: "one each way, the guest sends as fast as it can",
    flows: bulk(family, true, false),
  })),
  ...perFamily((family) => ({
    name: "bulk-down",
    about: "one each way, the peer sends as fast as it can",
    flows: bulk(family, false, true),
  })),
  ...perFamily((family) => ({
    name: "bulk-both",
    about: "one each way, both ends send as fast as they can",
    flows: bulk(family, true, true),
  })),
  {
    name: "200",
    about: "200 connections, of both families and from both ends",
    flows: [
      { origin: "guest", family: IPV4, count: 50, guest: { beat: SLOW_BEAT } },
      { origin: "guest", family: IPV6, count: 50, peer: { beat: SLOW_BEAT } },
      { origin: "peer", family: IPV4, count: 50, guest: { beat: SLOW_BEAT } },
      { origin: "peer", family: IPV6, count: 50 },
    ],
  },
  ...perFamily((family) => ({
    name: "half-closed-by-guest",
    about: "the guest has shut down, the peer still sends",
    flows: [
      {
        origin: "guest",
        family,
        guest: { limit: 5000, fin: true },
        peer: { beat: BEAT },
        until: "peer ended",
      },
      {
        origin: "peer",
        family,
        guest: { fin: true },
        peer: { beat: BEAT },
        until: "peer ended",
      },
    ],
  })),
  ...perFamily((family) => ({
    name: "half-closed-by-peer",
    about: "the peer has shut down, the guest still sends",
    flows: [
      {
        origin: "guest",
        family,
        peer: { limit: 5000, fin: true },
        guest: { beat: BEAT },
        until: "guest ended",
      },
      {
        origin: "peer",
        family,
        peer: { fin: true },
        guest: { beat: BEAT },
        until: "guest ended",
      },
    ],
  })),
  {
    name: "silent-peer",
    about: "the peer's segments are lost for as long as the guest moves",
    flows: [
      { origin: "guest", family: IPV4, guest: { beat: 0.05 }, peer: { deaf: true } },
      { origin: "peer", family: IPV6, guest: { beat: 0.05 }, peer: { deaf: true } },
    ],
  },
  {
    name: "unread-by-guest",
    about: "the peer sends until the guest's buffer and the back-end's queue are full",
    flows: [IPV4, IPV6].map((family): Flow => ({
      origin: "guest",
      family,
      guest: { read: false },
      peer: { limit: BULK },
      until: "peer stuck",
    })),
  },
  {
    name: "unread-by-peer",
    about: "the guest sends until the peer's buffer and the back-end's queue are full",
    flows: [IPV4, IPV6].map((family): Flow => ({
      origin: "peer",
      family,
      peer: { read: false },
      guest: { limit: BULK },
      until: "guest stuck",
    })),
  },
  {
    name: "udp",
    about: "a UDP flow, which keeps its port",
    questions: [
      { kind: "udp", from: "guest", family: IPV4, allowed: ["unanswered"] },
    ],
    prepare: forgetSources,
    check: oneSource,
    needs: "vuelo",
  },
  {
    name: "udp-ipv6",
    about: "a UDP flow over IPv6, which keeps its port",
    questions: [
      { kind: "udp", from: "guest", family: IPV6, allowed: ["unanswered"] },
    ],
    prepare: forgetSources,
    check: oneSource,
    needs: "vuelo",
  },
  {
    name: "ping",
    about: "pings over both families",
    questions: [IPV4, IPV6].map((family) => (
      { kind: "ping", from: "guest", family, allowed: ["unanswered"] }
    )),
  },
  {
    name: "attempts",
    about: "the peer and the guest open connections all the while: none is refused",
    questions: [IPV4, IPV6].flatMap((family) => [
      { kind: "connect", from: "peer", family },
      { kind: "connect", from: "guest", family },
    ]),
    needs: "vuelo",
  },
  {
    name: "ten-times",
    about: "there and back ten times, with streams both ways all the while",
    flows: [...WATCH, ...bulk(IPV4, true, false).slice(0, 1)],
    act: thereAndBack,
  },
];

export { BEAT, bulk, guestBeats, idle, peerBeats, WATCH };
