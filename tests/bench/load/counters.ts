/** What a load did since it was last told to start counting. */

/** Counts and latencies; times are milliseconds. */
export interface Reading {
  readonly seconds: number;
  /** Bytes of streams; datagrams count apart. */
  readonly received: number;
  readonly sent: number;
  readonly datagramsReceived: number;
  readonly datagramsSent: number;
  /** Requests answered, or connections opened and kept. */
  readonly operations: number;
  readonly failed: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

/** Operations whose latency is kept; what comes later counts only. */
const KEPT = 1 << 21;

export class Counters {
  received = 0;
  sent = 0;
  datagramsReceived = 0;
  datagramsSent = 0;
  operations = 0;
  failed = 0;
  readonly #latencies = new Float64Array(KEPT);
  #start = performance.now();

  /** Counts an operation that took `ms`. */
  answered(ms: number): void {
    if (this.operations < KEPT) this.#latencies[this.operations] = ms;
    this.operations++;
  }

  /** Starts to count anew. */
  mark(): void {
    this.received = this.sent = 0;
    this.datagramsReceived = this.datagramsSent = 0;
    this.operations = this.failed = 0;
    this.#start = performance.now();
  }

  read(): Reading {
    const seconds = (performance.now() - this.#start) / 1000;
    const known = Math.min(this.operations, KEPT);
    const sorted = this.#latencies.slice(0, known).sort();
    const quantile = (q: number) => known === 0 ? 0 : sorted[Math.floor((known - 1) * q)];
    return {
      seconds,
      received: this.received,
      sent: this.sent,
      datagramsReceived: this.datagramsReceived,
      datagramsSent: this.datagramsSent,
      operations: this.operations,
      failed: this.failed,
      p50: quantile(0.5),
      p99: quantile(0.99),
      p999: quantile(0.999),
    };
  }
}
