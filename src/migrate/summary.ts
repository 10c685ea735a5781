/** What a migration took: times of its stages and what was carried, for one log line. */

/** How much of each kind was carried; `left` counts connections that were not. */
export interface MoveCounts {
  readonly tcp: number;
  readonly left: number;
  readonly udp: number;
  readonly ping: number;
}

/** Counts of a move that carried nothing. */
export const NOTHING_MOVED: MoveCounts = { tcp: 0, left: 0, udp: 0, ping: 0 };

/** Times of a transfer's stages. */
export class Stopwatch {
  readonly #laps: [name: string, ms: number][] = [];
  #since = performance.now();
  /** What was carried. */
  counts: MoveCounts = NOTHING_MOVED;

  /** Ends a stage that began with the last one's end. */
  lap(name: string): void {
    const now = performance.now();
    this.#laps.push([name, now - this.#since]);
    this.#since = now;
  }

  /** Sets what was carried. */
  note(counts: MoveCounts): void {
    this.counts = counts;
  }

  /** All stages with their times, for the log. */
  get laps(): string {
    return this.#laps.map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(", ");
  }
}

/** The line at a transfer's end. */
export function summarize(what: string, watch: Stopwatch, bytes: number): string {
  const { tcp, left, udp, ping } = watch.counts;
  const lost = left > 0 ? ` (${left} more cannot be carried)` : "";
  return `guest state ${what}: ${tcp} TCP connections${lost}, ${udp} UDP and ${ping} ping ` +
    `flows, ${bytes} bytes; ${watch.laps}`;
}
