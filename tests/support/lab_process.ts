/** Processes the lab starts, perhaps in a network namespace or as another user. */

/** Waits until `condition` holds, looking every few milliseconds; throws after `limit` ms. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limit = 30_000,
): Promise<void> {
  const end = performance.now() + limit;
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`Waited ${limit} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Rejects if `promise` takes longer than `limit` milliseconds. */
export async function within<T>(
  what: string,
  limit: number,
  promise: Promise<T>,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no end in ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Where and as whom a process runs. */
export interface ProcessOptions {
  /** Name of a network namespace. */
  readonly namespace?: string;
  /** User and group number to become first (needs root). */
  readonly uid?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Start with no environment but `env`. */
  readonly clearEnv?: boolean;
  /** Gets the output in place of `output`; standard input is piped then as well. */
  readonly piped?: boolean;
}

/** The command line that runs `argv` in a namespace and as a user; each step is an exec. */
export function wrapped(argv: readonly string[], options: ProcessOptions): string[] {
  // With --pdeathsig nothing outlives a test that is killed.
  const line = ["setpriv", "--pdeathsig", "KILL", "--", ...argv];
  if (options.uid !== undefined) {
    const { uid } = options;
    line.splice(1, 0, `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups");
  }
  if (options.namespace !== undefined) {
    line.unshift("nsenter", `--net=/run/netns/${options.namespace}`, "--");
  }
  return line;
}

/** A running child, whose output is kept for the message of a test that fails. */
export class Process {
  /** All that came on standard output and standard error so far. */
  output = "";
  /** Settles when the process ended. */
  readonly status: Promise<Deno.CommandStatus>;
  ended = false;
  readonly #child: Deno.ChildProcess;
  readonly #readers: Promise<void>[];

  constructor(argv: readonly string[], options: ProcessOptions = {}) {
    const [command, ...args] = wrapped(argv, options);
    this.#child = new Deno.Command(command, {
      args,
      cwd: options.cwd,
      env: options.env,
      clearEnv: options.clearEnv,
      stdin: options.piped ? "piped" : "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#readers = [this.#collect(this.#child.stderr)];
    if (!options.piped) this.#readers.push(this.#collect(this.#child.stdout));
    this.status = this.#child.status.then((status) => {
      this.ended = true;
      return status;
    });
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Standard output of a `piped` process. */
  get stdout(): ReadableStream<Uint8Array> {
    return this.#child.stdout;
  }

  /** Standard input of a `piped` process. */
  get stdin(): WritableStream<Uint8Array> {
    return this.#child.stdin;
  }

  /** Sends a signal, unless the process has ended. */
  signal(name: Deno.Signal): void {
    if (!this.ended) this.#child.kill(name);
  }

  /** Ends the process (SIGTERM, after 5 s SIGKILL) and waits for its end. */
  async stop(first: Deno.Signal = "SIGTERM"): Promise<Deno.CommandStatus> {
    this.signal(first);
    const timer = setTimeout(() => this.signal("SIGKILL"), 5000);
    const status = await this.status;
    clearTimeout(timer);
    // A grandchild may still hold the pipes, so don't wait for their end for ever.
    await within("end of output", 2000, Promise.all(this.#readers)).catch(() => {});
    return status;
  }

  /** Waits until the output matches, and returns the match. */
  async says(pattern: RegExp, limit = 30_000): Promise<RegExpExecArray> {
    await until(`output ${pattern}`, () => {
      if (this.ended && !pattern.test(this.output)) {
        throw new Error(`The process ended without ${pattern}: ${this.output}`);
      }
      return pattern.test(this.output);
    }, limit);
    return pattern.exec(this.output)!;
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const part of stream) {
      this.output = (this.output + decoder.decode(part, { stream: true })).slice(
        -200_000,
      );
    }
  }
}

/** Runs a command to its end and returns its output; throws when it fails. */
export async function run(
  argv: readonly string[],
  options: ProcessOptions = {},
): Promise<string> {
  const [command, ...args] = wrapped(argv, options);
  const result = await new Deno.Command(command, {
    args,
    cwd: options.cwd,
    env: options.env,
    clearEnv: options.clearEnv,
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (result.success) return decoder.decode(result.stdout);
  const reason = decoder.decode(result.stderr).trim();
  throw new Error(`${argv.join(" ")}: status ${result.code}: ${reason}`);
}

/** How many descriptors process `pid` has open. */
export function countDescriptors(pid: number): number {
  return [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
}
