/** Counters as the log tells them. */

/** One line for the log of what DataPath.counts() gave, or of a sum of it. */
export function summarize(all: Record<string, number>): string {
  const { taken, committed, flowsNow, ...counts } = all;
  const parts = Object.entries(counts).filter(([, n]) => n > 0).map(([k, n]) =>
    `${k} ${n}`
  );
  return `${taken} frames from the guest, ${committed} to it; ` +
    `${flowsNow} flows${parts.length > 0 ? "; " + parts.join(", ") : ""}`;
}
