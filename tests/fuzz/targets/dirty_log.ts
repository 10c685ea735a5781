/**
 * The dirty log of a migration (src/virtio/guest_memory.ts): any size at any place in any
 * file, and whatever is marked. A page that was written and has a bit is marked, no other
 * one is, and nothing of the file around the log changes.
 */
import { close } from "../../../ffi/event.ts";
import { mapShared, memfdCreate, reserve } from "../../../ffi/memory.ts";
import { MemoryError } from "../../../src/virtio/file_mapper.ts";
import { GuestMemory } from "../../../src/virtio/guest_memory.ts";
import { Script, type Target } from "../engine/target.ts";

const PAGE = 4096;
const FILE = 4 * PAGE;
const RAM = 16 * PAGE;
const MAX_STEPS = 30;
const TELLING = [0, 1, 2, 7, 8, 63, 511, 512, PAGE - 1, PAGE, PAGE + 1, FILE - 1, FILE];
const HUGE = [
  2 ** 31,
  2 ** 32,
  2 ** 40,
  Number.MAX_SAFE_INTEGER,
  2 ** 53,
  2 ** 63,
  2 ** 64,
];
const SURROUNDINGS = 0x40;
/** Where regions begin and what for: the first pages, far ones, ones beyond any log. */
const STARTS = [0, 5 * PAGE, 300 * PAGE, 2 ** 20 * PAGE, 2 ** 36];

const memory = new GuestMemory(2 ** 30);
const files = [
  memfdCreate("log", FILE),
  memfdCreate("small", 100),
  memfdCreate("none", 0),
];
const ram = memfdCreate("ram", RAM);
const range = reserve(FILE);
if (range === null) throw new RangeError("no addresses left");
mapShared(range.base, FILE, files[0], 0);
const seen = new Uint8Array(range.buffer);

/** What the log is expected to be. */
interface Log {
  offset: number;
  size: number;
  marked: Set<number>;
}

function number(script: Script): number {
  const kind = script.u8();
  if (kind < 160) return TELLING[kind % TELLING.length];
  if (kind < 170) return HUGE[kind % HUGE.length];
  return kind < 200 ? script.u32() : script.u16();
}

function setLog(script: Script): Log | undefined {
  const file = script.u8() < 200 ? 0 : script.below(files.length);
  const [size, offset] = [number(script), number(script)];
  seen.fill(SURROUNDINGS);
  const fits = size > 0 && offset + size <= FILE;
  if (fits) seen.fill(0, offset, offset + size);
  memory.setLog(files[file], size, offset);
  if (file !== 0) return undefined;
  if (!fits) throw new Error(`a log of ${size} bytes at ${offset}`);
  return { offset, size, marked: new Set() };
}

const expected = new Uint8Array(FILE);

function check({ offset, size, marked }: Log): void {
  expected.fill(SURROUNDINGS);
  expected.fill(0, offset, offset + size);
  for (const page of marked) expected[offset + (page >> 3)] |= 1 << (page & 7);
  for (let i = 0; i < FILE; i++) {
    if (seen[i] !== expected[i]) {
      throw new Error(`byte ${i}: ${seen[i]}, not ${expected[i]}`);
    }
  }
}

function mark(script: Script, log: Log | undefined, start: number): void {
  const kind = script.u8();
  const length = Math.min(number(script), 64 * PAGE);
  const at = kind & 1 ? start + number(script) % RAM : number(script);
  if (kind & 2) {
    const size = Math.min(length, start + RAM - at);
    const offset = size > 0 ? memory.translate(at, size) : -1;
    if (offset < 0) return;
    memory.markDirtyOffset(offset, size);
    note(log, at, size);
  } else {
    memory.markDirty(at, length);
    note(log, at, length);
  }
}

function note(log: Log | undefined, at: number, length: number): void {
  if (log === undefined || length <= 0) return;
  const last = Math.floor((at + length - 1) / PAGE);
  for (let page = Math.floor(at / PAGE); page <= last; page++) {
    if (page < log.size * 8) log.marked.add(page);
  }
}

function run(input: Uint8Array<ArrayBuffer>): void {
  const script = new Script(input);
  const start = STARTS[script.below(STARTS.length)];
  const region = { guestAddress: start, size: RAM, userAddress: start, mmapOffset: 0 };
  let log: Log | undefined;
  try {
    memory.setTable([region], [ram]);
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) {
      switch (script.below(6)) {
        case 0:
          if (log !== undefined) check(log);
          try {
            log = setLog(script);
          } catch (error) {
            if (!(error instanceof MemoryError)) throw error;
            log = undefined; // seen was filled anew
            memory.clearLog();
          }
          break;
        case 1:
          memory.setLogging(script.u8() % 2 === 0);
          break;
        case 2:
          if (script.u8() % 8 !== 0) break;
          memory.clearLog();
          if (log !== undefined) check(log);
          log = undefined;
          break;
        default:
          mark(script, log, start);
      }
      if (memory.logging && memory.logSize === 0) {
        throw new Error("logging without a log");
      }
    }
    if (log !== undefined) check(log);
  } finally {
    memory.clear();
  }
}

const target: Target = {
  maxLength: 200,
  seeds: [
    [0, 0, 0, 9, 0, 1, 0, 3, 1, 8, 0, 3, 2, 9, 1, 3, 3, 8, 9],
    [1, 0, 0, 10, 1, 3, 1, 9, 5, 0, 0, 1, 12, 3, 1, 9, 5, 4, 0, 9, 200, 4, 5],
    [2, 0, 0, 8, 3, 3, 3, 9, 3, 0, 0, 165, 166, 0, 210, 1, 1, 0, 210, 2, 0, 2, 0],
    [3, 0, 0, 12, 0, 3, 2, 10, 200, 1, 2, 3, 4, 1, 1, 1, 0],
  ].map((bytes) => Uint8Array.from(bytes)),
  run,
  close() {
    for (const fd of [...files, ram]) close(fd);
  },
};
export default target;
