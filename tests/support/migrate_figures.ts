/** Figures of migrations, of one back-end beside another's in the same run. */
import { until } from "./lab_process.ts";
import { MigrationWorld, type MigrationWorldOptions } from "./migrate_world.ts";
import { IPV4 } from "./netns.ts";

/** Medians over several migrations; times are in milliseconds. */
export interface Figures {
  readonly connections: number;
  readonly pause: number;
  readonly downtime: number;
  /** From SET_DEVICE_STATE_FD to CHECK_DEVICE_STATE, at both ends. */
  readonly save: number;
  readonly load: number;
  /** Written by the source's back-end: the state, and a few bytes of notifications. */
  readonly bytes: number;
  /** Of the connections, how many were whole in the end. */
  readonly kept: number;
}

/** Every so many seconds a few bytes, to see a pause by. */
const BEAT = 0.002;
/** More ends than this are not read out one by one, which takes its time. */
const SAMPLE = 500;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}

/** A guest that has `idle` connections and one that is watched, moved `times` times. */
async function measure(
  world: MigrationWorld,
  idle: number,
  times: number,
): Promise<Figures> {
  const { streams } = world;
  const watched = await streams.open("guest", IPV4.peer);
  await streams.guest.set(watched, 1, { beat: BEAT });
  const first = idle > 0 ? await streams.open("guest", IPV4.peer, idle) : watched;
  const runs: Record<"pause" | "downtime" | "save" | "load" | "bytes", number[]> = {
    pause: [],
    downtime: [],
    save: [],
    load: [],
    bytes: [],
  };
  for (let turn = 0; turn < times; turn++) {
    await streams.peer.set(watched, 1, { mark: true });
    const { source } = world;
    const before = source.written();
    const { qemu, save, load } = await world.migrate();
    const [then] = await streams.peer.report(watched);
    await until("bytes move again", async () => {
      return (await streams.peer.report(watched))[0].received > then.received;
    });
    runs.pause.push(1000 * (await streams.peer.report(watched))[0].gap);
    runs.downtime.push(qemu.downtime ?? NaN);
    runs.save.push(save ?? NaN);
    runs.load.push(load ?? NaN);
    if (source.running) runs.bytes.push(source.written() - before);
  }
  let { kept } = await streams.finish(watched, 1);
  if (idle > 0) kept += (await streams.finish(first, Math.min(idle, SAMPLE))).kept;
  await streams.close();
  return {
    connections: idle + 1,
    pause: median(runs.pause),
    downtime: median(runs.downtime),
    save: median(runs.save),
    load: median(runs.load),
    bytes: median(runs.bytes),
    kept,
  };
}

/** Measures each number of connections with one back-end after the other. */
export async function figures(
  worlds: readonly { name: string; options: MigrationWorldOptions }[],
  counts: readonly number[],
  times: number,
  print: (line: string) => void,
): Promise<void> {
  const columns = ["pause", "downtime", "save", "load", "bytes", "kept"] as const;
  const head = ["connections".padStart(12), ...columns.map((name) => name.padStart(10))];
  print("medians in ms".padEnd(24) + head.join(""));
  const made: { name: string; world: MigrationWorld }[] = [];
  try {
    for (const { name, options } of worlds) {
      made.push({ name, world: await MigrationWorld.create(options) });
    }
    for (const count of counts) {
      for (const { name, world } of made) {
        const found = await measure(world, count - 1, times);
        const cells = columns.map((column) => {
          const digits = column === "bytes" || column === "kept" ? 0 : 1;
          return found[column].toFixed(digits).padStart(10);
        });
        print(name.padEnd(24) + String(count).padStart(12) + cells.join(""));
      }
    }
  } finally {
    for (const { world } of made) await world.close();
  }
}
