/** Whole lives of a guest, which end as they began. */
import { type Config, limitsOf } from "../../src/config.ts";
import { defaultUser } from "../../src/host/privileges.ts";
import { Rehearsal } from "../../src/rehearsal/rehearsal.ts";
import { fullMove } from "./full_queues.ts";
import type { HelperThread } from "./helper_thread.ts";
import type { Injector } from "./injector.ts";
import { halfMessage, oddDescriptors, secondFrontend } from "./odd_frontend.ts";
import { outcomeOf, type Report } from "./outcome.ts";
import type { Live } from "./run.ts";
import { Life } from "./scenario.ts";
import { FaultWorld, type Ways } from "./world.ts";

/** --socket-group: nobody's but those of other users. */
const GROUP = 12346;
const FLOWS = 64;

/** Lives through all steps; what failed on the way. @throws {Error} a finding */
export function live(injector: Injector, after: () => void): Report {
  return within(injector, after, {}, (life) => {
    life.connect();
    life.arp();
    life.udp();
    life.unreachable();
    life.ping();
    life.forwardedUdp();
    life.tcp();
    life.forwardedTcp();
    life.reset();
    life.move();
  });
}

/** The life of a guest that talks IPv6, with packed rings. */
export function live6(injector: Injector, after: () => void): Report {
  return within(injector, after, { six: true, packed: true }, (life) => {
    life.connect();
    life.udp();
    life.unreachable();
    life.ping();
    life.forwardedUdp();
    life.tcp();
    life.forwardedTcp();
    life.reset();
    life.move();
  });
}

/** A guest moves as those of passt do. */
export function livePasst(injector: Injector, after: () => void): Report {
  const changes: Partial<Config> = { migrateFormat: "passt" };
  return within(injector, after, { changes }, (life) => {
    life.connect();
    life.udp();
    life.move();
  });
}

/** The short life of a vuelo that rehearses a move while there is nothing to do. */
export function liveRehearsing(injector: Injector, after: () => void): Report {
  const rehearsal = (config: Config) => new Rehearsal(config, 1);
  return within(injector, after, { rehearsal }, (life) => {
    life.connect();
    life.rehearse();
    life.udp();
  });
}

/** The short life of a vuelo that has a repair helper. */
export function liveWithHelper(injector: Injector, after: () => void): Report {
  const repairPath = Deno.makeTempFileSync({ prefix: "vuelo-faults-" });
  Deno.removeSync(repairPath);
  return within(injector, after, { changes: { repairPath } }, (life) => {
    life.connect();
    life.helper(repairPath);
    life.udp();
  });
}

/** A frontend that is not like others, and a move by other ways. */
export function liveOdd(injector: Injector, after: () => void): Report {
  // Only root has others connect.
  const changes = defaultUser() === undefined ? {} : { socketGroup: GROUP };
  return within(injector, after, { changes }, (life) => {
    life.connect();
    secondFrontend(life);
    oddDescriptors(life);
    halfMessage(life);
    life.udp();
    life.move({ toFile: true, asksEarly: true });
  });
}

/** A vuelo that looks for events before it sleeps, much traffic, and few bounds. */
export function livePolling(injector: Injector, after: () => void): Report {
  const changes = { pollMs: 1, limits: limitsOf(FLOWS, { pendingTcp: 1 }) };
  return within(injector, after, { changes }, (life) => {
    life.connect();
    life.udp();
    life.manyDatagrams();
    life.tcp();
    life.forwardedTcp(true);
    life.move({ undone: true });
  });
}

/** Connections move in the middle of what they do. */
export function liveFull(injector: Injector, after: () => void): Report {
  return within(injector, after, {}, (life) => {
    life.connect();
    fullMove(life);
  });
}

/** A guest whose peers are elsewhere, as vuelo sees it: sockets are bound to interfaces. */
function liveAway(six: boolean): Live {
  return (injector, after) =>
    within(injector, after, { six, away: true }, (life) => {
      life.connect();
      life.udp();
      life.unreachable();
      life.tooBig();
      life.ping();
      life.forwardedUdp();
      life.tcp();
      life.forwardedTcp();
      life.move();
    });
}

/** A vuelo without rights, that moves with a repair helper's. */
export function liveHelped(helper: HelperThread): Live {
  return (injector, after) =>
    within(injector, after, { helper }, (life) => {
      life.connect();
      life.move();
    });
}

const LIVES: readonly Live[] = [
  live,
  live6,
  livePasst,
  liveRehearsing,
  liveWithHelper,
  liveOdd,
  livePolling,
  liveFull,
];

/**
 * All lives there are.
 *
 * @param helper undefined where none can do anything
 * @param away the host has the addresses AWAY (world.ts)
 */
export function livesWith(
  helper: HelperThread | undefined,
  away: boolean,
): readonly Live[] {
  return [
    ...LIVES,
    ...helper === undefined ? [] : [liveHelped(helper)],
    ...away ? [liveAway(false), liveAway(true)] : [],
  ];
}

function within(
  injector: Injector,
  after: () => void,
  ways: Ways,
  body: (life: Life) => void,
): Report {
  let world: FaultWorld;
  try {
    world = new FaultWorld(injector, ways);
  } catch (error) {
    return { start: outcomeOf(error) };
  }
  const life = new Life(world);
  try {
    try {
      world.open();
    } catch (error) {
      life.report.start = outcomeOf(error);
      return life.report;
    }
    body(life);
    after();
    // The next frontend is served as if nothing had been.
    const { report } = life;
    const before = JSON.stringify(report);
    world.hangUp();
    life.connect();
    life.udp();
    life.tcp();
    if (JSON.stringify(report) !== before) {
      throw new Error(`the next frontend is not served: ${JSON.stringify(report)}`);
    }
    world.hangUp();
    if (world.flows !== 0) throw new Error(`${world.flows} flows without a guest`);
    return report;
  } finally {
    world.close();
  }
}
