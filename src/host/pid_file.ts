/** The PID file of -P. */
import { openOwnFile } from "../../ffi/own_file.ts";
import { StartError } from "../errors.ts";

/** Opened while the process still may, written when it is ready. */
export class PidFile {
  readonly #file: Deno.FsFile;

  /** @throws {StartError} if the file can't be opened for writing */
  constructor(readonly path: string) {
    try {
      this.#file = openOwnFile(path, { truncate: true, mode: 0o644 });
    } catch (error) {
      throw new StartError(`cannot write PID file ${path}: ${(error as Error).message}`);
    }
  }

  /** Writes the number of this process, in decimal and with a line end; once. */
  write(): void {
    try {
      this.#file.writeSync(new TextEncoder().encode(`${Deno.pid}\n`));
    } catch (error) {
      throw new StartError(
        `cannot write PID file ${this.path}: ${(error as Error).message}`,
      );
    } finally {
      this.#file.close();
    }
  }
}
