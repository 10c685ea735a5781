/** Scenarios for what other implementations of this migration got wrong. */
import { assert } from "@std/assert";
import { program } from "../../scripts/lab/packages.ts";
import { run as runProgram, until } from "./lab_process.ts";
import { type Flow, move, type Run, type Scenario } from "./migrate_run.ts";
import { guestBeats, idle } from "./migrate_scenarios.ts";
import { IPV4, IPV6 } from "./netns.ts";

const BOTH = [IPV4, IPV6] as const;

/** The guest sends more, all of which must be acknowledged to it, not only delivered. */
async function acknowledged(run: Run): Promise<void> {
  await run.setAll("guest", { beat: 0, more: 3000 });
  await run.awaitAll("peer has all");
  await until("the guest's data is acknowledged", async () => {
    const reports = await run.reports("guest");
    return reports.every((report) => report.unacked === 0);
  }, 10_000);
}

/** Nobody but the back-end has a reason to send. */
async function sentAgain(run: Run): Promise<void> {
  await run.setAll("guest", { deaf: false });
  await run.awaitAll("guest has all");
}

/** The back-end's sockets send segments of the size that they did before. */
async function segmentSize(run: Run): Promise<void> {
  await run.setAll("guest", { more: 1 << 20 });
  await run.awaitAll("peer has all");
  const ss = await program("ss");
  const namespace = run.world.source.namespace;
  const text = await runProgram([ss.path, ...ss.args, "-tinH"], {
    namespace,
    env: ss.env,
  });
  const sizes = [...text.matchAll(/ mss:(\d+)/g)].map(([, size]) => Number(size));
  assert(sizes.length >= run.opened.length, text);
  assert(sizes.every((size) => size >= 1400), `segments of ${sizes} bytes`);
}

async function sysctl(run: Run, names: readonly string[], value: string): Promise<void> {
  const { network } = run.world;
  for (const name of names) {
    await network.sysctl(network.outside, `ipv4/${name}`, value);
  }
}

/** Connections to a peer whose TCP does without an option. */
function without(name: string, about: string, ...names: string[]): Scenario {
  return {
    name,
    about,
    prepare: (run) => sysctl(run, names, "0"),
    restore: (run) => sysctl(run, names, "1"),
    flows: BOTH.flatMap((family): Flow[] => [
      guestBeats(family),
      ...idle(family),
      { origin: "guest", family, guest: { limit: 1 << 20 }, until: "peer receives" },
      { origin: "peer", family, peer: { limit: 1 << 20 }, until: "guest receives" },
    ]),
    check: async (run) => {
      await run.awaitAll("guest has all");
      await acknowledged(run);
    },
  };
}

/** An address that only one hypervisor has. */
const EXTRA = "192.0.2.9";

/** The source gets one more address, which the target has not. */
async function extraAddress(run: Run): Promise<void> {
  const { network, source, side } = run.world;
  await network.command(source.namespace, "addr", "add", `${EXTRA}/24`, "dev", "eth0");
  const route = [EXTRA, "dev", `to-${side}`, "src", IPV4.peer];
  await network.command(network.outside, "route", "replace", ...route);
}

async function noExtraAddress(run: Run): Promise<void> {
  const { network, hosts } = run.world;
  for (const { namespace } of [hosts.a, hosts.b]) {
    await network.command(namespace, "addr", "del", `${EXTRA}/24`, "dev", "eth0")
      .catch(() => {}); // the other has it
  }
}

/** A few connections first and many then, over the same helper if it stays. */
async function growing(run: Run): ReturnType<typeof move> {
  await run.world.migrate();
  for (const family of BOTH) {
    await run.open({ origin: "guest", family, count: 130, guest: { beat: 0.5 } });
  }
  return await run.world.migrate();
}

export const DEFECTS: readonly Scenario[] = [
  {
    name: "d1-acknowledged",
    about: "what the guest sends after the move is acknowledged to it",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      guest: { limit: 50_000 },
      until: "peer has all",
    })),
    check: acknowledged,
  },
  {
    name: "d2-last-byte",
    about: "ten bytes and the peer's end of stream, pending for the guest",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      guest: { deaf: true },
      peer: { limit: 10, fin: true },
      until: "peer finished",
    })),
  },
  {
    name: "d2-full-buffer",
    about: "more than the guest's buffer takes, and the peer's end of stream",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      buffer: 4096,
      guest: { read: false },
      peer: { limit: 50_000, fin: true },
      until: "peer finished",
    })),
  },
  {
    name: "d3-lost-and-closed",
    about: "the guest shut down, and nothing it sent has reached the peer",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      peer: { deaf: true },
      guest: { limit: 10_000, fin: true },
      until: "guest finished",
    })),
  },
  {
    name: "d3-full-and-closed",
    about: "the guest shut down, with more sent than the peer takes",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      peer: { read: false },
      guest: { limit: 300_000, fin: true },
      until: "guest finished",
    })),
  },
  {
    name: "d4-full-send-queue",
    about: "a send queue as full as it gets, of connections from both ends",
    flows: BOTH.flatMap((family) =>
      (["guest", "peer"] as const).map((origin): Flow => ({
        origin,
        family,
        peer: { read: false },
        guest: { limit: 1e9 },
        until: "guest stuck",
      }))
    ),
  },
  {
    name: "d5-segment-size",
    about: "segments to the peer are as large after the move as before",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      guest: { limit: 100_000 },
      until: "peer has all",
    })),
    check: segmentSize,
  },
  {
    name: "d6-address-missing",
    about: "one connection's address is missing at the target: it is reset, others move",
    prepare: extraAddress,
    restore: noExtraAddress,
    flows: [
      { origin: "peer", family: IPV4, host: EXTRA },
      guestBeats(IPV4),
      guestBeats(IPV6),
      ...idle(IPV4),
    ],
    resets: 1,
  },
  without("d7-no-sack", "peers without selective acknowledgement (D7)", "tcp_sack"),
  without("d7-no-timestamps", "peers without timestamps", "tcp_timestamps"),
  without(
    "d7-no-options",
    "peers without any option",
    "tcp_sack",
    "tcp_timestamps",
    "tcp_window_scaling",
  ),
  {
    name: "d9-growing-batches",
    about: "a few connections move, then many more than one message to a helper takes",
    flows: idle(IPV4),
    act: growing,
  },
  {
    name: "d11-sent-again",
    about: "what the guest never got before the move is sent to it again after it",
    flows: BOTH.map((family): Flow => ({
      origin: "guest",
      family,
      guest: { deaf: true },
      peer: { limit: 3000 },
      until: "peer acknowledged",
    })),
    check: sentAgain,
  },
];
