/** A vuelo process that a test attacks, and what its neighbours see of that. */
import { assertEquals } from "@std/assert";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { vuelo } from "./cli.ts";
import { captured } from "./dhcp.ts";
import { Frontend } from "./frontend.ts";
import { Process, until } from "./lab_process.ts";
import { ONE_PAIR, QueueDriver } from "./queue_driver.ts";

/** Without protocols by which what is sent at random would leave this host. */
const ARGS = [
  ...["-f", "-4", "-a", "192.0.2.5/24", "-g", "192.0.2.1"],
  ...["--no-tcp", "--no-udp", "--no-icmp"],
];
/** The engine's heap shall not grow for convenience: what grows then is kept for ever. */
const HEAP = { DENO_V8_FLAGS: "--max-semi-space-size=1,--max-old-space-size=64" };
/** Room for descriptors that a process may come to have, which the kernel doubles. */
const ROOM = 256;
/** An ARP request for 192.0.2.1 by 192.0.2.5, and what its answer begins with. */
const ARP = "ffffffffffff52540012345608060001080006040001525400123456c0000205" +
  "000000000000c0000201";
const ARP_REPLY = /^525400123456(.{12})08060001080006040002\1c0000201525400123456/;
/** DHCPOFFER (option 53, 2) to the client that asked. */
const OFFER = /^525400123456.*63825363350102/;

/** Figures of a process that must not grow. */
export interface Footprint {
  /** Memory of its own, in KiB: not what a guest shares. */
  readonly anonymous: number;
  /** Open descriptors; where /proc does not let others look, room for many of them. */
  readonly descriptors: number;
}

export class Quarry {
  readonly path: string;
  readonly #log: string;
  readonly process: Process;

  constructor(folder: string, name: string, args: readonly string[] = []) {
    this.path = `${folder}/${name}`;
    this.#log = `${folder}/${name}.log`;
    const all = [...ARGS, "-s", this.path, "-l", this.#log, ...args];
    const [program, words] = vuelo(all);
    this.process = new Process([program, ...words], { env: HEAP });
  }

  async ready(): Promise<void> {
    await until("vuelo listens", () => {
      if (this.process.ended) throw new Error(this.text);
      return this.log.includes("Listening at");
    });
  }

  get log(): string {
    try {
      return Deno.readTextFileSync(this.#log);
    } catch {
      return "";
    }
  }

  /** All that it said, for the message of a test that fails. */
  get text(): string {
    return `${this.process.output}\n${this.log.slice(-2000)}`;
  }

  get footprint(): Footprint {
    const folder = `/proc/${this.process.pid}`;
    const status = Deno.readTextFileSync(`${folder}/status`);
    const number = (name: string) =>
      Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(status)?.[1]);
    const room = number("FDSize");
    let descriptors = room > ROOM ? room : 0;
    try {
      descriptors = [...Deno.readDirSync(`${folder}/fd`)].length;
    } catch {
      // It is not dumpable: only root may count its descriptors.
    }
    return { anonymous: number("RssAnon"), descriptors };
  }

  /** A well-behaved guest, whose rings are served. */
  async guest(memory: GuestMemory): Promise<QueueDriver> {
    const driver = new QueueDriver(this.process, Frontend.connect(this.path), memory);
    await driver.setUp(1, ONE_PAIR);
    return driver;
  }

  async stop(): Promise<void> {
    await this.process.stop();
  }
}

/** The guest asks who has the gateway's address, and for an address of its own. */
export async function served(guest: QueueDriver): Promise<void> {
  guest.send(0, Uint8Array.fromHex(ARP));
  await guest.receive((frame) => ARP_REPLY.test(frame.toHex()));
  guest.send(0, captured("udhcpc"));
  await guest.receive((frame) => OFFER.test(frame.toHex()));
}

/** A guest in the middle of its work: what it has in memory stays as it is. */
export class Neighbour {
  readonly #pattern: Uint8Array;
  readonly #at: number;

  constructor(readonly guest: QueueDriver, size = 2 ** 20) {
    this.#pattern = Uint8Array.from({ length: size }, (_, i) => i * 7 + (i >> 8));
    this.#at = guest.ram.take(size);
    guest.ram.bytes(this.#at, size).set(this.#pattern);
  }

  async unharmed(): Promise<void> {
    await served(this.guest);
    const now = this.guest.ram.bytes(this.#at, this.#pattern.length);
    assertEquals(now.every((byte, i) => byte === this.#pattern[i]), true, "its memory");
  }
}
