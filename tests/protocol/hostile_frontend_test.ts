/**
 * A frontend that means harm plays wrong messages and wrong states of rings against a
 * vuelo process, while another guest is at work beside it. Nothing crashes, nothing grows,
 * nothing is written but to what was shared, and the next good frontend is served.
 *
 * VUELO_HOSTILE says how many of each (a million take some minutes), VUELO_SEED what is
 * played: a failure names it.
 */
import { assert, assertEquals } from "@std/assert";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { inFolder } from "../support/cli.ts";
import { Random } from "../support/dirty_world.ts";
import { HostileRam } from "../support/hostile_link.ts";
import { HostileMessages } from "../support/hostile_messages.ts";
import { HostileRings } from "../support/hostile_rings.ts";
import { until } from "../support/lab_process.ts";
import { Neighbour, Quarry, served } from "../support/quarry.ts";

const COUNT = Number(Deno.env.get("VUELO_HOSTILE") ?? 4000);
const SEED = Number(Deno.env.get("VUELO_SEED") ?? 1);
/** Played before memory is looked at: compiled code and buffers are there by then. */
const WARM_UP = 1500;
/** What a heap may differ by between two looks at it, in KiB. */
const HEAP = 40_000;
/** Descriptors of a move that is rehearsed, whenever there is time for that. */
const REHEARSED = 16;
const SHARE = 20_000;
const own = new GuestMemory(2 ** 30);
const other = new GuestMemory(2 ** 30);

interface Player {
  readonly played: number;
  play(count: number): void;
}

/** Plays, and lets others have their turn in between. */
async function play(quarry: Quarry, player: Player, count: number): Promise<void> {
  for (const end = player.played + count; player.played < end;) {
    player.play(Math.min(SHARE, end - player.played));
    await new Promise((resolve) => setTimeout(resolve, 0));
    assert(!quarry.process.ended, "the process ended");
  }
}

/** The next frontend is served as if nothing had been. */
async function next(quarry: Quarry): Promise<void> {
  const guest = await quarry.guest(own);
  await served(guest);
  guest.close();
}

async function attack(
  name: string,
  args: readonly string[],
  start: (quarry: Quarry, ram: HostileRam, random: Random) => Player,
  finish: (quarry: Quarry) => void = () => {},
): Promise<void> {
  await inFolder(async (folder) => {
    const quarry = new Quarry(folder, "quarry", args);
    const beside = new Quarry(folder, "beside");
    const ram = new HostileRam();
    try {
      await Promise.all([quarry.ready(), beside.ready()]);
      const neighbour = new Neighbour(await beside.guest(other));
      await neighbour.unharmed();
      const player = start(quarry, ram, new Random(SEED));
      await next(quarry);
      await play(quarry, player, WARM_UP);
      await next(quarry);
      const before = quarry.footprint;
      const began = performance.now();
      await play(quarry, player, COUNT);
      const seconds = (performance.now() - began) / 1000;
      await next(quarry);
      let after = quarry.footprint;
      await until("no descriptor is left", () => {
        after = quarry.footprint;
        return after.descriptors <= before.descriptors + REHEARSED;
      });
      const grown = after.anonymous - before.anonymous;
      assert(grown < HEAP, `${grown} KiB grown`);
      assertEquals(ram.damaged, 0, "bytes beside what was shared");
      await neighbour.unharmed();
      neighbour.guest.close();
      await quarry.stop();
      finish(quarry);
      console.log(
        `${name}: ${COUNT} in ${seconds.toFixed(1)} s, seed ${SEED}; ` +
          `${before.anonymous} to ${after.anonymous} KiB, ` +
          `${before.descriptors} to ${after.descriptors} descriptors`,
      );
    } catch (error) {
      const reason = `VUELO_SEED=${SEED}: ${(error as Error).message}\n${quarry.text}`;
      throw new Error(reason, { cause: error });
    } finally {
      ram.close();
      await quarry.stop();
      await beside.stop();
    }
  });
}

Deno.test("wrong messages harm nobody, and the next frontend is served", async () => {
  let player: HostileMessages | undefined;
  try {
    await attack("wrong messages", [], (quarry, ram, random) => {
      return player = new HostileMessages(quarry.path, ram, random);
    });
    assert(player!.connections > COUNT / 5000, "connections that were ended");
  } finally {
    player?.close();
  }
});

/** @param least of each kind of event at least, for so many states */
async function rings(name: string, pair: number, least: number): Promise<void> {
  let player: HostileRings | undefined;
  const dirty = HostileRam.log();
  const args = pair > 0 ? ["--queues", `${pair + 1}`] : [];
  await attack(name, args, (quarry, ram, random) => {
    return player = new HostileRings(quarry.path, ram, dirty, random, pair);
  }, ({ log }) => {
    // All of it must have happened, else the states are not what they should be.
    const count = (name: string) =>
      [...log.matchAll(new RegExp(`${name} (\\d+)`, "g"))].map(([, n]) => Number(n)).at(
        -1,
      )!;
    for (const name of ["badTx", "badRx", "brokenRings", "protocol", "noBuffer"]) {
      assert(count(name) > least / 100, `${name}: ${count(name)}`);
    }
  });
  assert(dirty.bytes.some((byte) => byte !== 0), "writes that were logged");
  assertEquals(dirty.damaged, 0, "bytes beside the log");
  dirty.close();
  assert(player!.errors > least / 10, `${player!.errors} errors told`);
}

Deno.test("wrong states of rings harm nobody, and the next frontend is served", async () => {
  await rings("wrong states of rings", 0, COUNT);
});

Deno.test("wrong states of another thread's rings harm nobody either", async () => {
  // The thread looks when it comes to it, at several states at once perhaps.
  await rings("wrong states in a thread", 1, COUNT / 10);
});
