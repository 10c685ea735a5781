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
  /** Of those that were watched, and of a sample of the others. */
  readonly kept: number;
  readonly lost: number;
}

/** Every so many seconds a few bytes, to see a pause by. */
const BEAT = 0.002;
/** More ends than this are not read out one by one, which takes its time. */
const SAMPLE = 500;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}

type Series = Record<"pause" | "downtime" | "save" | "load" | "bytes", number[]>;

/** Moves a guest while one connection is watched; how many of that one were kept. */
async function moveOnce(world: MigrationWorld, series: Series): Promise<number> {
  const { streams, source } = world;
  const watched = await streams.open("guest", IPV4.peer);
  await streams.guest.set(watched, 1, { beat: BEAT });
  await until("bytes move", async () => {
    return (await streams.peer.report(watched))[0].received > 0;
  });
  await streams.peer.set(watched, 1, { mark: true });
  const before = source.written();
  const { qemu, save, load } = await world.migrate();
  const [then] = await streams.peer.report(watched);
  const moved = await until("bytes move again", async () => {
    return (await streams.peer.report(watched))[0].received > then.received;
  }, 5000).then(() => true, () => false);
  if (moved) series.pause.push(1000 * (await streams.peer.report(watched))[0].gap);
  series.downtime.push(qemu.downtime ?? NaN);
  series.save.push(save ?? NaN);
  series.load.push(load ?? NaN);
  if (source.running) series.bytes.push(source.written() - before);
  return moved ? (await streams.finish(watched, 1)).kept : 0;
}

/** A guest that has `idle` connections and one that is watched, moved `times` times. */
async function measure(
  world: MigrationWorld,
  idle: number,
  times: number,
): Promise<Figures> {
  const { streams } = world;
  const first = idle > 0 ? await streams.open("guest", IPV4.peer, idle) : 0;
  const series: Series = { pause: [], downtime: [], save: [], load: [], bytes: [] };
  let kept = 0;
  for (let turn = 0; turn < times; turn++) kept += await moveOnce(world, series);
  const sample = Math.min(idle, SAMPLE);
  if (sample > 0) kept += (await streams.finish(first, sample)).kept;
  await streams.close();
  return {
    connections: idle + 1,
    pause: median(series.pause),
    downtime: median(series.downtime),
    save: median(series.save),
    load: median(series.load),
    bytes: median(series.bytes),
    kept,
    lost: times + sample - kept,
  };
}

/** Measures each number of connections with one back-end after the other. */
export async function figures(
  worlds: readonly { name: string; options: MigrationWorldOptions }[],
  counts: readonly number[],
  times: number,
  print: (line: string) => void,
): Promise<void> {
  const columns = ["pause", "downtime", "save", "load", "bytes", "kept", "lost"] as const;
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
          const digits = ["bytes", "kept", "lost"].includes(column) ? 0 : 1;
          return found[column].toFixed(digits).padStart(10);
        });
        print(name.padEnd(24) + String(count).padStart(12) + cells.join(""));
      }
    }
  } finally {
    for (const { world } of made) await world.close();
  }
}
