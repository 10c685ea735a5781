/**
 * Sections 2 and 3 of version 2: the flow table and its hash.
 *
 * The flow table has the 128 bytes of each entry as they lie: 32 words in the source's
 * byte order, but for the 16 words of addresses, which are bytes in network order.
 *
 * The hash has two numbers of 32 bits for each entry, in the source's byte order: for its
 * guest side, then for its host side, the CRC32C of 36 bytes, which are both ports ("our"
 * first) and both addresses in network order. The slots of a hash in memory depend on a
 * secret of each process and are not sent. A reader that finds other numbers than these
 * has taken an entry for what it is not.
 */
import { crc32c } from "../crc32c.ts";
import { FieldReader, NATIVE, type WordLayout } from "./fields.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowWord } from "./flow_entry.ts";
import { HASH_SIZE } from "./header.ts";
import type { Section } from "./sections.ts";

const SIDES = ["guest", "host"] as const;
const PORTS = [FlowWord.guestPorts, FlowWord.hostPorts];
const ADDRESS_BYTES = 32;

/** Whether a word of an entry is part of an address. */
function isAddress(word: number): boolean {
  return word >= FlowWord.guestOur && word < FlowWord.hostPorts ||
    word >= FlowWord.hostOur && word < FlowWord.fd;
}

/** Entries as bytes in this host's byte order, where they lie. */
export function entryBytes(
  entries: Int32Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  return new Uint8Array(entries.buffer, entries.byteOffset, entries.byteLength);
}

/** Copies a section of entries into this host's byte order. */
export function readEntries(
  bytes: Uint8Array,
  { offset, length }: Section,
  layout: WordLayout,
): Int32Array<ArrayBuffer> {
  const entries = new Int32Array(length / 4);
  entryBytes(entries).set(bytes.subarray(offset, offset + length));
  if (layout.littleEndian === NATIVE.littleEndian) return entries;
  const view = new DataView(entries.buffer);
  for (let at = 0; at < entries.length; at++) {
    if (!isAddress(at % FLOW_WORDS)) {
      entries[at] = view.getInt32(at * 4, layout.littleEndian);
    }
  }
  return entries;
}

/** The hash of each side of each entry. */
export function hashEntries(entries: Int32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  const bytes = entryBytes(entries);
  const hashes = new Uint32Array(entries.length / FLOW_WORDS * 2);
  const key = new Uint8Array(4 + ADDRESS_BYTES);
  const view = new DataView(key.buffer);
  for (let i = 0; i < hashes.length; i++) {
    const word = (i >> 1) * FLOW_WORDS + PORTS[i & 1];
    view.setInt32(0, entries[word]);
    const at = word * 4 + 4;
    key.set(bytes.subarray(at, at + ADDRESS_BYTES), 4);
    hashes[i] = crc32c(key);
  }
  return hashes;
}

/**
 * Checks the entries against the section of hashes.
 *
 * @throws StateError
 */
export function checkHash(
  bytes: Uint8Array,
  section: Section,
  layout: WordLayout,
  entries: Int32Array<ArrayBuffer>,
): void {
  const { offset, length } = section;
  const reader = new FieldReader(bytes, offset, offset + length, layout);
  const hashes = hashEntries(entries);
  reader.what = "flow hash";
  const flows = entries.length / FLOW_WORDS;
  if (length !== hashes.length * HASH_SIZE) {
    throw reader.error("length", `${hashes.length * HASH_SIZE} for ${flows}`, length);
  }
  for (let i = 0; i < hashes.length; i++) {
    const expected = reader.u32();
    if (expected === hashes[i]) continue;
    reader.what = `flow hash, flow ${i >> 1}`;
    throw reader.error(`${SIDES[i & 1]} side`, `${hashes[i]} for the entry`, expected);
  }
}

/** Offset in the stream of a word of an entry. */
export function wordOffset(section: Section, flow: number, word: number): number {
  return section.offset + flow * FLOW_SIZE + word * 4;
}
