/** The command line, taken apart by the table of options. */
import { parseArgs } from "node:util";
import { UsageError } from "../errors.ts";
import { type OptionName, OPTIONS, type OptionSpec } from "./options.ts";

/** One occurrence of an option. */
export interface OptionValue {
  /** The value; empty for a switch. */
  readonly text: string;
  /** Option and value as the user wrote them, for messages: `-m 'abc'`. */
  readonly written: string;
}

/** The options of a command line, each with its occurrences in order. */
export class ParsedOptions {
  readonly #values = new Map<OptionName, OptionValue[]>();

  /** Notes that an option was given. */
  add(name: OptionName, value: OptionValue): void {
    const values = this.#values.get(name);
    if (values === undefined) this.#values.set(name, [value]);
    else values.push(value);
  }
  /** Whether an option was given. */
  has(name: OptionName): boolean {
    return this.#values.has(name);
  }
  /** Every occurrence, in order. */
  all(name: OptionName): readonly OptionValue[] {
    return this.#values.get(name) ?? [];
  }
  /** The last occurrence, which is the one that counts. */
  last(name: OptionName): OptionValue | undefined {
    return this.#values.get(name)?.at(-1);
  }
}

const byLongName = new Map<string, OptionSpec & { name: OptionName }>();
/** The table in the form that node:util wants: one entry for each long name. */
const descriptors: Record<string, { type: "string" | "boolean"; short?: string }> = {};
for (const spec of OPTIONS as readonly (OptionSpec & { name: OptionName })[]) {
  for (const name of [spec.name, ...spec.aliases ?? []]) {
    byLongName.set(name, spec);
    descriptors[name] = { type: spec.argument === undefined ? "boolean" : "string" };
  }
  if (spec.short !== undefined) descriptors[spec.name].short = spec.short;
}

/**
 * Reads a command line as getopt_long(3) does: clusters (`-1f`), attached and separate
 * values (`-t22`, `-t 22`, `--mtu=1500`, `--mtu 1500`), and repeated options.
 *
 * @throws {UsageError} for what is no option of the table, or lacks its value
 */
export function parseOptions(args: readonly string[]): ParsedOptions {
  const options = new ParsedOptions();
  // Not strict: its messages span lines, and a value may begin with a dash.
  const { tokens } = parseArgs({
    args: [...args],
    options: descriptors,
    strict: false,
    tokens: true,
  });
  for (const token of tokens) {
    if (token.kind === "positional") {
      throw new UsageError(
        quote(token.value),
        "not an option, and nothing else is expected",
      );
    }
    if (token.kind !== "option") continue;
    const spec = byLongName.get(token.name);
    if (spec === undefined) throw new UsageError(token.rawName, unknown(token.name));
    if (spec.argument === undefined) {
      if (token.value !== undefined) {
        throw new UsageError(
          `${token.rawName}=${token.value}`,
          "this option takes no value",
        );
      }
      options.add(spec.name, { text: "", written: token.rawName });
      continue;
    }
    if (token.value === undefined) {
      throw new UsageError(token.rawName, `a value is missing (${spec.argument})`);
    }
    const written = `${token.rawName} ${quote(token.value)}`;
    options.add(spec.name, { text: token.value, written });
  }
  return options;
}

function unknown(name: string): string {
  const near = new Set<string>();
  for (const [long, spec] of byLongName) if (long.startsWith(name)) near.add(spec.name);
  const [only] = near;
  return near.size === 1 && name.length > 1
    ? `unknown option, did you mean --${only}?`
    : "unknown option, see --help";
}

function quote(text: string): string {
  return `'${text}'`;
}
