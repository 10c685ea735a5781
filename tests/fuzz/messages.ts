/** Messages of a frontend as inputs have them, and the files that go along. */
import { close, eventfdCreate } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import { receive } from "../../ffi/unix_socket.ts";
import type { SessionLog } from "../../src/vhost_user/backend.ts";
import { payload, region, state, u64, vringAddress } from "../support/frontend.ts";
import type { Script } from "./engine/target.ts";

export const RAM_SIZE = 0x4_0000;
/** Where the guest and the frontend see it. */
export const GUEST = 0x10_0000;
export const USER = 0x7000_0000;
export const quiet: SessionLog = { warn() {}, info() {}, debug() {} };
/** What messages bring; the first is guest memory. */
export const files: readonly number[] = [
  memfdCreate("ram", RAM_SIZE),
  memfdCreate("small", 4096),
  eventfdCreate(),
  memfdCreate("empty", 0),
];
const replies = new Uint8Array(4096);

/** More than a message brings: one that is lost is among the lowest that were free. */
const PROBES = 16;

/** The lowest descriptors that are free, added up. */
export function freeDescriptors(): number {
  const fds = Array.from({ length: PROBES }, () => eventfdCreate());
  for (const fd of fds) close(fd);
  return fds.reduce((sum, fd) => sum + fd);
}

/** Takes what was answered. */
export function drain(fd: number): void {
  const came: number[] = [];
  while (receive(fd, replies, came) > 0) { /* they are not looked at */ }
  for (const one of came) close(one);
}

/** The next message of an input, with its descriptors. */
export function message(script: Script): { bytes: Uint8Array; fds: number[] } {
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

/** A message of a seed: request, body, descriptors, flags. */
export type Sent = [number, Uint8Array?, number?, number?];

/** Messages as an input has them. */
export function script(...messages: Sent[]): Uint8Array {
  return Uint8Array.from(
    messages.flatMap(([request, body = new Uint8Array(0), count = 0, flags = 0]) => [
      ...[request, flags, count, body.length, ...body, 0],
    ]),
  );
}

export const RAM: Uint8Array = region(GUEST, RAM_SIZE, USER, 0);

/** All that starts a ring whose areas lie from an offset of guest memory on. */
export function ring(index: number, offset = 0, base = 7): Sent[] {
  const at = USER + offset;
  return [
    [8, state(index, 256)],
    [10, state(index, base)],
    [9, vringAddress(index, at, at + 0x2000, at + 0x1000)],
    [12, u64(index), 0x21],
    [13, u64(index), 0x21],
    [18, state(index, 1)],
  ];
}

/** The memory table with guest memory alone. */
export const TABLE: Sent = [5, payload(["u64", 1], RAM), 1];
