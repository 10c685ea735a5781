/** A vuelo process, and the driver of a guest with several queue pairs in front of it. */
import { close, eventfdCreate, eventfdRead, eventfdWrite } from "../../ffi/event.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { inFolder, vuelo } from "./cli.ts";
import {
  Ask,
  asU64,
  Frontend,
  memoryTable,
  payload,
  region,
  type Reply,
  state,
  u64,
  vringAddress,
} from "./frontend.ts";
import { Process, until } from "./lab_process.ts";
import { GuestRam, type GuestRing, MockDriver } from "./mock_driver.ts";

/** MQ, LOG_SHMFD, REPLY_ACK, CONFIG. */
const PROTOCOL = 2 ** 0 + 2 ** 1 + 2 ** 3 + 2 ** 9;
/** VERSION_1 is bit 32; MRG_RXBUF, protocol features. */
export const ONE_PAIR: number = 2 ** 32 + 2 ** 15 + 2 ** 30;
/** With MQ. */
const FEATURES = ONE_PAIR + 2 ** 22;
const LOG_ALL = 2 ** 26;
/** VHOST_VRING_F_LOG */
const RING_LOG = 1;
const USER = 0x7f00_0000_0000;
const RING = 64;

/** One queue pair of the guest. */
export interface Pair {
  readonly driver: MockDriver;
  readonly kicks: number[];
  readonly errors: number[];
}

/** Of one driver at a time; who has two needs memory of its own for the other. */
const memory = new GuestMemory(2 ** 30);

export class QueueDriver {
  readonly pairs: Pair[] = [];
  readonly ram;
  readonly #fds: number[] = [];

  /** @param process what vuelo says is told of where a request fails */
  constructor(
    readonly process: Pick<Process, "output" | "pid" | "status">,
    readonly frontend: Frontend,
    readonly memory: GuestMemory,
  ) {
    this.ram = new GuestRam(memory);
  }

  /** Sends a request and waits for its reply. */
  async ask(
    request: number,
    bytes?: Uint8Array,
    fds: number[] = [],
  ): Promise<Uint8Array> {
    this.frontend.send(request, bytes, { needReply: true, fds });
    let reply: Reply | null = null;
    await until(
      `a reply to ${request}`,
      () => (reply = this.frontend.receive()) !== null || this.frontend.gone,
    );
    if (reply === null) throw new Error(`request ${request}: the connection was closed`);
    return (reply as Reply).payload;
  }

  /** As {@link ask}, of a request that must succeed. */
  async do(request: number, bytes?: Uint8Array, fds: number[] = []): Promise<void> {
    const answer = asU64(await this.ask(request, bytes, fds));
    if (answer !== 0) throw new Error(`request ${request}: ${this.process.output}`);
  }

  event(): number {
    const fd = eventfdCreate();
    this.#fds.push(fd);
    return fd;
  }

  /** The memory table, sent anew; the backend maps all of it again. */
  async share(): Promise<void> {
    const [{ address, size }] = this.ram.regions;
    const table = memoryTable(region(address, size, USER + address, 0));
    await this.do(Ask.SET_MEM_TABLE, table, [this.ram.fd]);
  }

  async setUp(pairs: number, features = FEATURES): Promise<void> {
    this.frontend.send(Ask.SET_PROTOCOL_FEATURES, u64(PROTOCOL));
    await this.do(Ask.SET_FEATURES, u64(features));
    await this.share();
    for (let i = 0; i < pairs; i++) await this.#addPair(i);
  }

