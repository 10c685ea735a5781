/** The PID file of -P. */
import { StartError } from "../errors.ts";

/**
 * Writes the number of this process, in decimal and with a line end.
 *
 * @throws {StartError} if the file can't be written
 */
export function writePidFile(path: string): void {
  try {
    Deno.writeTextFileSync(path, `${Deno.pid}\n`, { mode: 0o644 });
  } catch (error) {
    throw new StartError(`cannot write PID file ${path}: ${(error as Error).message}`);
  }
}
