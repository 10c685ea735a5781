/**
 * What a second queue pair gives: datagrams per second of a guest that floods one pair, and
 * two, in turns.
 *
 *     deno run -A tests/bench/pairs/main.ts [SECONDS] [ROUNDS] [BYTES]
 *
 * It takes a core for each pair, and some more for the driver; VUELO_BIN names what is
 * measured, else the sources. The datagrams end at sockets of loopback that nobody reads.
 */
import { eventfdCreate } from "../../../ffi/event.ts";
import { parseAddress } from "../../../src/wire/address.ts";
import {
  Ask,
  asU64,
  Frontend,
  GuestRam,
  payload,
  region,
  type Reply,
  state,
  u64,
  vringAddress,
} from "../../support/frontend.ts";
import { udpPacket } from "../../support/guest_packets.ts";
import { HostUdp } from "../../support/host_udp.ts";
import { LOOPBACK4 } from "../../support/host_tcp.ts";
import { Backend } from "../../support/lab_backend.ts";
import { until } from "../../support/lab_process.ts";
import type { Flood } from "./flood.ts";

/** Seconds until the code of both sides is warm. */
const WARM_UP = 1.5;
const SIZE = 256;
const SLOT = 2048;
/** Descriptors, available and used ring of one ring, and its buffers. */
const AVAIL_AT = 0x2000;
const USED_AT = 0x4000;
const BUFFERS_AT = 0x8000;
const SPAN = BUFFERS_AT + SIZE * SLOT;
const GUEST = 0x4000_0000;
const ENDS = {
  from: parseAddress("192.0.2.5") as Uint8Array,
  to: parseAddress("192.0.2.1") as Uint8Array,
};
const ARGS = ["-q", "-4", "-a", "192.0.2.5/24", "-g", "192.0.2.1"];
/** VERSION_1, EVENT_IDX, MRG_RXBUF, protocol features; MQ with two pairs. */
const FEATURES = 2 ** 32 + 2 ** 29 + 2 ** 15 + 2 ** 30;
const MQ = 2 ** 22;

class Guest {
  readonly ram: GuestRam;
  readonly floods: Flood[] = [];
  readonly sockets: HostUdp[] = [];

  constructor(readonly frontend: Frontend, readonly pairs: number) {
    this.ram = new GuestRam(Math.ceil(2 * pairs * SPAN / 4096) * 4096);
  }

