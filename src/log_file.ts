/** A log file that never grows beyond a bound: the oldest lines make room for new ones. */
import { openOwnFile } from "../ffi/own_file.ts";
import { StartError } from "./errors.ts";

/** Share of the bound that stays when the file is full; the newest lines. */
const KEPT_SHARE = 0.5;
const NEWLINE = 0x0a;

/**
 * Lines are written at once, one system call each. The file stays open and keeps its
 * inode, so that it works after the process has given up the right to create files.
 */
export class LogFile {
  readonly #file: Deno.FsFile;
  readonly #limit: number;
  #size: number;

  /**
   * Opens or creates `path` and appends to it.
   *
   * @param limit bytes that the file may have, at least a few lines
   * @throws {StartError} if the file cannot be opened
   */
  constructor(path: string, limit: number) {
    try {
      this.#file = openOwnFile(path, { read: true, mode: 0o600 });
      this.#size = this.#file.seekSync(0, Deno.SeekMode.End);
    } catch (error) {
      throw new StartError(`cannot open log file ${path}: ${(error as Error).message}`);
    }
    this.#limit = limit;
  }

  /** Appends one line, which is cut if it alone is longer than the bound. */
  write(line: Uint8Array): void {
    const bytes = line.subarray(0, this.#limit);
    if (this.#size + bytes.length > this.#limit) this.#makeRoom(bytes.length);
    for (let done = 0; done < bytes.length;) {
      done += this.#file.writeSync(bytes.subarray(done));
    }
    this.#size += bytes.length;
  }

  /** Closes the file. */
  close(): void {
    this.#file.close();
  }

  #makeRoom(needed: number): void {
    const kept = Math.min(Math.floor(this.#limit * KEPT_SHARE), this.#limit - needed);
    const tail = this.#readTail(kept);
    // A line that was cut by the bound goes as a whole.
    const lineAt = tail.indexOf(NEWLINE) + 1;
    const lines = lineAt === 0 ? tail.subarray(tail.length) : tail.subarray(lineAt);
    this.#file.truncateSync(0);
    this.#file.seekSync(0, Deno.SeekMode.Start);
    for (let done = 0; done < lines.length;) {
      done += this.#file.writeSync(lines.subarray(done));
    }
    this.#size = lines.length;
  }

  #readTail(length: number): Uint8Array {
    const start = Math.max(0, this.#size - length);
    this.#file.seekSync(start, Deno.SeekMode.Start);
    const tail = new Uint8Array(this.#size - start);
    let done = 0;
    while (done < tail.length) {
      const count = this.#file.readSync(tail.subarray(done));
      if (count === null || count === 0) break;
      done += count;
    }
    return tail.subarray(0, done);
  }
}
