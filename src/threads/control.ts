/**
 * What the main thread asks of another: rarely, one question at a time, as JSON in memory
 * that both share. The main thread waits for the answer, and goes on with what the other
 * threads send it meanwhile.
 */
import type { Offloads } from "../flow/context.ts";
import type { Vring } from "../vhost_user/backend.ts";
import type { MemoryMap } from "../virtio/guest_memory.ts";

/** What the driver accepted, and the link's MTU. */
export interface Settings {
  readonly offloads: Offloads;
  readonly mtu: number;
}

/** What the first thread asks of the others. */
export type Command =
  | { readonly ask: "memory"; readonly map: MemoryMap }
  /** Answered with an error number, 0 if there is none. */
  | { readonly ask: "start"; readonly ring: Vring; readonly settings: Settings }
  | { readonly ask: "update"; readonly ring: Vring }
  /** Answered with the next available index. */
  | { readonly ask: "stop"; readonly index: number }
  /** All flows go to the main thread. */
  | { readonly ask: "give" }
  /** All flows end. */
  | { readonly ask: "drop" }
  /** Answered with counters by name. */
  | { readonly ask: "counts" }
  | { readonly ask: "end" };

/** What they answer. */
export type Answer = number | Record<string, number> | null;

/** 509 regions of memory need 90 KB. */
export const CONTROL_SIZE = 1 << 18;
const STATE = 0;
const LENGTH = 1;
const TEXT_AT = 64;
const IDLE = 0;
const ASKED = 1;
const ANSWERED = 2;
/** How often the main thread looks whether others need it while it waits. */
const LOOK_MS = 1;
const PATIENCE_MS = 20_000;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Either end of the line to one thread. */
export class Control {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;

  /** @param memory {@link CONTROL_SIZE} bytes, zeroed, of both threads */
  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
    this.#bytes = new Uint8Array(memory, TEXT_AT);
  }

  /**
   * The main thread's side.
   *
   * @param wake ends the other thread's sleep; called again while there is no answer
   * @param meanwhile is called again and again until the answer is there
   * @throws {Error} if there is no answer: the other thread hangs or has ended
   */
  ask(command: Command, wake: () => void, meanwhile: () => void): Answer {
    this.#write(command, ASKED);
    wake();
    const end = performance.now() + PATIENCE_MS;
    while (Atomics.load(this.#words, STATE) !== ANSWERED) {
      meanwhile();
      if (Atomics.wait(this.#words, STATE, ASKED, LOOK_MS) === "timed-out") wake();
      if (performance.now() > end) {
        throw new Error(`a thread of the data path does not answer to ${command.ask}`);
      }
    }
    const answer = this.#read() as Answer;
    Atomics.store(this.#words, STATE, IDLE);
    return answer;
  }

  /** The other thread's side: whether there is a question. */
  get asked(): boolean {
    return Atomics.load(this.#words, STATE) === ASKED;
  }

  /** The question, while {@link asked}. */
  question(): Command {
    return this.#read() as Command;
  }

  /** Other threads: tells the first that its command is done. */
  answer(answer: Answer): void {
    this.#write(answer, ANSWERED);
    Atomics.notify(this.#words, STATE);
  }

  #write(value: unknown, state: number): void {
    const text = encoder.encode(JSON.stringify(value));
    this.#bytes.set(text);
    this.#words[LENGTH] = text.length;
    Atomics.store(this.#words, STATE, state);
  }

  #read(): unknown {
    return JSON.parse(decoder.decode(this.#bytes.slice(0, this.#words[LENGTH])));
  }
}
