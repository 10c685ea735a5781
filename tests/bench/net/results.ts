/** What a comparison measures, as it is written to JSON. */

/** Units and which way is better, by the name of a figure. */
export const FIGURES = {
  throughput: { unit: "Gbit/s", better: "more" },
  datagrams: { unit: "1000/s", better: "more" },
  loss: { unit: "%", better: "less" },
  failed: { unit: "%", better: "less" },
  requests: { unit: "1000/s", better: "more" },
  p50: { unit: "us", better: "less" },
  p99: { unit: "us", better: "less" },
  "p99.9": { unit: "us", better: "less" },
  "CPU per GiB": { unit: "s", better: "less" },
  "CPU per million": { unit: "s", better: "less" },
  "idle connections": { unit: "1000", better: "more" },
  "kept beside idle": { unit: "%", better: "more" },
  "memory per idle": { unit: "bytes", better: "less" },
  "start to listening": { unit: "ms", better: "less" },
  "memory at rest": { unit: "MiB", better: "less" },
  "peak memory": { unit: "MiB", better: "less" },
} as const;
export type Figure = keyof typeof FIGURES;

/** Figures of one measurement. */
export type Figures = Partial<Record<Figure, number>>;

/** One measurement of one back-end. */
export interface Sample {
  readonly level: "native" | "guest";
  readonly frontend: string;
  readonly mtu: number;
  readonly name: string;
  readonly backend: string;
  readonly round: number;
  readonly figures: Figures;
  /** Processors that other processes took meanwhile. */
  readonly noise?: number;
  /** Why there are none. */
  readonly error?: string;
}
