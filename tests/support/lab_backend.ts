/**
 * The back-end under test: `vuelo` from the sources, the executable that VUELO_BIN names,
 * or any command that VUELO_BACKEND gives, with {socket} where the socket's path goes
 * (passt, say, to see whether a failure is vuelo's or the lab's).
 */
import { MAIN } from "./cli.ts";
import { countDescriptors, Process, type ProcessOptions, until } from "./lab_process.ts";

/** The command line, with {socket} in the place of the socket's path. */
export function backendCommand(): string[] {
  const command = Deno.env.get("VUELO_BACKEND");
  if (command !== undefined) return command.split(/\s+/);
  const binary = Deno.env.get("VUELO_BIN");
  const start = binary !== undefined ? [binary] : [Deno.execPath(), "run", "-A", MAIN];
  return [...start, "-f", "--socket-path", "{socket}"];
}

/** Whether the back-end is vuelo, and not one to compare it with. */
export const IS_VUELO = Deno.env.get("VUELO_BACKEND") === undefined;

/** How the back-end is started. */
export interface BackendOptions extends ProcessOptions {
  /** Options added to the command line. */
  readonly args?: readonly string[];
  /** In place of backendCommand(). */
  readonly command?: readonly string[];
}

/** A running back-end. */
export class Backend {
  private constructor(
    readonly process: Process,
    readonly socket: string,
    readonly folder: string,
  ) {}

  /** Starts it and waits until its socket listens. */
  static async start(options: BackendOptions = {}): Promise<Backend> {
    const folder = await Deno.makeTempDir({ prefix: "vuelo-backend-" });
    if (options.uid !== undefined) await Deno.chown(folder, options.uid, options.uid);
    else await Deno.chmod(folder, 0o755);
    const socket = `${folder}/socket`;
    const command = (options.command ?? backendCommand())
      .map((word) => word.replace("{socket}", socket));
    const process = new Process([...command, ...(options.args ?? [])], options);
    const backend = new Backend(process, socket, folder);
    try {
      await until("the back-end listens", () => {
        if (process.ended) throw new Error("the back-end ended");
        return backend.listening();
      });
    } catch (error) {
      await backend.stop();
      throw new Error(`${command.join(" ")}: ${process.output}`, { cause: error });
    }
    return backend;
  }

  get pid(): number {
    return this.process.pid;
  }

  /** Whether its socket listens (flag __SO_ACCEPTCON in /proc/net/unix). */
  listening(): boolean {
    let table: string;
    try {
      table = Deno.readTextFileSync(`/proc/${this.pid}/net/unix`);
    } catch {
      return false;
    }
    return table.split("\n").some((line) =>
      line.endsWith(` ${this.socket}`) && line.split(/\s+/)[3] === "00010000"
    );
  }

  /** How many descriptors it has open. */
  descriptors(): number {
    return countDescriptors(this.pid);
  }

  /** Ends it and removes its folder. */
  async stop(): Promise<void> {
    await this.process.stop();
    await Deno.remove(this.folder, { recursive: true });
  }
}
