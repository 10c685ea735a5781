/** Command lines of the tools that `deno task` starts. */
import { type Args, parseArgs } from "@std/cli";

export interface Words {
  /** What it is called in a complaint. */
  readonly name: string;
  /** What --help prints. */
  readonly usage: string;
  /** Options with a value, without dashes. */
  readonly string?: readonly string[];
  /** Options without one. */
  readonly boolean?: readonly string[];
  /** Words that are no options are taken. */
  readonly operands?: boolean;
  readonly default?: Record<string, unknown>;
}

/**
 * Reads this process's arguments. Prints the usage and ends it if --help is among them;
 * ends it with status 2 and one line for what it does not know.
 */
export function toolArgs({ name, usage, operands = false, ...known }: Words): Args {
  const args = parseArgs(Deno.args, {
    ...known,
    boolean: [...known.boolean ?? [], "help"],
    alias: { h: "help" },
    unknown: (word: string) => {
      if (operands && !word.startsWith("-")) return;
      console.error(`${name}: ${word} is not known; --help tells what is`);
      Deno.exit(2);
    },
  });
  if (args.help !== true) return args;
  console.log(usage);
  Deno.exit(0);
}
