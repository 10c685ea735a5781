/**
 * A load: serves and sends as it is told by lines of JSON on standard input, and answers
 * each with one. It runs in a namespace, and reads nothing but this repository's files.
 */
import { raiseDescriptorLimit } from "../../../ffi/process.ts";
import { EPOLLIN } from "../../../ffi/event.ts";
import { readSome } from "../../../ffi/pipe.ts";
import { Connections, Flood, Requests, Streams, type Work } from "./client.ts";
import type { Reading } from "./counters.ts";
import { Engine, type Handler } from "./engine.ts";
import { DatagramServer, StreamServer } from "./server.ts";

/** What a load can be told, with arguments and result. */
export interface Operations {
  /** Serves TCP and UDP ports from now on. */
  serve: [{ tcp: readonly number[]; udp: readonly number[] }, null];
  /** Starts to send, besides what it does already; a name to stop it by. */
  start: [Work & { name: string }, null];
  stop: [{ name: string }, null];
  /** Counts anew. */
  mark: [Record<never, never>, null];
  read: [Record<never, never>, Reading];
}

type Line = { [K in keyof Operations]: { id: number; op: K } & Operations[K][0] }[
  keyof Operations
];

const STDIN = 0;

/** Takes lines from standard input; their end is the load's. */
class Control implements Handler {
  readonly #buffer = new Uint8Array(65_536);
  readonly #decoder = new TextDecoder();
  readonly #encoder = new TextEncoder();
  readonly #works = new Map<string, { stop(): void }>();
  #text = "";

  constructor(private readonly engine: Engine) {
    engine.watch(STDIN, EPOLLIN, this);
  }

  event(): void {
    const count = readSome(STDIN, this.#buffer);
    if (count <= 0) {
      this.engine.stopped = true;
      return;
    }
    this.#text += this.#decoder.decode(this.#buffer.subarray(0, count));
    const lines = this.#text.split("\n");
    this.#text = lines.pop()!;
    for (const line of lines) this.#answer(JSON.parse(line) as Line);
  }

  #answer(line: Line): void {
    let reply: Record<string, unknown>;
    try {
      reply = { id: line.id, result: this.#do(line) };
    } catch (error) {
      reply = { id: line.id, error: (error as Error).message };
    }
    Deno.stdout.writeSync(this.#encoder.encode(JSON.stringify(reply) + "\n"));
  }

  #do(line: Line): Reading | null {
    const { engine } = this;
    switch (line.op) {
      case "serve":
        new StreamServer(engine, line.tcp);
        new DatagramServer(engine, line.udp);
        return null;
      case "start":
        this.#works.set(line.name, this.#start(line));
        return null;
      case "stop":
        this.#works.get(line.name)?.stop();
        this.#works.delete(line.name);
        return null;
      case "mark":
        engine.counters.mark();
        return null;
      case "read":
        return engine.counters.read();
    }
  }

  #start(work: Work): { stop(): void } {
    switch (work.kind) {
      case "echo":
      case "plain":
        return new Requests(this.engine, work);
      case "once":
        return new Connections(this.engine, work);
      case "flood":
        return new Flood(this.engine, work);
      default:
        return new Streams(this.engine, work);
    }
  }
}

if (import.meta.main) {
  raiseDescriptorLimit();
  const engine = new Engine();
  new Control(engine);
  engine.run();
}
