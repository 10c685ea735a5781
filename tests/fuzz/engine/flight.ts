/**
 * The input that runs, in memory that another process can read when this one hangs or has
 * died: a memfd with the number of executions, the input's length, and the input.
 */
import { mapShared, memfdCreate, PAGE_SIZE, reserve } from "../../../ffi/memory.ts";

const HEAD = 12;

/** The side of the process that runs inputs. */
export class FlightRecorder {
  /** To be opened as /proc/PID/fd/N. */
  readonly fd: number;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;

  /** @param longest input in bytes */
  constructor(longest: number) {
    const size = Math.ceil((HEAD + longest) / PAGE_SIZE) * PAGE_SIZE;
    this.fd = memfdCreate("fuzz", size);
    const range = reserve(size);
    if (range === null) throw new RangeError("no addresses left");
    mapShared(range.base, size, this.fd, 0);
    this.#view = new DataView(range.buffer);
    this.#bytes = new Uint8Array(range.buffer, HEAD);
  }

  note(input: Uint8Array, executions: number): void {
    this.#view.setFloat64(0, executions);
    this.#view.setUint32(8, input.length);
    this.#bytes.set(input);
  }
}

/** The side of the process that watches. */
export class FlightReader {
  readonly #file: Deno.FsFile;

  constructor(pid: number, fd: number) {
    this.#file = Deno.openSync(`/proc/${pid}/fd/${fd}`);
  }

  read(): { executions: number; input: Uint8Array } {
    const all = new Uint8Array(this.#file.statSync().size);
    this.#file.seekSync(0, Deno.SeekMode.Start);
    this.#file.readSync(all);
    const view = new DataView(all.buffer);
    const end = HEAD + view.getUint32(8);
    return { executions: view.getFloat64(0), input: all.slice(HEAD, end) };
  }

  close(): void {
    this.#file.close();
  }
}
