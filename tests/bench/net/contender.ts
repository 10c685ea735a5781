/** The back-ends that are compared: vuelo, and whatever `--peer` names. */
import { passt } from "../../../scripts/lab/passt.ts";
import { backendCommand } from "../../support/lab_backend.ts";
import { Process, run } from "../../support/lab_process.ts";
import { manyDescriptors } from "./limits.ts";
import { cpuSeconds, type Memory, memory } from "./usage.ts";

/** Ports of the host that lead to the guest's, TCP and UDP. */
export const FORWARDED = { first: 7000, last: 7009 } as const;
const PORTS = `${FORWARDED.first}-${FORWARDED.last}`;
const FORWARD = ["-t", PORTS, "-u", PORTS];
const START_LIMIT = 30_000;

export interface Contender {
  readonly name: string;
  /** With {socket} in the place of the socket's path. */
  readonly command: readonly string[];
  /** How it is told of. */
  readonly shown: string;
}

/** vuelo with so many queue pairs: VUELO_BIN, else the sources. */
export function vuelo(queues: number): Contender {
  const pairs = queues > 1 ? ["--queues", `${queues}`] : [];
  const command = [...backendCommand(), ...FORWARD, ...pairs];
  const shown = Deno.env.has("VUELO_BIN") ? "vuelo, compiled" : "vuelo, from the sources";
  return { name: "vuelo", command, shown };
}

/**
 * What `--peer` means: a command with {socket}, or one of "passt" (Debian's newest) and
 * "passt-trixie", which are fetched.
 */
export async function peer(text: string): Promise<Contender> {
  if (text === "passt" || text === "passt-trixie") {
    const { path, args } = (await passt(text === "passt" ? "sid" : "trixie")).passt;
    const options = ["-f", "--vhost-user", "-s", "{socket}", ...FORWARD];
    const version = await run([path, ...args, "--version"]);
    const shown = `${version.split("\n")[0]}: passt ${options.join(" ")}`;
    return { name: text, command: [path, ...args, ...options], shown };
  }
  const command = text.trim().split(/\s+/);
  const name = command[0].slice(command[0].lastIndexOf("/") + 1);
  return { name: name === "vuelo" ? "peer" : name, command, shown: text };
}

/** What a back-end said last, which tells why it ended. */
export function lastLine({ output }: Running): string {
  return output.trim().split("\n").at(-1) ?? "";
}

/** A contender at work. */
export class Running {
  private constructor(
    private readonly process: Process,
    private readonly folder: string,
    readonly socket: string,
    /** From its start until its socket listened. */
    readonly listeningMs: number,
  ) {}

  static async start(contender: Contender, namespace: string): Promise<Running> {
    const folder = await Deno.makeTempDir({ prefix: "vuelo-bench-" });
    await Deno.chmod(folder, 0o755);
    const socket = `${folder}/socket`;
    const argv = [...await manyDescriptors(), ...contender.command]
      .map((word) => word.replace("{socket}", socket));
    const start = performance.now();
    const process = new Process(argv, { namespace });
    try {
      await listening(process, socket);
    } catch (error) {
      await process.stop("SIGKILL");
      await Deno.remove(folder, { recursive: true });
      throw new Error(`${contender.name} does not listen: ${process.output}`, {
        cause: error,
      });
    }
    return new Running(process, folder, socket, performance.now() - start);
  }

  get output(): string {
    return this.process.output;
  }

  get ended(): boolean {
    return this.process.ended;
  }

  cpuSeconds(): number {
    return cpuSeconds(this.process.pid);
  }

  memory(): Memory {
    return memory(this.process.pid);
  }

  async stop(): Promise<void> {
    await this.process.stop();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Waits until a socket listens (flag __SO_ACCEPTCON in /proc/net/unix). */
async function listening(process: Process, socket: string): Promise<void> {
  const end = performance.now() + START_LIMIT;
  for (;;) {
    if (process.ended) throw new Error("it ended");
    if (performance.now() > end) throw new Error(`not within ${START_LIMIT} ms`);
    let table = "";
    try {
      table = Deno.readTextFileSync(`/proc/${process.pid}/net/unix`);
    } catch {
      // It has not become the program yet, or has ended.
    }
    const line = table.split("\n").find((text) => text.endsWith(` ${socket}`));
    if (line?.split(/\s+/)[3] === "00010000") return;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
