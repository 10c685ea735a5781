/** Guests of the lab: QEMU with a vhost-user network device, and the agent inside. */
import { image, type ImageKind } from "../../scripts/lab/image.ts";
import { accelerator } from "../../scripts/lab/accelerator.ts";
import { kernel, qemu } from "../../scripts/lab/packages.ts";
import { Agent } from "./lab_agent.ts";
import { JsonLink, type Message, RequestError } from "./lab_json.ts";
import { Process, type ProcessOptions, until } from "./lab_process.ts";

/** What a guest is made of. */
export interface GuestOptions extends ProcessOptions {
  /** The back-end's socket; a guest without one has no network. */
  readonly socket?: string;
  readonly mac?: string;
  /** Told to the driver (host_mtu). */
  readonly mtu?: number;
  /** Queue pairs. */
  readonly queues?: number;
  readonly image?: ImageKind;
  readonly cpus?: number;
  readonly megabytes?: number;
  /** Properties of the network device, such as "packed=on". */
  readonly device?: string;
  /** More of the kernel's command line. */
  readonly append?: string;
  /** More options of QEMU. */
  readonly extra?: readonly string[];
  /** Waits for a guest to migrate here instead of booting one. */
  readonly incoming?: boolean;
  /** The console is the terminal, and a shell runs on it. */
  readonly interactive?: boolean;
}

export const GUEST_MAC = "52:54:00:12:34:56";
/** Even with all of a slow machine's tests at once, a guest boots in this time (ms). */
const BOOT_LIMIT = 120_000;
/** Seen once in hundreds of boots without KVM, before the driver had set up a ring. */
const OWN_FAILURE = /hw\/pci\/msix\.c:\d+: msix_table_mmio_write: Assertion .* failed/;

async function connect(path: string): Promise<JsonLink> {
  let socket: Deno.UnixConn | undefined;
  // The name is there a moment before QEMU listens.
  await until(`${path} listens`, async () => {
    socket = await Deno.connect({ transport: "unix", path }).catch((error) => {
      if (error instanceof Deno.errors.ConnectionRefused) return undefined;
      throw error;
    });
    return socket !== undefined;
  });
  return new JsonLink(
    socket!.readable,
    socket!.writable,
    path.slice(path.lastIndexOf("/") + 1),
  );
}

function networkOptions(options: GuestOptions): string[] {
  if (options.socket === undefined) return [];
  const queues = options.queues ?? 1;
  const vectors = queues > 1 ? `,mq=on,vectors=${2 * queues + 2}` : "";
  const mtu = options.mtu === undefined ? "" : `,host_mtu=${options.mtu}`;
  const more = options.device === undefined ? "" : `,${options.device}`;
  return [
    "-chardev",
    `socket,id=net,path=${options.socket}`,
    "-netdev",
    `vhost-user,id=net,chardev=net,queues=${queues}`,
    "-device",
    `virtio-net-pci,netdev=net,romfile=,mac=${options.mac ?? GUEST_MAC}` +
    vectors + mtu + more,
  ];
}

/** The command line of QEMU for a guest whose sockets are in `folder`. */
export async function guestCommand(
  options: GuestOptions,
  folder: string,
): Promise<{ argv: string[]; env: Record<string, string> }> {
  const program = await qemu();
  const system = await kernel();
  const memory = options.megabytes ?? 512;
  const quiet = options.interactive ? "lab.shell" : "";
  const append = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable " +
    `random.trust_cpu=on ${quiet} ${options.append ?? ""}`;
  const unix = (id: string) => `socket,id=${id},path=${folder}/${id},server=on,wait=off`;
  const argv = [program.path, ...program.args];
  argv.push("-M", "q35,memory-backend=ram", "-nodefaults", "-display", "none");
  argv.push("-m", `${memory}`, "-smp", `${options.cpus ?? 2}`);
  argv.push("-object", `memory-backend-memfd,id=ram,size=${memory}M,share=on`);
  argv.push(...await accelerator());
  argv.push(
    "-kernel",
    system.image,
    "-initrd",
    await image(system, options.image ?? "full"),
  );
  argv.push("-append", append.trim());
  argv.push("-serial", options.interactive ? "mon:stdio" : `file:${folder}/console`);
  argv.push("-chardev", unix("qmp"), "-mon", "chardev=qmp,mode=control");
  argv.push("-chardev", unix("agent"), "-device", "virtio-serial-pci");
  argv.push("-device", "virtserialport,chardev=agent,name=org.vuelo.agent");
  if (options.incoming) argv.push("-incoming", "defer");
  argv.push(...networkOptions(options), ...(options.extra ?? []));
  return { argv, env: { ...program.env } };
}

