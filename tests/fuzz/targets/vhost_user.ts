/**
 * Messages of a frontend (src/vhost_user), cut anywhere, with any descriptors. What a ring
 * is started with lies in guest memory; no descriptor is lost.
 */
import { close, eventfdCreate } from "../../../ffi/event.ts";
import { memfdCreate } from "../../../ffi/memory.ts";
import { receive, send, socketPair } from "../../../ffi/unix_socket.ts";
import type { SessionLog, Vring } from "../../../src/vhost_user/backend.ts";
import { Session } from "../../../src/vhost_user/session.ts";
import { payload, region, state, u64, vringAddress } from "../../support/frontend.ts";
import { ALL_FEATURES } from "../../support/vhost_session.ts";
import { RecordingBackend } from "../../support/recording_backend.ts";
import { Script, type Target } from "../engine/target.ts";

const RAM_SIZE = 0x4_0000;
const GUEST = 0x10_0000;
const USER = 0x7000_0000;
const MAX_MESSAGES = 40;
const quiet: SessionLog = { warn() {}, info() {}, debug() {} };
const files = [
  memfdCreate("ram", RAM_SIZE),
  memfdCreate("small", 4096),
  eventfdCreate(),
  memfdCreate("empty", 0),
];
const replies = new Uint8Array(4096);

/** Touches the ends of what it is told to use: outside of memory the process dies. */
class TouchingBackend extends RecordingBackend {
  override startQueue(ring: Vring): void {
    super.startQueue(ring);
    const { size, packed, descOffset, availOffset, usedOffset } = ring;
    if (!(size >= 1 && size <= 32768)) throw new Error(`ring of ${size}`);
    if (!packed && (size & size - 1) !== 0) throw new Error(`split ring of ${size}`);
    const areas = [
      [descOffset, 16 * size, 16],
      [availOffset, packed ? 4 : 6 + 2 * size, packed ? 4 : 2],
      [usedOffset, packed ? 4 : 6 + 8 * size, 4],
    ];
    for (const [offset, length, align] of areas) {
      if (!(offset >= 0) || offset % align !== 0) throw new Error("misaligned area");
      this.memory.view.getUint8(offset);
      this.memory.view.getUint8(offset + length - 1);
    }
  }
}

/** More than a message brings: one that is lost is among the lowest that were free. */
const PROBES = 16;

/** The lowest descriptors that are free, added up. */
function freeDescriptors(): number {
  const fds = Array.from({ length: PROBES }, () => eventfdCreate());
  for (const fd of fds) close(fd);
  return fds.reduce((sum, fd) => sum + fd);
}

function drain(fd: number): void {
  const came: number[] = [];
  while (receive(fd, replies, came) > 0) { /* they are not looked at */ }
  for (const one of came) close(one);
}

function message(script: Script): { bytes: Uint8Array; fds: number[] } {
  const [request, flags, count] = [script.u8(), script.u8(), script.u8()];
  const size = script.u8() | (flags & 0x20 ? script.u8() << 8 : 0);
  const body = script.bytes(size);
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags & 15 ^ 1, true);
  view.setUint32(8, body.length + (flags & 0x10 ? script.u8() : 0), true);
  bytes.set(body, 12);
  const kind = count >> 4;
  const fds = Array.from({ length: count & 15 }, (_, i) => files[(kind + i) % 4]);
  return { bytes, fds };
}

function run(input: Uint8Array<ArrayBuffer>): void {
  const free = freeDescriptors();
  const [ours, theirs] = socketPair();
  const backend = new TouchingBackend();
  const session = new Session(theirs, backend, quiet);
  try {
    const script = new Script(input);
    for (let i = 0; i < MAX_MESSAGES && script.left > 0 && !session.over; i++) {
      const { bytes, fds } = message(script);
      const cut = script.u8();
      const first = cut < bytes.length && cut > 0 ? cut : bytes.length;
      send(ours, bytes.subarray(0, first), fds);
      session.readable();
      if (first < bytes.length && !session.over) send(ours, bytes.subarray(first));
      if (!session.over) session.readable();
      drain(ours);
    }
  } finally {
    session.close();
    drain(ours);
    close(ours);
  }
  if (backend.running.size > 0) throw new Error("a ring runs without a session");
  if (backend.memory.regions.length > 0) throw new Error("memory is mapped still");
  if (freeDescriptors() !== free) throw new Error("a descriptor is lost");
}

function script(...messages: [number, Uint8Array?, number?, number?][]): Uint8Array {
  return Uint8Array.from(
    messages.flatMap(([request, body = new Uint8Array(0), count = 0, flags = 0]) => [
      ...[request, flags, count, body.length, ...body, 0],
    ]),
  );
}

const RAM = region(GUEST, RAM_SIZE, USER, 0);
const START: [number, Uint8Array?, number?, number?][] = [
  [16, u64(ALL_FEATURES)],
  [2, u64(2 ** 30 + 2 ** 26 + 2 ** 32)],
];
const RING: [number, Uint8Array?, number?, number?][] = [
  [5, payload(["u64", 1], RAM), 1],
  [8, state(0, 256)],
  [10, state(0, 7)],
  [9, vringAddress(0, USER, USER + 0x2000, USER + 0x1000)],
  [12, u64(0), 0x21],
  [13, u64(0), 0x21],
  [18, state(0, 1)],
];

const target: Target = {
  maxLength: 700,
  seeds: [
    script(...START, ...RING, [11, state(0, 0)], [3, u64(0), 0, 8]),
    script(
      ...START,
      [37, payload(["u64", 0], RAM), 1, 8],
      ...RING.slice(1),
      [38, payload(["u64", 0], RAM), 0, 8],
    ),
    script(...START, [6, payload(["u64", 4096], ["u64", 0]), 0x11], ...RING, [34]),
    script(
      ...START,
      [24, payload(["u32", 0], ["u32", 4], ["u32", 0], u64(0).slice(4))],
      [25, payload(["u32", 0], ["u32", 4], ["u32", 1], u64(0).slice(4)), 0, 8],
      [42, payload(["u32", 0], ["u32", 0]), 0x21],
      [43],
      [39, u64(15)],
      [40],
      [20, u64(1500), 0, 8],
      [21, undefined, 0x21],
    ),
    script([1], [15], [17], [36], [3], [19, u64(5)], [4], [14, u64(256)]),
  ],
  run,
  close() {
    for (const fd of files) close(fd);
  },
};
export default target;
