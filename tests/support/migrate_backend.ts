/** A hypervisor of a migration test: its back-end and its privileged helper. */
import { passt, type Suite } from "../../scripts/lab/passt.ts";
import { Backend, backendCommand } from "./lab_backend.ts";
import { Process, run, until } from "./lab_process.ts";
import type { Side } from "./migrate_network.ts";
import { STREAM_PORT } from "./migrate_streams.ts";
import { vuelo } from "./cli.ts";
import { Port } from "./lab_agent.ts";

/** passt is that of Debian trixie, passt-sid that of sid. */
export type BackendKind = "vuelo" | "passt" | "passt-sid";
/** Who switches repair mode; "none": the back-end itself, which vuelo can as root. */
export type HelperKind = "vuelo" | "passt" | "none";

/** How a hypervisor is set up. */
export interface HypervisorOptions {
  readonly kind: BackendKind;
  readonly helper: HelperKind;
  /** More options of the back-end. */
  readonly args?: readonly string[];
}

function suiteOf(kind: BackendKind): Suite {
  return kind === "passt-sid" ? "sid" : "trixie";
}

async function command(options: HypervisorOptions): Promise<string[]> {
  const { kind, helper } = options;
  const forward = ["-t", `${STREAM_PORT},${Port.echo}`];
  if (kind === "vuelo") {
    if (helper === "none") {
      return [...backendCommand(), "--repair-path", "none", ...forward];
    }
    // Even root has no say over TCP_REPAIR without this capability.
    const weak = ["setpriv", "--bounding-set=-net_admin", "--"];
    const repair = ["--repair-path", "{socket}.repair"];
    return [...weak, ...backendCommand(), ...repair, ...forward];
  }
  const { passt: program } = await passt(suiteOf(kind));
  const options_ = ["-f", "--vhost-user", "--socket-path", "{socket}"];
  return [program.path, ...program.args, ...options_, ...forward];
}

async function helperCommand(kind: HelperKind, path: string): Promise<string[]> {
  if (kind === "vuelo") {
    const [program, args] = vuelo(["repair", path]);
    return [program, ...args];
  }
  const { repair } = await passt("sid");
  return [repair.path, ...repair.args, path];
}

/** One of the two hypervisors. */
export class Hypervisor {
  #backend: Backend | undefined;
  #helper: Process | undefined;
  /** Processes of the scenario under way, those that have ended as well. */
  #started: { name: string; process: Process }[] = [];

  constructor(
    readonly side: Side,
    readonly namespace: string,
    readonly options: HypervisorOptions,
  ) {}

  /** The running back-end. */
  get backend(): Backend {
    if (this.#backend === undefined) throw new Error(`${this.side} has no back-end`);
    return this.#backend;
  }

  get running(): boolean {
    return this.#backend !== undefined && !this.#backend.process.ended;
  }

  /**
   * Whether what reaches this host while its guest leaves does harm. That of May 2025
   * closes its sockets as it saves them, so that the kernel resets connections; later ones
   * leave them open, and the kernel acknowledges data that nobody carries to the target.
   */
  get losesLatePackets(): boolean {
    return this.options.kind !== "vuelo";
  }

  /** How many bytes the back-end has written, to files and pipes but not to sockets. */
  written(): number {
    try {
      const text = Deno.readTextFileSync(`/proc/${this.backend.pid}/io`);
      return Number(/wchar: (\d+)/.exec(text)?.[1] ?? 0);
    } catch {
      return 0;
    }
  }

  /** The helper's process, if there is one. */
  get helper(): Process | undefined {
    return this.#helper;
  }

  /** Has no connection that was closed here stay in TIME_WAIT: passt minds them. */
  async forget(): Promise<void> {
    const path = "/proc/sys/net/ipv4/tcp_max_tw_buckets";
    await run(["sh", "-c", `echo 0 > ${path}`], { namespace: this.namespace });
  }

  /** Starts the back-end, unless it runs, with more options for this time. */
  async start(args: readonly string[] = []): Promise<void> {
    if (this.running) return;
    await this.stop();
    const { options } = this;
    const words = await command(options);
    if (options.kind !== "vuelo") await this.forget();
    this.#backend = await Backend.start({
      namespace: this.namespace,
      command: words,
      args: [...(options.args ?? []), ...args],
    });
    this.#note("back-end", this.#backend.process);
  }

  /** Has a helper connected to the back-end, whose guest must be connected already. */
  async connectHelper(): Promise<void> {
    const { helper } = this.options;
    if (helper === "none" || this.helperConnected()) return;
    const path = `${this.backend.socket}.repair`;
    const argv = await helperCommand(helper, path);
    await until(`a helper at ${path}`, () => {
      if (this.#helper === undefined || this.#helper.ended) {
        this.#helper = new Process(argv, { namespace: this.namespace });
        this.#note("helper", this.#helper);
      }
      return this.helperConnected();
    });
  }

  /** Whether the back-end accepted a helper: a socket with the path, connected, owned. */
  helperConnected(): boolean {
    if (this.#helper === undefined || this.#helper.ended) return false;
    const table = Deno.readTextFileSync(`/proc/${this.backend.pid}/net/unix`);
    return table.split("\n").some((line) => {
      const words = line.trim().split(/\s+/);
      return words[7] === `${this.backend.socket}.repair` && words[5] === "03" &&
        words[6] !== "0";
    });
  }

  /** Ends the helper, if there is one. */
  async stopHelper(signal: Deno.Signal = "SIGTERM"): Promise<void> {
    await this.#helper?.stop(signal);
    this.#helper = undefined;
  }

  /** Ends it all. */
  async stop(): Promise<void> {
    await this.#backend?.stop();
    this.#backend = undefined;
    await this.stopHelper();
  }

  #note(name: string, process: Process): void {
    this.#started.push({ name: `${name} of hypervisor ${this.side}`, process });
  }

  /** A new scenario begins: what ended before it is of no interest. */
  forgetEnded(): void {
    this.#started = this.#started.filter(({ process }) => !process.ended);
  }

  /** What back-ends and helpers said, also those that ended in this scenario. */
  report(): string {
    return this.#started.map(({ name, process }) => {
      const state = process.ended ? "ended" : "running";
      return `-- ${name}, process ${process.pid}, ${state}:\n${process.output}`;
    }).join("\n");
  }
}
