/**
 * Messages of a frontend (src/vhost_user), cut anywhere, with any descriptors. What a ring
 * is started with lies in guest memory; no descriptor is lost.
 */
import { close } from "../../../ffi/event.ts";
import { send, socketPair } from "../../../ffi/unix_socket.ts";
import type { Vring } from "../../../src/vhost_user/backend.ts";
import { Session } from "../../../src/vhost_user/session.ts";
import { payload, state, u64 } from "../../support/frontend.ts";
import { ALL_FEATURES } from "../../support/vhost_session.ts";
import { RecordingBackend } from "../../support/recording_backend.ts";
import { Script, type Target } from "../engine/target.ts";
import {
  drain,
  freeDescriptors,
  message,
  quiet,
  RAM,
  ring,
  script,
  type Sent,
  TABLE,
} from "../messages.ts";

const MAX_MESSAGES = 40;

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

const START: Sent[] = [
  [16, u64(ALL_FEATURES)],
  [2, u64(2 ** 30 + 2 ** 26 + 2 ** 32)],
];
const RING: Sent[] = [TABLE, ...ring(0)];

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
};
export default target;
