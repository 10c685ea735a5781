/** What a process holds, sampled over time, and whether it grows. */
import { countDescriptors } from "../support/lab_process.ts";

/** One look at a process; memory in KiB. */
export interface Sample {
  /** Minutes since the start. */
  readonly at: number;
  /** Memory of its own: heaps and stacks. What it shares with the guest is not its own. */
  readonly own: number;
  /** All that is resident but memory shared with the guest. */
  readonly resident: number;
  readonly descriptors: number;
  readonly threads: number;
}

/** Looks at process `pid`, `at` minutes after the start. */
export function sample(pid: number, at: number): Sample {
  const text = Deno.readTextFileSync(`/proc/${pid}/status`);
  const value = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return {
    at,
    own: value("RssAnon"),
    resident: value("VmRSS") - value("RssShmem"),
    descriptors: countDescriptors(pid),
    threads: value("Threads"),
  };
}

/** Slope of y over x by least squares; 0 for fewer than two points. */
export function slope(points: readonly (readonly [x: number, y: number])[]): number {
  const n = points.length;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / n;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / n;
  const above = points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0);
  const below = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return below === 0 ? 0 : above / below;
}

/** Memory that a process may gain over a whole run and still be flat, in KiB. */
const FLAT = 4096;

/** What became of one process over the run. */
export interface Judgement {
  /** KiB per minute, by least squares, after the warm-up. */
  readonly slope: number;
  /** What that comes to over the time that was judged, in KiB. */
  readonly growth: number;
  readonly flat: boolean;
}

/**
 * Judges the memory of its own of a process.
 *
 * @param warm samples that do not count: code is compiled and buffers grow to their size
 */
export function judgeMemory(samples: readonly Sample[], warm: number): Judgement {
  const rest = samples.slice(warm);
  const perMinute = slope(rest.map(({ at, own }) => [at, own]));
  const minutes = rest.length < 2 ? 0 : rest[rest.length - 1].at - rest[0].at;
  const growth = perMinute * minutes;
  return { slope: perMinute, growth, flat: growth < FLAT };
}
