/** What a thread of the data path is given when it starts. */
import type { Config } from "../config.ts";
import type { SharedParts } from "../mesh/shared.ts";

/** What a thread says: its code is there; it runs; or why it cannot. */
export type Said = "loaded" | "ready" | { readonly lacks: string };

/** What a thread gets when it starts. */
export interface Start {
  /** Number of the thread, and so of its queue pair. */
  readonly self: number;
  readonly config: Config;
  readonly shared: SharedParts;
  readonly control: SharedArrayBuffer;
  /** Guest memory of the main thread. */
  readonly memory: { readonly base: number; readonly size: number };
  /** What performance.now() of the main thread was when the machine's clock was 0. */
  readonly clock: number;
}
