/** What other processes take of the machine while something is measured. */
import { tree } from "./usage.ts";

/** Ticks of /proc in a second (USER_HZ). */
const TICKS = 100;
const KERNEL_THREADS = 2;
/** Processors that others may take without being in the way. */
const HARMLESS = 0.25;
const TOO_MUCH = 0.5;
const LOOK_MS = 300;
const TRIES = 3;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** CPU seconds so far of each process that is none of ours. */
function others(): Map<number, number> {
  const ours = new Set(tree(Deno.pid));
  const seconds = new Map<number, number>();
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || ours.has(pid)) continue;
    let text: string;
    try {
      text = Deno.readTextFileSync(`/proc/${pid}/stat`);
    } catch {
      continue; // it has ended
    }
    // After the name, which may hold anything: state, parent, ... utime and stime.
    const words = text.slice(text.lastIndexOf(")") + 2).split(" ");
    if (Number(words[1]) === KERNEL_THREADS) continue;
    seconds.set(pid, (Number(words[11]) + Number(words[12])) / TICKS);
  }
  return seconds;
}

/** Runs `work`; its result, and how many processors others took meanwhile. */
async function overhear<T>(work: () => Promise<T>): Promise<[T, number]> {
  const [before, start] = [others(), performance.now()];
  const result = await work();
  let seconds = 0;
  for (const [pid, now] of others()) seconds += now - (before.get(pid) ?? 0);
  return [result, seconds / (performance.now() - start) * 1000];
}

/** Waits until others leave the machine alone, at most for `seconds`. */
async function silence(seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const [, noise] = await overhear(() => sleep(LOOK_MS));
    if (noise < HARMLESS) return;
  }
}

/**
 * Measures when others leave the machine alone, for which it waits `seconds`; again, up to
 * three times in all, if they did not. The result with the least noise, and that noise in
 * processors. With 0 seconds, the first result will do.
 */
export async function quietly<T>(
  seconds: number,
  measure: () => Promise<T>,
): Promise<[T, number]> {
  await silence(seconds);
  let best = await overhear(measure);
  for (let i = 1; i < TRIES && seconds > 0 && best[1] > TOO_MUCH; i++) {
    await silence(seconds);
    const again = await overhear(measure);
    if (again[1] < best[1]) best = again;
  }
  return best;
}
