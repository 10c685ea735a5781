/** Stands between two QEMUs and looks at, holds, cuts or damages what the source sends. */
const CHUNK = 1 << 18;
/** Both forms of the magic number with which a back-end's state begins. */
const MAGICS = ["b0d1b10b1b1dbbb1", "b1bb1d1b0bb1d1b0"];

/** A relay for one migration. */
export class Relay {
  /** How many bytes came from the source. */
  bytes = 0;
  /** Called with what comes from the source, to be changed in place. */
  onData: (data: Uint8Array) => void = () => {};
  #listener: Deno.UnixListener | undefined;
  #source: Deno.UnixConn | undefined;
  #target: Deno.UnixConn | undefined;
  #held: Uint8Array[] | undefined;
  #ended = false;
  #done: Promise<unknown> = Promise.resolve();

  /** Begins to listen, and returns the path to which the source shall migrate. */
  start(target: string): Promise<string> {
    const path = `${target}-relay`;
    this.#listener = Deno.listen({ transport: "unix", path });
    this.#done = this.#serve(target).catch(() => {});
    return Promise.resolve(path);
  }

  /** From now on nothing reaches the target, while the source can go on sending. */
  hold(): void {
    this.#held = [];
  }

  /** All that was held goes to the target, and what comes later. */
  async release(): Promise<void> {
    while (this.#held !== undefined && this.#held.length > 0) {
      await this.#write(this.#held.shift()!);
    }
    this.#held = undefined;
    if (this.#ended) await this.#target?.closeWrite();
  }

  /** All that was held so far, as one array. */
  get held(): Uint8Array {
    return concat(this.#held ?? []);
  }

  /** Puts `data` in the place of what was held. */
  replace(data: Uint8Array): void {
    this.#held = [data];
  }

  /** Closes both sides. */
  cut(): void {
    this.#held = undefined;
    hangUp(this.#source);
    hangUp(this.#target);
  }

  /** Ends it all. */
  async close(): Promise<void> {
    close(this.#listener);
    this.cut();
    await this.#done;
  }

  async #serve(path: string): Promise<void> {
    this.#source = await this.#listener!.accept();
    this.#target = await Deno.connect({ transport: "unix", path });
    await Promise.all([this.#forth(), this.#back()]);
  }

  async #forth(): Promise<void> {
    const buffer = new Uint8Array(CHUNK);
    try {
      for (;;) {
        const size = await this.#source!.read(buffer);
        if (size === null) break;
        this.bytes += size;
        const data = buffer.subarray(0, size);
        this.onData(data);
        if (this.#held !== undefined) this.#held.push(data.slice());
        else await this.#write(data);
      }
    } catch {
      // Killed, or cut by us.
    }
    this.#ended = true;
    if (this.#held === undefined) hangUp(this.#target);
  }

  async #back(): Promise<void> {
    const buffer = new Uint8Array(4096);
    try {
      for (;;) {
        const size = await this.#target!.read(buffer);
        if (size === null) break;
        await writeAll(this.#source!, buffer.subarray(0, size)).catch(() => {});
      }
    } catch {
      // As above.
    }
    hangUp(this.#source);
  }

  async #write(data: Uint8Array): Promise<void> {
    await writeAll(this.#target!, data).catch(() => {});
  }
}

/** Where the back-end's state begins in a part of QEMU's stream, or -1. */
export function stateOffset(stream: Uint8Array): number {
  const text = stream.toHex();
  for (const magic of MAGICS) {
    let at = text.indexOf(magic);
    while (at >= 0 && at % 2 !== 0) at = text.indexOf(magic, at + 1);
    if (at >= 0) return at / 2;
  }
  return -1;
}

async function writeAll(connection: Deno.UnixConn, data: Uint8Array): Promise<void> {
  let done = 0;
  while (done < data.length) done += await connection.write(data.subarray(done));
}

/** Closes a connection. A read under way would keep it open beyond close() alone. */
function hangUp(connection: Deno.UnixConn | undefined): void {
  connection?.closeWrite().catch(() => {}).finally(() => close(connection));
}

function close(resource: { close(): void } | undefined): void {
  try {
    resource?.close();
  } catch {
    // It was closed already.
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
