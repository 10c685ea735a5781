/** The lab's agent on this machine, in a network namespace: the guest's counterpart. */
import { GUEST_FILES } from "../../scripts/lab/image.ts";
import { provide, SETS, unpacked } from "../../scripts/lab/packages.ts";
import { Agent } from "./lab_agent.ts";
import { JsonLink } from "./lab_json.ts";
import { Process } from "./lab_process.ts";

/** An agent that runs as a process of this machine. */
export class Peer extends Agent {
  private constructor(readonly process: Process, link: JsonLink) {
    super(link);
  }

  /**
   * Starts an agent in `namespace` (here if undefined), and its servers if asked for.
   * `env` is added to its environment.
   */
  static async start(
    namespace: string | undefined,
    serve: boolean,
    env: Readonly<Record<string, string>> = {},
  ): Promise<Peer> {
    const root = await provide(SETS.guest);
    const python = unpacked(root, "usr/bin/python3.13");
    const process = new Process(
      [python.path, ...python.args, "-E", "-S", "-B", "-u", GUEST_FILES.agent],
      { namespace, piped: true, env: { PYTHONHOME: `${root}/usr`, ...env } },
    );
    const link = new JsonLink(process.stdout, process.stdin, namespace ?? "local");
    const peer = new Peer(process, link);
    if (serve) await peer.call("serve", {});
    return peer;
  }

  /** Ends the process. */
  async stop(): Promise<void> {
    await this.process.stop("SIGKILL");
    await this.link.ended();
  }
}
