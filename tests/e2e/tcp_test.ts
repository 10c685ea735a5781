/** TCP between a guest and the world: streams, ends of streams, failures, many at once. */
import { assert, assertEquals } from "@std/assert";
import { type Case, e2e, Port, type World } from "../support/lab.ts";
import type { Transfer } from "../support/lab_agent.ts";
import { IS_VUELO } from "../support/lab_backend.ts";
import { until } from "../support/lab_process.ts";
import { FAMILIES, type Family } from "../support/netns.ts";

const MIB = 1 << 20;
const GIB = 1 << 30;
/** A stream takes at most about this long, on a guest that cannot move 1 GiB in it. */
const STREAM_SECONDS = 45;

function assertIntact(result: Omit<Transfer, "seconds">, bytes: number): void {
  assertEquals(result.bytes, bytes);
  assertEquals(result.received, result.sent);
}

/** 1 GiB, or what this guest moves in STREAM_SECONDS, judged by a first 32 MiB; says so. */
async function stream(
  world: World,
  op: "download" | "upload",
  host: string,
): Promise<void> {
  const first = await world.guest.call(op, { host, bytes: 32 * MIB });
  assertIntact(first, 32 * MIB);
  const able = Math.floor(32 * STREAM_SECONDS / first.seconds) * MIB;
  const bytes = Math.max(64 * MIB, Math.min(GIB, able));
  const result = await world.guest.call(op, { host, bytes });
  assertIntact(result, bytes);
  const limited = bytes < GIB ? `, limited by time: ${STREAM_SECONDS} s` : "";
  const rate = (bytes / result.seconds / 1e6).toFixed(0);
  console.log(`    ${op}: ${bytes / MIB} MiB at ${rate} MB/s${limited}`);
}

async function bothWays({ guest }: World, host: string): Promise<void> {
  const bytes = 128 * MIB;
  const [down, up] = await Promise.all([
    guest.call("download", { host, bytes }),
    guest.call("upload", { host, bytes }),
  ]);
  assertIntact(down, bytes);
  assertIntact(up, bytes);
}

/** Nothing answers: the guest's attempt ends by time-out, as the host's own does. */
async function blackHole({ guest, network }: World, family: Family): Promise<void> {
  await network.sysctl(network.host, "ipv4/tcp_syn_retries", "1");
  await guest.shell("echo 2 > /proc/sys/net/ipv4/tcp_syn_retries");
  const { outcome } = await guest.call("connect", { host: family.blackHole, port: 80 });
  const expected = IS_VUELO ? /^(ETIMEDOUT|EHOSTUNREACH)$/ : /^E/;
  assert(expected.test(outcome), `connecting to a black hole gave ${outcome}`);
}

async function guestResets({ guest, peer }: World, host: string): Promise<void> {
  await guest.call("send_reset", { host, port: Port.silent });
  await until("the peer's connection ends", async () => {
    const stats = (await peer.call("stats", {}))[Port.silent];
    return stats.count > 0 && stats.open === 0;
  });
}

async function descriptorsOf(world: World): Promise<number> {
  await until("the guest's connections are gone at the peer", async () => {
    const stats = await world.peer.call("stats", {});
    return Object.values(stats).every((port) => port.open === 0);
  });
  return world.backend.descriptors();
}

/** Short connections in a row; the back-end ends with the descriptors it began with. */
async function shortOnes(world: World, host: string, count: number): Promise<void> {
  await world.guest.call("short", { host, count: 10 });
  const before = await descriptorsOf(world);
  const { good, errors } = await world.guest.call("short", { host, count }, 400_000);
  assertEquals({ good, errors }, { good: count, errors: {} });
  await descriptorsOf(world);
  await until(
    `descriptors go back to ${before}`,
    () => world.backend.descriptors() <= before,
  );
}

function cases(family: Family): Case[] {
  const { name, peer: host } = family;
  return [
    { name: `${name}: 1 GiB down`, run: (world) => stream(world, "download", host) },
    { name: `${name}: 1 GiB up`, run: (world) => stream(world, "upload", host) },
    { name: `${name}: both ways at once`, run: (world) => bothWays(world, host) },
    {
      name: `${name}: 200 connections at once`,
      run: async ({ guest }) => {
        const tally = await guest.call("many", { host, count: 200, bytes: 20_000 });
        assertEquals(tally, { good: 200, errors: {} });
      },
    },
    {
      name: `${name}: a closed port refuses`,
      run: async ({ guest }) => {
        const { outcome } = await guest.call("connect", { host, port: 9 });
        assertEquals(outcome, "ECONNREFUSED");
      },
    },
    {
      name: `${name}: an unreachable host is told`,
      run: async ({ guest }) => {
        const request = { host: family.unreachable, port: 80 };
        const { outcome } = await guest.call("connect", request);
        const expected = IS_VUELO ? /^(EHOSTUNREACH|ENETUNREACH)$/ : /^E/;
        assert(expected.test(outcome), outcome);
      },
    },
    { name: `${name}: a black hole`, run: (world) => blackHole(world, family) },
    {
      name: `${name}: half-close, echoed while it flows`,
      run: async ({ guest }) => {
        assertIntact(await guest.call("echo", { host, bytes: 32 * MIB }), 32 * MIB);
      },
    },
    {
      name: `${name}: half-close, answered after the end`,
      run: async ({ guest }) => {
        const request = { host, bytes: 4 * MIB, port: Port.lateEcho };
        assertIntact(await guest.call("echo", request), 4 * MIB);
      },
    },
    {
      name: `${name}: empty streams`,
      run: async ({ guest }) => {
        for (const port of [Port.echo, Port.lateEcho]) {
          assertIntact(await guest.call("echo", { host, bytes: 0, port }), 0);
        }
        assertIntact(await guest.call("upload", { host, bytes: 0 }), 0);
      },
    },
    {
      name: `${name}: a reader that stalls until windows are full`,
      run: async ({ guest }) => {
        const request = { host, bytes: 64 * MIB, stall: 3 };
        assertIntact(await guest.call("download", request), 64 * MIB);
      },
    },
    {
      name: `${name}: the peer resets mid-stream`,
      run: async ({ guest }) => {
        const result = await guest.call("reset", { host });
        assertEquals(result, { bytes: 65536, outcome: "ECONNRESET" });
      },
    },
    {
      name: `${name}: the guest resets mid-stream`,
      run: (world) => guestResets(world, host),
    },
    {
      name: `${name}: 10,000 short connections leak nothing`,
      run: (world) => shortOnes(world, host, 10_000),
    },
  ];
}

for (const family of FAMILIES) {
  e2e(`TCP from a guest, ${family.name}`, { guest: {} }, cases(family));
}
