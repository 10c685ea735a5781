/** What a process of vuelo's is told by the test that starts it: see child.ts. */
import type { Fault } from "./injector.ts";

/** Names the variable that has an {@link Order} as JSON. */
export const ORDER = "VUELO_FAULT";

/** A call that fails. */
export interface Failing {
  /** 0 for the main thread, else that of a queue pair. */
  readonly thread: number;
  readonly name: string;
  readonly site: string;
  /** From 1 on. */
  readonly nth: number;
  readonly fault: Fault;
}

export interface Order {
  /** Where it is noted what was called: a file for each thread. */
  readonly folder: string;
  /** Undefined: all calls are noted, and none fails. */
  readonly failing?: Failing;
}
