/** Loads as the benchmark steers them: see ../load/main.ts. */
import type { Operations } from "../load/main.ts";
import { JsonLink, RequestError } from "../../support/lab_json.ts";
import { Process } from "../../support/lab_process.ts";
import { manyDescriptors } from "./limits.ts";

const PROGRAM = new URL("../load/main.ts", import.meta.url).pathname;
/** A load answers at once, unless the machine is overwhelmed (ms). */
const PATIENCE = 20_000;

/** A process that serves and sends in one namespace. */
export class Load {
  private constructor(
    private readonly process: Process,
    private readonly link: JsonLink,
  ) {}

  /** Starts a load that serves `tcp` and `udp` ports. */
  static async start(
    namespace: string,
    tcp: readonly number[],
    udp: readonly number[],
  ): Promise<Load> {
    const argv = [Deno.execPath(), "run", "--allow-all", "--no-check", PROGRAM];
    const process = new Process([...await manyDescriptors(), ...argv], {
      namespace,
      piped: true,
    });
    const load = new Load(
      process,
      new JsonLink(process.stdout, process.stdin, namespace),
    );
    try {
      await load.call("serve", { tcp, udp });
    } catch (error) {
      await load.stop();
      throw new Error(`a load failed: ${process.output}`, { cause: error });
    }
    return load;
  }

  async call<K extends keyof Operations>(
    op: K,
    args: Operations[K][0],
  ): Promise<Operations[K][1]> {
    const reply = await this.link.request({ op, ...args }, PATIENCE).catch((error) => {
      throw new Error(`a load failed: ${error.message} ${this.process.output}`);
    });
    if (reply.error !== undefined) {
      throw new RequestError(`${this.link.name}: ${op}: ${reply.error}`);
    }
    return reply.result as Operations[K][1];
  }

  async stop(): Promise<void> {
    await this.process.stop("SIGKILL");
    await this.link.ended();
  }
}
