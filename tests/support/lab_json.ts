/** One JSON object a line each way: QEMU's monitor protocol (QMP) and the lab's agent. */
import { within } from "./lab_process.ts";

/** A parsed line. */
export type Message = Record<string, unknown>;

/** A request failed at the other end. */
export class RequestError extends Error {
  override readonly name = "RequestError";
}

/** Sends requests with a number of their own, and hands out the replies by number. */
export class JsonLink {
  readonly #pending = new Map<number, (reply: Message | Error) => void>();
  readonly #listeners = new Set<(event: Message) => void>();
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  readonly #encoder = new TextEncoder();
  #next = 1;
  #closed = false;

  constructor(
    readable: ReadableStream<Uint8Array>,
    writable: WritableStream<Uint8Array>,
    readonly name: string,
  ) {
    this.#writer = writable.getWriter();
    this.#reading = this.#read(readable);
  }

  /** Sends `request` and returns the whole reply, within `limit` milliseconds. */
  async request(request: Message, limit: number): Promise<Message> {
    if (this.#closed) throw new RequestError(`${this.name} is gone`);
    const id = this.#next++;
    const reply = new Promise<Message>((resolve, reject) => {
      this.#pending.set(
        id,
        (message) => message instanceof Error ? reject(message) : resolve(message),
      );
    });
    reply.catch(() => {}); // handled below, also when the write fails first
    try {
      await this.#writer.write(
        this.#encoder.encode(JSON.stringify({ ...request, id }) + "\n"),
      );
      return await within(`${this.name}: ${JSON.stringify(request)}`, limit, reply);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Calls `listener` for each message that is no reply; returns how to stop that. */
  listen(listener: (event: Message) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Returns the next message that is no reply and has a property `key`. */
  async event(key: string, limit: number): Promise<Message> {
    let stop = () => {};
    const found = new Promise<Message>((resolve) => {
      stop = this.listen((event) => key in event && resolve(event));
    });
    return await within(`${this.name}: event ${key}`, limit, found).finally(stop);
  }

  /** Waits until the other end is gone; call after it was closed or killed. */
  async ended(): Promise<void> {
    await this.#reading;
    await this.#writer.close().catch(() => {});
  }

  async #read(readable: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    let text = "";
    try {
      for await (const part of readable) {
        text += decoder.decode(part, { stream: true });
        const lines = text.split("\n");
        text = lines.pop()!;
        for (const line of lines) this.#take(line);
      }
    } catch {
      // The other end was killed; what waits for it learns so below.
    }
    this.#closed = true;
    const gone = new RequestError(`${this.name} is gone`);
    for (const settle of this.#pending.values()) settle(gone);
  }

  #take(line: string): void {
    let message: Message;
    try {
      message = JSON.parse(line);
    } catch {
      return; // the rest of a line which a reset of the guest cut off
    }
    if (typeof message.id === "number") this.#pending.get(message.id)?.(message);
    else for (const listener of [...this.#listeners]) listener(message);
  }
}
