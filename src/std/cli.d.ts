/** Types of the part of deno-std's cli module that vuelo uses. */
export interface ParseOptions {
  alias?: Record<string, string | readonly string[]>;
  boolean?: readonly string[];
  string?: readonly string[];
  collect?: readonly string[];
  negatable?: readonly string[];
  default?: Record<string, unknown>;
  stopEarly?: boolean;
  "--"?: boolean;
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}
export interface Args {
  _: (string | number)[];
  [name: string]: unknown;
}
export declare function parseArgs(args: readonly string[], options?: ParseOptions): Args;
