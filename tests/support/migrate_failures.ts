/** Scenarios in which a migration fails, is cancelled or undone, or a party dies. */
import { other } from "./migrate_network.ts";
import { figures } from "./migrate_qmp.ts";
import { Relay, stateOffset } from "./migrate_relay.ts";
import type { Flow, Run, Scenario } from "./migrate_run.ts";
import { bulk, idle, WATCH } from "./migrate_scenarios.ts";
import type { Migration, MigrationOptions, MigrationResult } from "./migrate_world.ts";
import { IPV4, IPV6 } from "./netns.ts";

/** All that could go wrong is there to go wrong. */
const FLOWS: readonly Flow[] = [
  ...WATCH,
  ...idle(IPV4),
  ...bulk(IPV4, true, false).slice(0, 1),
  ...bulk(IPV6, false, true).slice(0, 1),
];

/** When something happens to a migration. */
const MOMENTS = ["early", "middle", "late"] as const;
type Moment = typeof MOMENTS[number];

const WHEN: Record<Moment, string> = {
  early: "while memory is copied",
  middle: "when the guest is stopped, nothing saved",
  late: "when the source has saved all, the target has got none of it",
};

/** Slow enough that memory is still being copied when something is done about it. */
const SLOW = 4 << 20;

/** Has `act` done to a migration at a moment; `relay` then holds what the source sends. */
async function at(
  run: Run,
  moment: Moment,
  act: (migration: Migration, relay: Relay) => Promise<MigrationResult>,
  more: MigrationOptions = {},
): Promise<MigrationResult> {
  const relay = new Relay();
  const options: MigrationOptions = moment === "early"
    ? { relay, bandwidth: SLOW, ...more }
    : { relay, capabilities: ["pause-before-switchover"], ...more };
  const migration = await run.world.begin(options);
  try {
    await migration.start();
    if (moment === "early") await migration.source.wait("active");
    else await migration.source.wait("pre-switchover");
    if (moment === "late") {
      relay.hold();
      await migration.goOn();
      await migration.saved();
    }
    run.say(`reached: ${moment}`);
    return await act(migration, relay);
  } finally {
    await relay.close();
  }
}

/** The same thing at each moment. */
function atEach(
  name: string,
  about: string,
  act: (migration: Migration, relay: Relay) => Promise<MigrationResult>,
): Scenario[] {
  return MOMENTS.map((moment) => ({
    name: `${name}-${moment}`,
    about: `${about} ${WHEN[moment]}`,
    flows: FLOWS,
    act: (run) => at(run, moment, act),
  }));
}

async function cancel(migration: Migration): Promise<MigrationResult> {
  await migration.cancel();
  return await migration.fail();
}

async function killTarget(migration: Migration, relay: Relay): Promise<MigrationResult> {
  await migration.killTarget();
  return await cut(migration, relay);
}

async function cut(migration: Migration, relay: Relay): Promise<MigrationResult> {
  relay.cut();
  // In that state the source notices nothing before it is told to go on.
  if (migration.source.last === "pre-switchover") await migration.goOn();
  return await migration.fail();
}

/** The source dies once it has sent all, its guest arrives all the same. */
async function killSource(run: Run): Promise<MigrationResult> {
  const act = async (migration: Migration, relay: Relay) => {
    await migration.source.wait("completed");
    const { save } = migration;
    await migration.killSource();
    await relay.release();
    await migration.target.wait("RESUME");
    const result = await migration.arrived({ status: "completed" });
    return { ...result, save };
  };
  // With a return path it would not say when it has.
  return await at(run, "late", act, { withoutReturnPath: true });
}

/** The source has done its part for good; then its guest is told to go on there. */
async function undo(run: Run): Promise<MigrationResult> {
  const act = async (migration: Migration, relay: Relay) => {
    await migration.source.wait("completed");
    const qemu = await figures(run.world.guest);
    await migration.killTarget();
    relay.cut();
    await run.world.guest.qmp("cont");
    return await migration.stayed({ ...qemu, status: "undone" });
  };
  return await at(run, "late", act, { withoutReturnPath: true });
}

/** A byte of the state is changed, `offset` bytes behind its beginning. */
async function damage(run: Run, offset: number): Promise<MigrationResult> {
  return await at(run, "late", async (migration, relay) => {
    const held = relay.held;
    const start = stateOffset(held);
    if (start < 0) throw new Error("No state of a back-end is in QEMU's stream");
    const place = start + offset;
    held[place] ^= 0x55;
    relay.replace(held);
    await relay.release();
    return await migration.either();
  });
}

/** A hypervisor whose helper was there, and is not when it is needed. */
async function withoutHelper(
  run: Run,
  where: "source" | "target",
): Promise<MigrationResult> {
  const { side } = run.world;
  const lacking = where === "source" ? side : other(side);
  await run.world.hosts[lacking].stopHelper("SIGKILL");
  const migration = await run.world.begin({ withoutHelper: lacking });
  await migration.start();
  return await migration.fail();
}

/** A helper that is killed, or that falls silent, while repair mode is switched. */
async function badHelper(
  run: Run,
  where: "source" | "target",
  signal: "SIGKILL" | "SIGSTOP",
): Promise<MigrationResult> {
  const migration = await run.world.begin();
  const host = run.world[where];
  host.helper!.signal("SIGSTOP");
  if (signal === "SIGKILL") {
    // It is killed with the request in its queue, so that it can never have answered.
    void migration.source.wait("device").then(() => host.stopHelper("SIGKILL"));
  }
  await migration.start();
  const result = await migration.fail();
  await host.stopHelper("SIGKILL");
  // What is frozen may wait for another helper, which the operator starts.
  if (where === "source") await host.connectHelper();
  return result;
}

export const FAILURES: readonly Scenario[] = [
  ...atEach("cancel", "migrate_cancel", cancel),
  ...atEach("target-killed", "the target's QEMU and back-end are killed", killTarget),
  ...atEach("stream-cut", "the connection between the two QEMUs is cut", cut),
  {
    name: "source-killed",
    about: "the source is killed after it saved all, the guest arrives",
    flows: FLOWS,
    act: killSource,
  },
  {
    name: "undone",
    about: "the source's QEMU is done, the target dies, the guest goes on at the source",
    flows: FLOWS,
    act: undo,
    needs: "vuelo",
  },
  ...[0, 10, 70_000].map((offset): Scenario => ({
    name: `damaged-${offset}`,
    about: `byte ${offset} of the state is changed on its way: refused, or no harm`,
    flows: FLOWS,
    act: (run) => damage(run, offset),
    needs: "vuelo",
  })),
  {
    name: "source-refuses",
    about: "the source has no helper: refused, and the guest goes on",
    flows: FLOWS,
    act: (run) => withoutHelper(run, "source"),
    needs: "helper",
  },
  {
    name: "target-refuses",
    about: "the target has no helper: refused, and the guest goes on at the source",
    flows: FLOWS,
    act: (run) => withoutHelper(run, "target"),
    needs: "helper",
  },
  ...(["source", "target"] as const).flatMap((where) => [
    {
      name: `${where}-helper-killed`,
      about: `the ${where}'s helper is killed while it switches repair mode (D10)`,
      flows: FLOWS,
      act: (run: Run) => badHelper(run, where, "SIGKILL"),
      needs: "helper" as const,
    },
    {
      name: `${where}-helper-silent`,
      about: `the ${where}'s helper gives no answer`,
      flows: FLOWS,
      act: (run: Run) => badHelper(run, where, "SIGSTOP"),
      needs: "helper" as const,
    },
  ]),
];
