/** All scenarios, and a world that they share for as long as it holds. */
import { MigrationWorld, type MigrationWorldOptions } from "./migrate_world.ts";
import { type Outcome, Run, type Scenario } from "./migrate_run.ts";
import { DEFECTS } from "./migrate_defects.ts";
import { FAILURES } from "./migrate_failures.ts";
import { MOVES } from "./migrate_scenarios.ts";

/** All scenarios, or those of these names; throws when there is no such. */
export function scenarios(names: readonly string[] = []): readonly Scenario[] {
  const all = [...MOVES, ...DEFECTS, ...FAILURES];
  if (names.length === 0 || names.includes("all")) return all;
  return names.map((name) => {
    const found = all.find((scenario) => scenario.name === name);
    if (found === undefined) throw new Error(`There is no scenario ${name}`);
    return found;
  });
}

/** Whether a scenario can be run between these back-ends. */
function fits(scenario: Scenario, { from, to }: MigrationWorldOptions): boolean {
  const both = [from, to];
  if (scenario.needs === "vuelo") return both.every(({ kind }) => kind === "vuelo");
  if (scenario.needs === "helper") return both.every(({ helper }) => helper !== "none");
  return true;
}

/** A test of scenarios, as steps in one world; all that fit unless `names` are given. */
export function migrations(
  title: string,
  options: MigrationWorldOptions,
  names?: readonly string[],
): void {
  Deno.test({
    name: title,
    // The world's processes and links outlive a step, and end with the test.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async (test) => {
      const suite = new Suite(options);
      const rows: string[] = [];
      try {
        for (const scenario of scenarios(names)) {
          if (!fits(scenario, options)) continue;
          await test.step({
            name: scenario.name,
            sanitizeOps: false,
            sanitizeResources: false,
            fn: async () => {
              const outcome = await suite.run(scenario);
              rows.push(row(outcome));
              if (outcome.faults.length > 0) throw new Error(outcome.faults.join("\n"));
            },
          });
        }
      } finally {
        console.log([title, headline(), ...rows].join("\n"));
        await suite.close();
      }
    },
  });
}

/** Runs scenarios one after the other, with a new world after one that broke it. */
export class Suite {
  #world: MigrationWorld | undefined;

  constructor(
    readonly options: MigrationWorldOptions,
    /** Told what happens. */
    readonly say: ((text: string) => void) | undefined = undefined,
  ) {}

  /** What came of a scenario; what the back-ends said is added to faults. */
  async run(scenario: Scenario): Promise<Outcome> {
    const say = this.say ?? (() => {});
    say(scenario.name);
    const world = this.#world ??= await MigrationWorld.create(this.options);
    world.beginScenario();
    const fail = (outcome: Outcome, more: string): Outcome => {
      return { ...outcome, faults: [...outcome.faults, more] };
    };
    try {
      const outcome = await new Run(world, scenario, say).run();
      if (outcome.faults.length === 0) return outcome;
      return fail(outcome, world.report());
    } catch (error) {
      const { name } = scenario;
      const broken = { name, kept: 0, reset: 0, lost: 0, faults: [] };
      const outcome = fail(broken, `${Deno.inspect(error)}\n${world.report()}`);
      await this.close(); // nobody knows what state it is in
      return outcome;
    }
  }

  async close(): Promise<void> {
    const world = this.#world;
    this.#world = undefined;
    await world?.close();
  }
}

const COLUMNS = ["pause", "downtime", "save", "load", "bytes"] as const;

/** The heading of the rows. */
export function headline(): string {
  const names = [
    "pause ms",
    "downtime",
    "save",
    "load",
    "bytes",
    "kept",
    "reset",
    "lost",
  ];
  return "scenario".padEnd(28) + names.map((name) => name.padStart(10)).join("");
}

/** One line about an outcome. */
export function row(outcome: Outcome): string {
  const figures = COLUMNS.map((name) => {
    const value = outcome[name];
    return value === undefined
      ? "-"
      : value.toFixed(name === "save" || name === "load" ? 1 : 0);
  });
  const counts = [outcome.kept, outcome.reset, outcome.lost].map(String);
  const mark = outcome.faults.length > 0 ? "  FAILED" : "";
  return outcome.name.padEnd(28) +
    [...figures, ...counts].map((text) => text.padStart(10)).join("") + mark;
}
