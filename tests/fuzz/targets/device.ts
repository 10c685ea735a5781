/**
 * A frontend and a guest against the whole device: messages in any order, rings whose
 * memory changes, turns of the loop in between (src/device.ts, src/vhost_user, src/virtio,
 * src/flow), over the made-up host. When the session is over nothing is left of it.
 */
import { close, Epoll } from "../../../ffi/event.ts";
import { mapShared, reserve } from "../../../ffi/memory.ts";
import { send, socketPair } from "../../../ffi/unix_socket.ts";
import { limitsOf } from "../../../src/config.ts";
import { NetDevice } from "../../../src/device.ts";
import { log } from "../../../src/log.ts";
import { Session } from "../../../src/vhost_user/session.ts";
import { GuestMemory } from "../../../src/virtio/guest_memory.ts";
import { flowConfig } from "../../support/flow_config.ts";
import { payload, state, u64 } from "../../support/frontend.ts";
import { Script, type Target } from "../engine/target.ts";
import { DHCP_SEEDS, NEIGHBOUR_SEEDS, WIRE_SEEDS } from "../frames.ts";
import { host } from "../host/install.ts";
import {
  drain,
  files,
  freeDescriptors,
  GUEST,
  message,
  quiet,
  RAM,
  RAM_SIZE,
  ring,
  script,
  type Sent,
  TABLE,
} from "../messages.ts";

const MAX_STEPS = 50;
const FLOWS = 24;
/** Where the rings lie that guest memory begins with, and buffers. */
const TX = 0x8000;
const AVAILABLE = 0x1000;
const BUFFERS = 0x2_0000;
const RING_WORDS = 0x2c00;
const CHAINS = 8;
const WRITE = 2;

log.configure({ level: "error", size: 0 });
const memory = new GuestMemory(2 ** 32);
const epoll = new Epoll();
const config = flowConfig({ limits: limitsOf(FLOWS, { halfOpen: 4, pendingTcp: 4 }) });
const range = reserve(RAM_SIZE);
if (range === null) throw new RangeError("no addresses left");
mapShared(range.base, RAM_SIZE, files[0], 0);
const ram = new Uint8Array(range.buffer);
const words = new Uint32Array(range.buffer);
const fresh = prepared();
let device = makeDevice();

function makeDevice(): NetDevice {
  return new NetDevice(config, epoll, { flows: FLOWS, memory, log: quiet });
}

/** Two split rings of a driver that offers buffers, and frames to send. */
function prepared(): Uint8Array {
  const bytes = new Uint8Array(RAM_SIZE);
  const view = new DataView(bytes.buffer);
  const frames = [...WIRE_SEEDS, ...NEIGHBOUR_SEEDS, ...DHCP_SEEDS];
  for (let i = 0; i < CHAINS; i++) {
    const frame = frames[i * 3 % frames.length].subarray(1);
    const [receiveAt, sendAt] = [BUFFERS + i * 0x1000, BUFFERS + i * 0x1000 + 0x800];
    bytes.set(frame.subarray(0, 0x700), sendAt + 12);
    const both = [[0, receiveAt, 0x800, WRITE], [TX, sendAt, 12 + frame.length, 0]];
    for (const [at, buffer, length, flags] of both) {
      view.setUint32(at + 16 * i, GUEST + buffer, true);
      view.setUint32(at + 16 * i + 8, length, true);
      view.setUint16(at + 16 * i + 12, flags, true);
      view.setUint16(at + AVAILABLE + 4 + 2 * i, i, true);
      view.setUint16(at + AVAILABLE + 2, CHAINS, true);
    }
  }
  return bytes;
}

/** The guest writes a word, mostly of a ring. */
function write(input: Script): void {
  const kind = input.u8();
  const at = kind & 1 ? input.u16() : input.u16() % RING_WORDS;
  words[at % words.length] = kind & 2
    ? GUEST + input.u16()
    : kind & 4
    ? input.u16() << 16 | input.below(20)
    : input.u32();
}

function turn(): void {
  const { path } = device;
  path.now += 10;
  path.kicked(0);
  path.kicked(1);
  path.turn();
  device.settle();
}

function step(input: Script, session: Session, ours: number): void {
  switch (input.below(4)) {
    case 0:
      return write(input);
    case 1:
      return turn();
    default: {
      const { bytes, fds } = message(input);
      const cut = input.u8();
      const first = cut < bytes.length && cut > 0 ? cut : bytes.length;
      send(ours, bytes.subarray(0, first), fds);
      session.readable();
      if (first < bytes.length && !session.over) send(ours, bytes.subarray(first));
      if (!session.over) session.readable();
      drain(ours);
    }
  }
}

function serve(input: Script): void {
  const [ours, theirs] = socketPair();
  const session = new Session(theirs, device, quiet);
  try {
    for (let i = 0; i < MAX_STEPS && input.left > 0 && !session.over; i++) {
      step(input, session, ours);
    }
    if (!session.over) turn();
  } finally {
    session.close();
    drain(ours);
    close(ours);
  }
}

function run(input: Uint8Array<ArrayBuffer>): void {
  const free = freeDescriptors();
  ram.set(fresh);
  host.reset();
  host.active = true;
  try {
    serve(new Script(input));
    const { path } = device;
    if (path.receiving) throw new Error("a ring runs without a session");
    for (let i = 0; i < 2; i++) path.turn();
    path.tcp.setPeekOffset(true);
    if (path.table.count > 0) throw new Error("a flow is left");
    if (host.sockets.size > 0) throw new Error("a socket is left");
    if (memory.map.regions.length > 0 || memory.logging) {
      throw new Error("memory is left");
    }
  } catch (error) {
    host.active = false;
    device = makeDevice();
    throw error;
  } finally {
    host.active = false;
  }
  if (freeDescriptors() !== free) throw new Error("a descriptor is lost");
}

const START: Sent[] = [
  [16, u64(2 ** 0 + 2 ** 1 + 2 ** 2 + 2 ** 3 + 2 ** 4 + 2 ** 9 + 2 ** 13)],
  [2, u64(2 ** 30 + 2 ** 26 + 2 ** 15 + 2 ** 32)],
  TABLE,
  ...ring(0, 0, 0),
  ...ring(1, TX, 0),
];
const TURN = Uint8Array.of(1);

/** Messages and turns as an input has them. */
function steps(...parts: (Sent | Uint8Array)[]): Uint8Array {
  return Uint8Array.from(
    parts.flatMap((part) =>
      part instanceof Uint8Array ? [...part] : [2, ...script(part)]
    ),
  );
}

const target: Target = {
  maxLength: 900,
  seeds: [
    steps(...START, TURN, [11, state(0, 0)], [11, state(1, 0)]),
    // A log, and all that is written from then on.
    steps(...START, [6, payload(["u64", 4096], ["u64", 0]), 0x11], TURN, TURN),
    steps(...START, TURN, [37, payload(["u64", 0], RAM), 1, 8], [38, RAM, 0, 8], TURN),
    steps(...START, [20, u64(1400), 0, 8], [19, u64(5)], [34], TURN, [1], [15], [17]),
    steps(...START, Uint8Array.of(0, 2, 0x20, 0, 0, 0), TURN, [18, state(0, 0)], TURN),
  ],
  run,
};
export default target;
