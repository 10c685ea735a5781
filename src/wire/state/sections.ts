/**
 * The section table, which follows the header from version 2 on, all in network order:
 *
 *     0  4  count of entries, N
 *     4  4  CRC32C of the table without this field: bytes 0 to 3, then 8 to 8 + 24 N
 *     8  -  N entries of 24 bytes:
 *           0  4  type; types ascend, so that none is there twice
 *           4  4  flags: bit 0 says that a reader may skip the section if it does not
 *                 know the type; the other bits are 0
 *           8  8  length of the section in bytes
 *          16  4  CRC32C of the section
 *          20  4  reserved, 0
 *
 * The sections follow in the order of the table, without space between them; the stream
 * ends with the last one.
 */
import { crc32c } from "../crc32c.ts";
import { cutShort, invalid, notSupported, type StateError } from "./error.ts";
import { FieldReader, FieldWriter, NETWORK, type WordLayout } from "./fields.ts";
import { FLOW_SIZE } from "./flow_entry.ts";
import { HASH_SIZE, HEADER_SIZE } from "./header.ts";

export const SectionType = {
  device: 1,
  flows: 2,
  hash: 3,
  tcp: 4,
  queues: 5,
  udp: 6,
  ping: 7,
  rules: 8,
} as const;

const OPTIONAL = 1;
const TABLE_AT = HEADER_SIZE;
const TABLE_HEAD = 8;
const ENTRY_SIZE = 24;
const MAX_SECTIONS = 64;
/** Flows at most; a table of them has 128 MiB. */
export const MAX_FLOWS = 1 << 20;
/** Bytes of a queue of one connection at most, as with passt. */
export const MAX_QUEUE = 64 << 20;
/** 65535 << 14, the largest window (RFC 7323, section 2.3), and what a FIN may add. */
export const MAX_WINDOW = 2 ** 30;
/** Rules at most: one for each port of each protocol. */
const MAX_RULES = 1 << 17;
/** Bytes of a whole stream: more than the queues of any host's connections. */
export const MAX_STREAM = 2 ** 36;

/** A type of section: its records are `size` bytes each, `most` of them. */
export interface SectionFormat {
  readonly type: number;
  readonly name: string;
  /** Sections that a stream may lack. */
  readonly optional: boolean;
  readonly least: number;
  readonly most: number;
  size(layout: WordLayout): number;
}

/** A section of a stream. */
export interface Section {
  readonly type: number;
  /** Name, or undefined if the type is not known. */
  readonly name: string | undefined;
  readonly optional: boolean;
  readonly offset: number;
  readonly length: number;
  readonly crc: number;
  /** Whether what came has this CRC; undefined before it was looked at. */
  intact?: boolean;
}

/** Sections of version 2. */
export const SECTIONS: readonly SectionFormat[] = [
  row(SectionType.device, "device", 1, 1, (layout) => 112 + layout.timeSize),
  row(SectionType.flows, "flow table", 0, MAX_FLOWS, () => FLOW_SIZE),
  row(SectionType.hash, "flow hash", 0, MAX_FLOWS, () => 2 * HASH_SIZE, true),
  row(SectionType.tcp, "TCP connections", 0, MAX_FLOWS, (layout) => 96 + layout.timeSize),
  row(SectionType.queues, "TCP queues", 0, MAX_STREAM, () => 1),
  row(SectionType.udp, "UDP flows", 0, MAX_FLOWS, (layout) => 8 + layout.timeSize),
  row(SectionType.ping, "ping flows", 0, MAX_FLOWS, (layout) => 8 + layout.timeSize),
  row(SectionType.rules, "forwarding rules", 0, MAX_RULES, () => 60),
];

function row(
  type: number,
  name: string,
  least: number,
  most: number,
  size: SectionFormat["size"],
  optional = false,
): SectionFormat {
  return { type, name, optional, least, most, size };
}

/** What {@link writeTable} needs of a section: its type and the pieces it is made of. */
export interface SectionData {
  readonly type: number;
  readonly chunks: readonly Uint8Array[];
}