  async #do(request: number, bytes: Uint8Array, fds: number[] = []): Promise<void> {
    this.frontend.send(request, bytes, { needReply: true, fds });
    let reply: Reply | null = null;
    await until("a reply", () => (reply = this.frontend.receive()) !== null);
    if (asU64(reply!.payload) !== 0) throw new Error(`request ${request} was refused`);
  }

  async setUp(bytes: number): Promise<void> {
    const { ram, pairs } = this;
    this.frontend.send(Ask.SET_PROTOCOL_FEATURES, u64(2 ** 3));
    await this.#do(Ask.SET_FEATURES, u64(FEATURES + (pairs > 1 ? MQ : 0)));
    const table = region(GUEST, ram.size, ram.userAddress, 0);
    await this.#do(Ask.SET_MEM_TABLE, payload(["u64", 1], table), [ram.fd]);
    for (let ring = 0; ring < 2 * pairs; ring++) await this.#ring(ring, bytes);
  }

  async #ring(ring: number, bytes: number): Promise<void> {
    const { ram } = this;
    const start = ring * SPAN;
    if (ring % 2 === 1) this.#fill(start, bytes);
    const user = ram.userAddress + start;
    const [kick, call] = [eventfdCreate(), eventfdCreate()];
    await this.#do(Ask.SET_VRING_NUM, state(ring, SIZE));
    await this.#do(Ask.SET_VRING_BASE, state(ring, 0));
    await this.#do(
      Ask.SET_VRING_ADDR,
      vringAddress(ring, user, user + USED_AT, user + AVAIL_AT),
    );
    await this.#do(Ask.SET_VRING_CALL, u64(ring), [call]);
    await this.#do(Ask.SET_VRING_KICK, u64(ring), [kick]);
    await this.#do(Ask.SET_VRING_ENABLE, state(ring, 1));
    if (ring % 2 === 0) return;
    const [availAt, usedAt] = [start + AVAIL_AT, start + USED_AT];
    const { userAddress: base, size: length } = ram;
    const count = new SharedArrayBuffer(16);
    this.floods.push({ base, length, size: SIZE, availAt, usedAt, kick, call, count });
  }

  /** Each slot has the same datagram, and its descriptor. */
  #fill(start: number, bytes: number): void {
    const socket = new HostUdp(LOOPBACK4);
    this.sockets.push(socket);
    const frame = udpPacket(ENDS, 4000, socket.port, new Uint8Array(bytes));
    const { view } = this.ram;
    for (let i = 0; i < SIZE; i++) {
      const at = start + BUFFERS_AT + i * SLOT;
      new Uint8Array(view.buffer, at + 12, frame.length).set(frame);
      view.setBigUint64(start + 16 * i, BigInt(GUEST + at), true);
      view.setUint32(start + 16 * i + 8, 12 + frame.length, true);
      view.setUint16(start + AVAIL_AT + 4 + 2 * i, i, true);
    }
  }

  /** Datagrams per second of all pairs. */
  async flood(seconds: number): Promise<number> {
    const url = new URL("./flood.ts", import.meta.url);
    const workers = this.floods.map(() => new Worker(url, { type: "module" }));
    const over = workers.map((worker, i) => {
      worker.postMessage(this.floods[i]);
      return new Promise((resolve) => worker.onmessage = resolve);
    });
    const sum = () =>
      this.floods.reduce((n, { count }) => n + new Float64Array(count, 0, 1)[0], 0);
    const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
    await pause(WARM_UP * 1000);
    const [before, start] = [sum(), performance.now()];
    await pause(seconds * 1000);
    const rate = (sum() - before) / (performance.now() - start) * 1000;
    for (const { count } of this.floods) Atomics.store(new Int32Array(count, 8, 1), 0, 1);
    await Promise.all(over);
    for (const worker of workers) worker.terminate();
    return rate;
  }

  close(): void {
    this.frontend.close();
    this.ram.close();
    for (const socket of this.sockets) socket.close();
  }
}

/** Clock ticks of user and system time that a process has used. */
function ticks(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1].split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

interface Result {
  readonly rate: number;
  /** Per cent of a core that the back-end used. */
  readonly cpu: number;
}

async function measure(pairs: number, seconds: number, bytes: number): Promise<Result> {
  const backend = await Backend.start({ args: [...ARGS, "--queues", `${pairs}`] });
  try {
    const guest = new Guest(Frontend.connect(backend.socket), pairs);
    await guest.setUp(bytes);
    const before = ticks(backend.pid);
    const rate = await guest.flood(seconds);
    const cpu = (ticks(backend.pid) - before) / (seconds + WARM_UP);
    guest.close();
    return { rate, cpu };
  } finally {
    await backend.stop();
  }
}

const [seconds, rounds, bytes] = [3, 3, 64].map((usual, i) =>
  Number(Deno.args[i] ?? usual)
);
const ratios: number[] = [];
for (let round = 0; round < rounds; round++) {
  const one = await measure(1, seconds, bytes);
  const two = await measure(2, seconds, bytes);
  ratios.push(two.rate / one.rate);
  const show = ({ rate, cpu }: Result) =>
    `${Math.round(rate)} datagrams/s (${cpu.toFixed(0)} % CPU)`;
  console.log(
    `one pair: ${show(one)}, two: ${show(two)}, ratio ${ratios.at(-1)!.toFixed(2)}`,
  );
}
console.log(`median ratio ${ratios.toSorted((a, b) => a - b)[rounds >> 1].toFixed(2)}`);
Deno.exit(0);