/** A running guest. */
export class Guest extends Agent {
  stopped = false;

  private constructor(
    readonly process: Process,
    readonly monitor: JsonLink,
    agent: JsonLink,
    readonly folder: string,
  ) {
    super(agent);
  }

  /**
   * Starts QEMU and waits until the agent in the guest answers. With `incoming` it only
   * waits for QEMU, and the agent answers once the guest has arrived.
   *
   * QEMU is started once more if it fails by itself; see OWN_FAILURE.
   */
  static async start(options: GuestOptions): Promise<Guest> {
    try {
      return await Guest.#start(options);
    } catch (error) {
      const { message } = error as Error;
      if (!OWN_FAILURE.test(message)) throw error;
      console.error(`QEMU failed by itself and is started once more. ${message.trim()}`);
      return await Guest.#start(options);
    }
  }

  static async #start(options: GuestOptions): Promise<Guest> {
    const folder = await Deno.makeTempDir({ prefix: "vuelo-guest-" });
    const { argv, env } = await guestCommand(options, folder);
    const process = new Process(argv, { ...options, env: { ...env, ...options.env } });
    try {
      await until("QEMU's sockets", async () => {
        if (process.ended) throw new Error(`QEMU ended: ${process.output}`);
        const names = ["qmp", "agent"].map((name) => Deno.stat(`${folder}/${name}`));
        return await Promise.all(names).then(() => true, () => false);
      });
      const agent = await connect(`${folder}/agent`);
      const ready = options.incoming ? undefined : agent.event("ready", BOOT_LIMIT);
      const monitor = await connect(`${folder}/qmp`);
      await monitor.request({ execute: "qmp_capabilities" }, 30_000);
      const guest = new Guest(process, monitor, agent, folder);
      const ended = process.status.then(() => {
        throw new Error(`QEMU ended: ${process.output}`);
      });
      ended.catch(() => {});
      ready?.catch(() => {});
      await Promise.race([ready, ended]);
      return guest;
    } catch (error) {
      await process.stop("SIGKILL");
      const console = await Deno.readTextFile(`${folder}/console`).catch(() => "");
      await Deno.remove(folder, { recursive: true });
      throw new Error(`The guest did not start: ${process.output}\n${console}`, {
        cause: error,
      });
    }
  }

  /** What the guest wrote to its console. */
  console(): string {
    return Deno.readTextFileSync(`${this.folder}/console`);
  }

  /** Sends a command to QEMU's monitor and returns what it returns. */
  async qmp(execute: string, args: Message = {}, limit = 30_000): Promise<unknown> {
    const reply = await this.monitor.request({ execute, arguments: args }, limit);
    const error = reply.error as { desc: string } | undefined;
    if (error !== undefined) throw new RequestError(`${execute}: ${error.desc}`);
    return reply.return;
  }

  /** Reboots, from inside or by the reset button, and waits until the agent is back. */
  async reboot(how: "guest" | "reset"): Promise<void> {
    const ready = this.link.event("ready", BOOT_LIMIT);
    ready.catch(() => {});
    if (how === "reset") await this.qmp("system_reset");
    // It may be gone before it has answered.
    else this.call("spawn", { argv: ["reboot", "-f"] }).catch(() => {});
    await ready;
  }

  /** Ends QEMU (kill -9 if so asked) and removes its folder. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<void> {
    this.stopped = true;
    await this.process.stop(signal);
    await this.link.ended();
    await this.monitor.ended();
    await Deno.remove(this.folder, { recursive: true });
  }
}
