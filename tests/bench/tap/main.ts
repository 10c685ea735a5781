/**
 * A frontend without a virtual machine: it joins a tap device to a back-end's rings, so
 * that the kernel of a namespace is the guest. `main.ts SOCKET LINK MTU PAIRS`; says
 * "ready" once everything is set up, and ends when it is killed.
 *
 * Two threads for each queue pair stand for two processors; they behave as Linux's driver
 * does: EVENT_IDX, indirect descriptors, a kick for each burst, segments joined (GRO).
 */
import { eventfdCreate } from "../../../ffi/event.ts";
import { openTap, setTapOffloads, TapOffload } from "../../../ffi/tap.ts";
import {
  Frontend,
  GuestRam,
  payload,
  region,
  state,
  u64,
  vringAddress,
} from "../../support/frontend.ts";
import { vringLayout } from "./layout.ts";
import { GUEST_BASE, pairPlaces, RING_SIZE, type ThreadJob } from "./memory.ts";

const Request = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  setMemTable: 5,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  setVringKick: 12,
  setVringCall: 13,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  setVringEnable: 18,
} as const;

/** Feature bits that this driver knows (virtio 1.3, 5.1.3 and 6). */
const Feature = {
  csum: 0,
  guestCsum: 1,
  guestTso4: 7,
  guestTso6: 8,
  hostTso4: 11,
  hostTso6: 12,
  mrgRxbuf: 15,
  mq: 22,
  indirect: 28,
  eventIdx: 29,
  protocol: 30,
  version1: 32,
  guestUso4: 54,
  guestUso6: 55,
  hostUso: 56,
} as const;
const USO: readonly number[] = [Feature.guestUso4, Feature.guestUso6, Feature.hostUso];
/** Of the protocol: MQ. */
const PROTOCOL_MQ = 1n;
const NET_HEADER = 12;
/** Linux: GOOD_PACKET_LEN in cache lines; pages where frames are large on average. */
const SMALL_BUFFER = 1536;
const LARGE_BUFFER = 4096;
const WHOLE_BUFFER = 65_536 + 64;
const PATIENCE_MS = 5000;

class Backend {
  readonly #link: Frontend;

  constructor(socket: string) {
    this.#link = Frontend.connect(socket);
  }

  tell(request: number, bytes?: Uint8Array, fds: readonly number[] = []): void {
    this.#link.send(request, bytes, { fds });
  }

  async ask(request: number): Promise<bigint> {
    this.#link.send(request);
    const end = performance.now() + PATIENCE_MS;
    while (performance.now() < end) {
      const reply = this.#link.receive();
      if (reply !== null) {
        const { buffer, byteOffset } = reply.payload;
        return new DataView(buffer, byteOffset).getBigUint64(0, true);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    throw new Error(`no answer to request ${request}`);
  }
}

/** A number of 64 bits as a payload. */
const wide = (value: bigint) =>
  payload(["u32", Number(value & 0xffff_ffffn)], ["u32", Number(value >> 32n)]);
const has = (features: bigint, bit: number) => (features >> BigInt(bit) & 1n) === 1n;

/** Accepts all that is offered, and that this driver and the tap know. */
async function negotiate(
  backend: Backend,
  pairs: number,
  uso: boolean,
): Promise<bigint> {
  backend.tell(Request.setOwner);
  const offered = await backend.ask(Request.getFeatures);
  const known = Object.values(Feature)
    .filter((bit) => bit !== Feature.mq || pairs > 1)
    .filter((bit) => uso || !USO.includes(bit));
  const features = known.filter((bit) => has(offered, bit))
    .reduce((sum, bit) => sum | 1n << BigInt(bit), 0n);
  if (!has(features, Feature.version1)) throw new Error("the back-end lacks VERSION_1");
  if (has(features, Feature.protocol)) {
    const protocol = await backend.ask(Request.getProtocolFeatures);
    backend.tell(Request.setProtocolFeatures, wide(protocol & PROTOCOL_MQ));
  }
  backend.tell(Request.setFeatures, wide(features));
  return features;
}

function bufferSize(features: bigint, mtu: number): number {
  if (!has(features, Feature.mrgRxbuf)) return WHOLE_BUFFER;
  return mtu > 1500 || has(features, Feature.guestTso4) ? LARGE_BUFFER : SMALL_BUFFER;
}

function tapOffloads(features: bigint): number {
  let offloads = has(features, Feature.csum) ? TapOffload.checksum : 0;
  if (has(features, Feature.hostTso4)) offloads |= TapOffload.tso4;
  if (has(features, Feature.hostTso6)) offloads |= TapOffload.tso6;
  if (has(features, Feature.hostUso)) offloads |= TapOffload.uso;
  return offloads;
}

/** Has a ring started, and returns its kick and call. */
function startRing(
  backend: Backend,
  ram: GuestRam,
  index: number,
  at: number,
): [number, number] {
  const layout = vringLayout(RING_SIZE);
  const user = ram.userAddress + at;
  const [kick, call] = [eventfdCreate(), eventfdCreate(true)];
  backend.tell(Request.setVringNum, state(index, RING_SIZE));
  backend.tell(Request.setVringBase, state(index, 0));
  const [desc, used, avail] = [layout.desc, layout.used, layout.avail];
  const addresses = vringAddress(index, user + desc, user + used, user + avail);
  backend.tell(Request.setVringAddr, addresses);
  backend.tell(Request.setVringCall, u64(index), [call]);
  backend.tell(Request.setVringKick, u64(index), [kick]);
  return [kick, call];
}

async function main(socket: string, link: string, mtu: number, pairs: number) {
  const backend = new Backend(socket);
  const taps = Array.from({ length: pairs }, () => openTap(link, NET_HEADER, pairs > 1));
  const uso = setTapOffloads(taps[0], TapOffload.checksum | TapOffload.uso);
  const features = await negotiate(backend, pairs, uso);
  const rxBuffer = bufferSize(features, mtu);
  const { end: size } = pairPlaces(pairs - 1, rxBuffer);
  const ram = new GuestRam(size);
  const table = region(GUEST_BASE, size, ram.userAddress, 0);
  const header = payload(["u32", 1], ["u32", 0]);
  backend.tell(Request.setMemTable, payload(header, table), [ram.fd]);
  for (let pair = 0; pair < pairs; pair++) {
    const tap = taps[pair];
    if (!setTapOffloads(tap, tapOffloads(features))) throw new Error("no offloads");
    const places = pairPlaces(pair, rxBuffer);
    for (const [role, at] of [["receive", places.rx], ["send", places.tx]] as const) {
      const index = 2 * pair + (role === "send" ? 1 : 0);
      const [kick, call] = startRing(backend, ram, index, at);
      if (has(features, Feature.protocol)) {
        backend.tell(Request.setVringEnable, state(index, 1));
      }
      const job: ThreadJob = {
        role,
        base: ram.userAddress,
        size,
        places,
        rxBuffer,
        tap,
        kick,
        call,
        mergeable: has(features, Feature.mrgRxbuf),
        eventIdx: has(features, Feature.eventIdx),
        indirect: has(features, Feature.csum) && has(features, Feature.indirect),
      };
      const thread = new Worker(import.meta.resolve("./thread.ts"), { type: "module" });
      thread.postMessage(job);
    }
  }
  console.log(`ready: features ${features.toString(16)}`);
}

if (import.meta.main) {
  const [socket, link, mtu, pairs] = Deno.args;
  await main(socket, link, Number(mtu), Number(pairs ?? 1));
}