  async #addPair(i: number): Promise<void> {
    const driver = new MockDriver(this.ram, true, RING);
    const kicks: number[] = [];
    const errors: number[] = [];
    for (const [ring, queue] of [[driver.rx, 2 * i], [driver.tx, 2 * i + 1]] as const) {
      await this.do(Ask.SET_VRING_NUM, state(queue, RING));
      await this.do(Ask.SET_VRING_BASE, state(queue, 0));
      await this.#place(queue, ring, 0);
      await this.do(Ask.SET_VRING_CALL, u64(queue), [this.event()]);
      errors.push(this.event());
      await this.do(Ask.SET_VRING_ERR, u64(queue), [errors.at(-1)!]);
      kicks.push(this.event());
      await this.do(Ask.SET_VRING_KICK, u64(queue), [kicks.at(-1)!]);
    }
    this.pairs.push({ driver, kicks, errors });
    await this.enable(i, true);
    driver.post(RING / 2, 2048);
  }

  async #place(queue: number, { layout }: GuestRing, flags: number): Promise<void> {
    const user = (offset: number) => USER + this.#addressOf(offset);
    const { descOffset, usedOffset, availOffset, usedLogAddress } = layout;
    const places = [descOffset, usedOffset, availOffset].map(user);
    await this.do(
      Ask.SET_VRING_ADDR,
      vringAddress(queue, places[0], places[1], places[2], flags, usedLogAddress),
    );
  }

  /** Has what the device writes marked in the file `fd`, as QEMU does while rings run. */
  async logTo(fd: number, size: number): Promise<void> {
    await this.ask(Ask.SET_LOG_BASE, payload(["u64", size], ["u64", 0]), [fd]);
    await this.do(Ask.SET_FEATURES, u64(FEATURES + LOG_ALL));
    for (const [i, { driver }] of this.pairs.entries()) {
      await this.#place(2 * i, driver.rx, RING_LOG);
      await this.#place(2 * i + 1, driver.tx, RING_LOG);
    }
  }

  #addressOf(offset: number): number {
    const [{ address }] = this.ram.regions;
    return offset - this.memory.translate(address, 1) + address;
  }

  async enable(pair: number, enabled: boolean): Promise<void> {
    for (const queue of [2 * pair, 2 * pair + 1]) {
      await this.do(Ask.SET_VRING_ENABLE, state(queue, enabled ? 1 : 0));
    }
  }

  /** Stops both rings of a pair; the next available indexes. */
  async stop(pair: number): Promise<number[]> {
    const found = [];
    for (const queue of [2 * pair, 2 * pair + 1]) {
      const answer = await this.ask(Ask.GET_VRING_BASE, state(queue, 0));
      found.push(new DataView(answer.buffer, answer.byteOffset).getUint32(4, true));
    }
    return found;
  }

  /** Transmits a frame on a pair. */
  send(pair: number, frame: Uint8Array): void {
    this.pairs[pair].driver.send(frame);
    this.kick(pair);
  }

  /** Tells the device to look at the transmit ring of a pair. */
  kick(pair: number): void {
    eventfdWrite(this.pairs[pair].kicks[1]);
  }

  /** Waits for a frame that `wanted` accepts; the pair that it came on. */
  async receive(wanted: (frame: Uint8Array) => boolean): Promise<[number, Uint8Array]> {
    let found: [number, Uint8Array] | undefined;
    await until("a frame", () => {
      for (const [i, { driver }] of this.pairs.entries()) {
        for (const { frame } of driver.receive()) {
          driver.post(1, 2048);
          if (found === undefined && wanted(frame)) found = [i, frame];
        }
      }
      return found !== undefined;
    });
    return found!;
  }

  /** Waits until an event counter was written to. */
  async signalled(fd: number): Promise<void> {
    await until("a signal", () => eventfdRead(fd) > 0);
  }

  close(): void {
    this.frontend.close();
    for (const fd of this.#fds) close(fd);
    this.ram.close();
  }

  /**
   * Runs vuelo with these options, and `body` with a frontend of it.
   *
   * @param before what starts vuelo, and changes its limits
   */
  static async run(
    args: readonly string[],
    body: (
      driver: QueueDriver,
      connect: () => QueueDriver,
      path: string,
    ) => Promise<void>,
    before: readonly string[] = [],
  ): Promise<void> {
    await inFolder(async (folder) => {
      const path = `${folder}/socket`;
      const [program, words] = vuelo(["-f", "-s", path, ...args]);
      const process = new Process([...before, program, ...words], {});
      const opened: QueueDriver[] = [];
      const connect = () => {
        opened.push(new QueueDriver(process, Frontend.connect(path), memory));
        return opened.at(-1)!;
      };
      try {
        await until("vuelo listens", () => {
          if (process.ended) throw new Error(process.output);
          return process.output.includes("Listening at");
        });
        await body(connect(), connect, path);
      } catch (error) {
        throw new Error(`${(error as Error).message}\n${process.output}`, {
          cause: error,
        });
      } finally {
        for (const driver of opened) driver.close();
        await process.stop();
      }
    });
  }
}
