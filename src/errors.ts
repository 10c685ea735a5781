/** Errors that end vuelo before it serves, told to the operator in one line. */

/** A wrong option, value or contradiction on the command line: exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  /**
   * @param what the option and value as the user gave them, e.g. `--mtu 'abc'`
   * @param problem what was expected, or what to do
   */
  constructor(what: string, problem: string) {
    // One line, whatever is in the value.
    // deno-lint-ignore no-control-regex
    super(`${what}: ${problem}`.replace(/[\x00-\x1f\x7f]/g, "?"));
  }
}

/** The host refuses what was asked for (a path, a port, a user): exit status 1. */
export class StartError extends Error {
  override readonly name = "StartError";
}
