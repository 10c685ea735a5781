/** Streams of a guest's state as inputs: small, and with checksums that are right. */
import { encodePasst } from "../../src/wire/state/decode.ts";
import { crc32c } from "../../src/wire/crc32c.ts";
import { sampleState } from "../support/state_samples.ts";
import { type Machine, MACHINES, sectionsOf } from "../support/state_writer.ts";
import { Script } from "./engine/target.ts";

const HEADER_SIZE = 65536;
const HEAD = 8;
const ENTRY = 24;
const MAX_SECTIONS = 64;

/** What an input's first byte stands for. */
const Form = { raw: 0, vuelo: 1 } as const;
/** Bits of a section's flags. */
const Bit = { optional: 1, wrongCrc: 2, longer: 4 } as const;

const MAGIC = Uint8Array.fromHex("b1bb1d1b0bb1d1b0");

/** The stream of an input: bytes as they are, or sections that are laid out here. */
export function streamOf(input: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const script = new Script(input);
  return script.u8() % 2 === Form.raw ? script.rest().slice() : laid(script);
}

function laid(script: Script): Uint8Array<ArrayBuffer> {
  const machine = script.u8();
  const sections: { type: number; flags: number; bytes: Uint8Array }[] = [];
  while (script.left > 0 && sections.length < MAX_SECTIONS) {
    const [type, flags] = [script.u8(), script.u8()];
    sections.push({ type, flags, bytes: script.bytes(script.u16()) });
  }
  const table = HEAD + ENTRY * sections.length;
  const size = sections.reduce((sum, { bytes }) => sum + bytes.length, table);
  const stream = new Uint8Array(HEADER_SIZE + size);
  const view = new DataView(stream.buffer);
  stream.set(machine & 1 ? MAGIC.toReversed() : MAGIC);
  view.setUint32(8, machine >> 4 || 2);
  view.setUint32(12, machine & 2 ? 8 : 4);
  view.setUint32(16, machine & 4 ? 8 : 4);
  view.setUint32(20, 128);
  view.setUint32(24, 4);
  view.setUint32(HEADER_SIZE, sections.length);
  let at = HEADER_SIZE + table;
  sections.forEach(({ type, flags, bytes }, i) => {
    const entry = HEADER_SIZE + HEAD + ENTRY * i;
    view.setUint32(entry, type);
    view.setUint32(entry + 4, flags & Bit.optional);
    view.setUint32(entry + 12, bytes.length + (flags & Bit.longer ? 1 : 0));
    view.setUint32(entry + 16, crc32c(bytes) ^ (flags & Bit.wrongCrc ? 1 : 0));
    stream.set(bytes, at);
    at += bytes.length;
  });
  const head = crc32c(stream.subarray(HEADER_SIZE, HEADER_SIZE + 4));
  const entries = stream.subarray(HEADER_SIZE + HEAD, HEADER_SIZE + table);
  view.setUint32(HEADER_SIZE + 4, crc32c(entries, head));
  return stream;
}

function seed(machine: Machine): Uint8Array {
  const { little, pointer, time } = machine;
  const bits = (little ? 1 : 0) | (pointer === 8 ? 2 : 0) | (time === 8 ? 4 : 0);
  const sections = sectionsOf(machine, sampleState()).flatMap((section) => {
    const { type, flags = 0, bytes } = section;
    return [type, flags, bytes.length >> 8, bytes.length & 255, ...bytes];
  });
  return Uint8Array.from([Form.vuelo, bits | 2 << 4, ...sections]);
}

/** A state of either format, from sources of several kinds. */
export const STREAM_SEEDS: readonly Uint8Array[] = [
  seed(MACHINES[0]),
  seed(MACHINES[3]),
  seed(MACHINES[7]),
  Uint8Array.from([
    Form.raw,
    ...encodePasst(sampleState()).chunks.flatMap((chunk) => [...chunk]),
  ]),
];
export const STREAM_LENGTH: number =
  Math.max(...STREAM_SEEDS.map(({ length }) => length)) + 512;
