/** The frontend of ../tap: the kernel's own offloads, and any MTU. */
import { program } from "../../../scripts/lab/packages.ts";
import { Process, run } from "../../support/lab_process.ts";
import type { Frontend, GuestSpace } from "./frontend.ts";
import { addressLink, droppedBy, ip, linkGone, prepareNamespace } from "./network.ts";

const PROGRAM = new URL("../tap/main.ts", import.meta.url).pathname;
const LINK = "tap0";
/** A driver makes its queue wait while the ring is full, but a tap drops. */
const QUEUE_LENGTH = 60_000;

let counter = 0;

async function netns(verb: "add" | "del", name: string): Promise<void> {
  const { path, args, env } = await program("ip");
  await run([path, ...args, "netns", verb, name], { env });
}

class TapSpace implements GuestSpace {
  #process: Process | undefined;

  constructor(readonly namespace: string) {}

  get output(): string {
    return this.#process?.output ?? "";
  }

  async attach(socket: string, mtu: number, queues: number): Promise<void> {
    const argv = [Deno.execPath(), "run", "--allow-all", "--no-check", PROGRAM];
    const { namespace } = this;
    this.#process = new Process([...argv, socket, LINK, `${mtu}`, `${queues}`], {
      namespace,
    });
    await this.#process.says(/^ready/m);
    await ip(namespace, `link set ${LINK} mtu ${mtu} txqueuelen ${QUEUE_LENGTH} up`);
    await addressLink(namespace, LINK);
  }

  async detach(): Promise<void> {
    await this.#process?.stop("SIGKILL");
    this.#process = undefined;
    await linkGone(this.namespace, LINK);
  }

  dropped(): Promise<number> {
    return droppedBy(this.namespace, LINK);
  }

  async close(): Promise<void> {
    await this.detach();
    await netns("del", this.namespace);
  }
}

export const TAP: Frontend = {
  name: "tap",
  async create(): Promise<GuestSpace> {
    const namespace = `vuelo-${Deno.pid}-tap${counter++}`;
    await netns("add", namespace);
    await prepareNamespace(namespace);
    return new TapSpace(namespace);
  },
};
