/** Results of level micro as lines of a table. */

/** What one case came to; all figures but `packets` and `payload` are per packet. */
export interface Measured {
  readonly name: string;
  /** What counts as a packet. */
  readonly unit: string;
  /** Payload bytes of a full packet; 0 where it makes no sense. */
  readonly payload: number;
  readonly packets: number;
  readonly nanoseconds: number;
  readonly kernelNanoseconds: number;
  readonly driverNanoseconds: number;
  readonly wallNanoseconds: number;
  readonly allocatedBytes: number;
  /** Calls of libc by function. */
  readonly calls: Readonly<Record<string, number>>;
}

/** What V8's heap came to over many packets. */
export interface Heap {
  readonly name: string;
  readonly packets: number;
  /** Bytes in use after a full collection, less those before. */
  readonly growth: number;
}

const NAME_WIDTH = 42;
const columns = ["ns", "kernel", "packets/s", "Gbit/s", "calls", "bytes", "driver"];
const WIDTH = 10;

function line(name: string, cells: readonly string[], rest: string): string {
  const padded = cells.map((cell) => cell.padStart(WIDTH)).join("");
  return `${name.padEnd(NAME_WIDTH)}${padded}  ${rest}`.trimEnd();
}

export const HEADINGS = line("case", columns, "calls by function");

/** A number with about three digits that mean something. */
function figure(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString("en-US");
  if (value >= 10) return value.toFixed(1);
  return value.toFixed(value >= 1 ? 2 : 3);
}

/** System calls per packet, all functions together. */
export function allCalls({ calls }: Measured): number {
  return Object.values(calls).reduce((sum, n) => sum + n, 0);
}

/** The functions called most, with how often. */
function mostCalled({ calls }: Measured): string {
  const sorted = Object.entries(calls).toSorted(([, a], [, b]) => b - a);
  return sorted.slice(0, 4).map(([name, n]) => `${name} ${figure(n)}`).join(", ");
}

/** One line of the table. */
export function row(measured: Measured): string {
  const { nanoseconds, payload } = measured;
  return line(measured.name, [
    figure(nanoseconds),
    figure(measured.kernelNanoseconds),
    figure(1e9 / nanoseconds),
    payload === 0 ? "" : figure(payload * 8 / nanoseconds),
    figure(allCalls(measured)),
    figure(measured.allocatedBytes),
    figure(measured.driverNanoseconds),
  ], mostCalled(measured));
}

/** One line for a case that watched the heap. */
export function heapRow({ name, packets, growth }: Heap): string {
  const count = packets.toLocaleString("en-US");
  return `${name.padEnd(NAME_WIDTH)}  ${growth} bytes more after ${count} packets`;
}
