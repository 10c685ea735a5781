/** Linux as an ordinary process (user-mode-linux), whose driver virtio_uml is the frontend. */
import { userModeLinux } from "../../scripts/lab/frontends.ts";
import { image, type ImageKind } from "../../scripts/lab/image.ts";
import { Agent } from "./lab_agent.ts";
import { JsonLink } from "./lab_json.ts";
import { Process } from "./lab_process.ts";

/** It boots in a second. */
const BOOT_LIMIT = 60_000;

/** A running guest; its agent talks over a serial line, which is the process' pipes. */
export class UmlGuest extends Agent {
  private constructor(
    readonly process: Process,
    link: JsonLink,
    readonly folder: string,
  ) {
    super(link);
  }

  /** Starts the kernel on vuelo's socket and waits until the agent answers. */
  static async start(socket: string, kind: ImageKind = "base"): Promise<UmlGuest> {
    const uml = await userModeLinux();
    const folder = await Deno.makeTempDir({ prefix: "vuelo-uml-" });
    const argv = [...uml.command, "mem=256M", "panic=-1", `uml_dir=${folder}`];
    argv.push(
      `initrd=${await image(uml.kernel, kind)}`,
      `virtio_uml.device=${socket}:1`,
    );
    argv.push("con=null", "con0=null,fd:2", "ssl0=fd:0,fd:1", "lab.serial");
    const process = new Process(argv, { piped: true, cwd: uml.folder });
    const link = new JsonLink(process.stdout, process.stdin, "uml");
    try {
      await link.event("ready", BOOT_LIMIT);
      return new UmlGuest(process, link, folder);
    } catch (error) {
      await process.stop("SIGKILL");
      await Deno.remove(folder, { recursive: true });
      throw new Error(`The guest did not start: ${process.output}`, { cause: error });
    }
  }

  /** Kills it: on SIGTERM it would shut down, which takes seconds. */
  async stop(): Promise<void> {
    await this.process.stop("SIGKILL");
    await this.link.ended();
    await Deno.remove(this.folder, { recursive: true });
  }
}