/** Writes the table for sections in ascending order of type. */
export function writeTable(sections: readonly SectionData[]): Uint8Array<ArrayBuffer> {
  const out = new FieldWriter(TABLE_HEAD + ENTRY_SIZE * sections.length, NETWORK);
  out.u32(sections.length);
  out.skip(4);
  for (const { type, chunks } of sections) {
    const optional = SECTIONS.find((format) => format.type === type)?.optional ?? false;
    out.u32(type);
    out.u32(optional ? OPTIONAL : 0);
    out.u64(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    out.u32(chunks.reduce((crc, chunk) => crc32c(chunk, crc), 0));
    out.skip(4);
  }
  const { bytes } = out;
  out.at = 4;
  out.u32(crc32c(bytes.subarray(TABLE_HEAD), crc32c(bytes.subarray(0, 4))));
  return bytes;
}

/** Bytes from the start of the stream to the end of its table, as far as is known. */
export function tableEnd(bytes: Uint8Array): number {
  if (bytes.length < TABLE_AT + TABLE_HEAD) return TABLE_AT + TABLE_HEAD;
  const reader = new FieldReader(bytes, TABLE_AT, bytes.length, NETWORK);
  reader.what = "section table";
  const count = reader.range("count", reader.u32(), 0, MAX_SECTIONS);
  return TABLE_AT + TABLE_HEAD + ENTRY_SIZE * count;
}

/**
 * Reads the table and checks all that it says, but not whether the sections are there.
 *
 * @param bytes from the start of the stream
 * @throws StateError
 */
export function readTable(
  bytes: Uint8Array,
  formats: readonly SectionFormat[],
  layout: WordLayout,
): Section[] {
  const end = tableEnd(bytes);
  if (bytes.length < end) {
    throw cutShort(bytes.length, "section table", end - bytes.length);
  }
  const reader = new FieldReader(bytes, TABLE_AT, end, NETWORK);
  const count = reader.u32();
  const crc = reader.u32();
  const came = crc32c(
    bytes.subarray(TABLE_AT + TABLE_HEAD, end),
    crc32c(bytes.subarray(TABLE_AT, TABLE_AT + 4)),
  );
  if (came !== crc) throw badCrc(TABLE_AT + 4, "section table", crc, came);
  const sections: Section[] = [];
  let offset = end;
  for (let i = 0; i < count; i++) {
    reader.what = `section table, entry ${i}`;
    const type = reader.u32();
    const before = sections.at(-1)?.type ?? 0;
    if (type <= before) {
      throw reader.error("type", `types that ascend, so more than ${before}`, type);
    }
    const section = readEntry(reader, type, offset, formats, layout);
    sections.push(section);
    offset += section.length;
  }
  requireAll(sections, formats);
  return sections;
}

/** Reads what follows the type. */
function readEntry(
  reader: FieldReader,
  type: number,
  offset: number,
  formats: readonly SectionFormat[],
  layout: WordLayout,
): Section {
  const typeAt = reader.last;
  const flags = reader.u32();
  if ((flags & ~OPTIONAL) !== 0) throw reader.error("flags", "0 or 1", flags);
  const optional = flags === OPTIONAL;
  const format = formats.find((known) => known.type === type);
  if (format === undefined && !optional) {
    const known = formats.map(({ name }) => name).join(", ");
    const came = `type ${type}, which may not be skipped`;
    throw notSupported(typeAt, `${reader.what}: type`, `one of: ${known}`, came);
  }
  const length = reader.u64();
  if (format !== undefined) checkLength(reader, length, format, format.size(layout));
  reader.range("length", length, 0, MAX_STREAM - offset);
  const crc = reader.u32();
  reader.skip(4);
  return { type, name: format?.name, optional, offset, length, crc };
}

function checkLength(
  reader: FieldReader,
  length: number,
  { name, least, most }: SectionFormat,
  size: number,
): void {
  const field = `length of ${name}`;
  if (length % size !== 0) throw reader.error(field, `a multiple of ${size}`, length);
  reader.range(field, length, least * size, most * size);
}

function requireAll(
  sections: readonly Section[],
  formats: readonly SectionFormat[],
): void {
  for (const { type, name, optional } of formats) {
    if (optional || sections.some((section) => section.type === type)) continue;
    const came = sections.map((section) => section.name ?? `type ${section.type}`);
    const all = came.length === 0 ? "none" : came.join(", ");
    throw invalid(TABLE_AT, "section table", `a section "${name}"`, all);
  }
}

/**
 * Checks that a section is undamaged; notes that in it.
 *
 * @returns what is wrong with it
 * @throws StateError if it is not all there
 */
export function verifySection(
  bytes: Uint8Array,
  section: Section,
): StateError | undefined {
  const { offset, length, crc } = section;
  const name = section.name ?? `section of type ${section.type}`;
  if (bytes.length < offset + length) {
    throw cutShort(bytes.length, name, offset + length - bytes.length);
  }
  const came = crc32c(bytes.subarray(offset, offset + length));
  section.intact = came === crc;
  if (section.intact) return undefined;
  return badCrc(offset, `${name} (${length} bytes)`, crc, came);
}

function badCrc(
  offset: number,
  field: string,
  expected: number,
  came: number,
): StateError {
  const text = (crc: number) => `a CRC32C of ${crc.toString(16).padStart(8, "0")}`;
  return invalid(offset, field, text(expected), text(came));
}
