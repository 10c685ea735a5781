/** The command line of the benchmark. */
import { parseArgs } from "@std/cli";

export const HELP =
  `deno task bench [--level LIST] [--filter REGEX] [--peer COMMAND] [--rounds N]
                [--seconds N] [--packets N] [--idle N] [--quiet N] [--queues N]
                [--json FILE]

  --level LIST    micro, native or guest, parted by commas (default: all of them)
                  micro: each hot path in this process, with a driver of its own
                  native: a frontend at native speed, the kernel's TCP is the guest
                  guest: Linux in QEMU
  --filter REGEX  only the cases whose names match, e.g. 'UDP|tap MTU 1500 TCP up';
                  a name starts with the frontend (tap, dpdk, uml, qemu) and the MTU
  --peer COMMAND  measures another vhost-user back-end as well, in turns, and shows the
                  ratio: a command with {socket}, which has to forward TCP and UDP ports
                  7000-7009 to the guest, or passt (Debian's newest) or passt-trixie
  --rounds N      turns of each back-end (default 2)
  --seconds N     time for each case (default 1)
  --packets N     packets of the cases that watch the heap (default 10000000)
  --idle N        idle connections (default 100000); fewer where a process may not have
                  so many descriptors
  --queues N      queue pairs, behind tap and in QEMU (default 1); vuelo is started with
                  --queues N where that is above 1
  --quiet N       seconds to wait for other processes to leave the machine alone before
                  each case, which is repeated if they come back; 0: neither (default 5)
  --json FILE     write all figures to FILE, too, for deno task bench:plot

vuelo is what VUELO_BIN names, else the sources. Levels native and guest need root or a
machine that lets users make namespaces; what is missing is fetched from Debian into the
cache folder. All of it takes some ten minutes, with --peer twice as long, and longer where
the machine is not quiet. Of a table's cells the median comes first, then lowest and highest.

Columns of level micro, per packet (or what the case counts):
  ns         CPU time of the data path, the kernel's part of it included
  kernel     the kernel's part of that, loopback up to the peer's socket included
  packets/s  that one core could do at that cost; Gbit/s of payload likewise
  calls      system calls, counted in a run of its own
  bytes      allocated on V8's heap
  driver     ns of the driver that plays the guest, not included above
`;

export const LEVELS = ["micro", "native", "guest"] as const;
export type Level = typeof LEVELS[number];

export interface Options {
  readonly levels: ReadonlySet<Level>;
  /** Whether a case of this full name is wanted. */
  readonly wanted: (name: string) => boolean;
  readonly peer: string | undefined;
  readonly rounds: number;
  readonly seconds: number;
  readonly packets: number;
  readonly idle: number;
  readonly quiet: number;
  readonly queues: number;
  readonly json: string | undefined;
}

/** A command line that makes no sense; the message says why. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

function positive(name: string, text: unknown, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  if (value > 0) return value;
  throw new UsageError(`--${name} ${text}: not a number above 0`);
}

function levelsOf(text: string | undefined): Set<Level> {
  const words = text?.split(",") ?? LEVELS;
  for (const word of words) {
    if (!LEVELS.includes(word as Level)) {
      throw new UsageError(`--level ${word}: one of ${LEVELS.join(", ")} is expected`);
    }
  }
  return new Set(words as readonly Level[]);
}

function matcher(text: string | undefined): (name: string) => boolean {
  if (text === undefined) return () => true;
  try {
    const pattern = new RegExp(text, "i");
    return (name) => pattern.test(name);
  } catch (error) {
    throw new UsageError(`--filter ${text}: ${(error as Error).message}`);
  }
}

const STRINGS = [
  "level",
  "filter",
  "peer",
  "rounds",
  "seconds",
  "packets",
  "idle",
  "quiet",
  "queues",
  "json",
];

/** Reads the arguments; undefined if help is asked for. @throws {UsageError} */
export function parse(words: readonly string[]): Options | undefined {
  const args = parseArgs([...words], {
    string: STRINGS,
    boolean: ["help"],
    alias: { h: "help" },
    unknown: (word: string) => {
      throw new UsageError(`${word}: no such option`);
    },
  });
  if (args.help === true) return undefined;
  const given = (name: string) => args[name] as string | undefined;
  return {
    levels: levelsOf(given("level")),
    wanted: matcher(given("filter")),
    peer: given("peer"),
    rounds: Math.ceil(positive("rounds", given("rounds"), 2)),
    seconds: positive("seconds", given("seconds"), 1),
    packets: positive("packets", given("packets"), 10_000_000),
    idle: Math.ceil(positive("idle", given("idle"), 100_000)),
    quiet: given("quiet") === "0" ? 0 : positive("quiet", given("quiet"), 5),
    queues: Math.ceil(positive("queues", given("queues"), 1)),
    json: given("json"),
  };
}
