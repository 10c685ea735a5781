/**
 * vuelo's own stream: the header, then what its version says. Version 1 is the header
 * alone. Version 2 has a section table (sections.ts) and sections (entries.ts and
 * records.ts).
 *
 * Versions are rows of a table: a new one is a new row.
 */
import { checkEntries, KINDS, RecordCheck, withoutHoles } from "./check.ts";
import { gather } from "./chunks.ts";
import {
  checkHash,
  entryBytes,
  hashEntries,
  readEntries,
  wordOffset,
} from "./entries.ts";
import { cutShort, invalid, type StateError } from "./error.ts";
import { FieldReader } from "./fields.ts";
import { HEADER_SIZE, type HeaderFacts, readHeader, writeHeader } from "./header.ts";
import type {
  MovedDatagramFlow,
  MovedDevice,
  MovedRule,
  MovedState,
  MovedTcp,
} from "./model.ts";
import {
  readDatagramFlow,
  readDevice,
  readRule,
  readTcpRecord,
  reasonBytes,
  takeQueues,
  type TcpRecord,
  writeDatagramFlows,
  writeDevice,
  writeRules,
  writeTcp,
} from "./records.ts";
import {
  readTable,
  type Section,
  type SectionData,
  type SectionFormat,
  SECTIONS,
  SectionType,
  tableEnd,
  verifySection,
  writeTable,
} from "./sections.ts";

/** A version of the stream. */
export interface StreamVersion {
  readonly version: number;
  /** Sections it has; undefined without a section table. */
  readonly sections: readonly SectionFormat[] | undefined;
}

/** All versions that are read and written; what is done for each, src/migrate says. */
export const VERSIONS: readonly StreamVersion[] = [
  { version: 1, sections: undefined },
  { version: 2, sections: SECTIONS },
];
export const KNOWN_VERSIONS: readonly number[] = VERSIONS.map(({ version }) => version);
export const NEWEST_VERSION: number = Math.max(...KNOWN_VERSIONS);

/** What has been read of a stream so far; complete if nothing was thrown. */
export interface StreamContent {
  sections: Section[];
  device?: MovedDevice;
  entries?: Int32Array<ArrayBuffer>;
  /** Connections as their records tell, before their queues are read. */
  records: TcpRecord[];
  tcp: MovedTcp[];
  udp: MovedDatagramFlow[];
  ping: MovedDatagramFlow[];
  rules: MovedRule[];
  /** Takes note of damaged sections, which are then read all the same. */
  damaged?: ((error: StateError) => void) | undefined;
}

/**
 * Writes a stream, as chunks that follow one another. Large queues are not copied.
 *
 * @param version 1 leaves the state out
 */
export function encodeVuelo(
  state: MovedState,
  version = NEWEST_VERSION,
): Uint8Array<ArrayBuffer>[] {
  const header = writeHeader(version);
  if (VERSIONS.find((row) => row.version === version)?.sections === undefined) {
    return [header];
  }
  const hashes = hashEntries(state.entries);
  const sections: { type: number; chunks: Uint8Array<ArrayBuffer>[] }[] = [
    { type: SectionType.device, chunks: [writeDevice(state.device)] },
    { type: SectionType.flows, chunks: [entryBytes(state.entries)] },
    { type: SectionType.hash, chunks: [new Uint8Array(hashes.buffer)] },
    { type: SectionType.tcp, chunks: [writeTcp(state.tcp)] },
    { type: SectionType.queues, chunks: gather(queuesOf(state.tcp)) },
    { type: SectionType.udp, chunks: [writeDatagramFlows(state.udp)] },
    { type: SectionType.ping, chunks: [writeDatagramFlows(state.ping)] },
    { type: SectionType.rules, chunks: [writeRules(state.rules)] },
  ];
  const table = writeTable(sections satisfies readonly SectionData[]);
  return [header, table, ...sections.flatMap(({ chunks }) => chunks)]
    .filter((chunk) => chunk.length > 0);
}

function* queuesOf(records: readonly MovedTcp[]): Generator<Uint8Array> {
  for (const record of records) {
    if (record.lost !== "") yield reasonBytes(record.lost);
    else {
      yield record.sendQueue;
      yield record.receiveQueue;
    }
  }
}

/**
 * How many bytes a stream has at least, by what is there of it.
 *
 * @throws StateError if that is wrong already
 */
export function neededVuelo(bytes: Uint8Array): number {
  const { version, ...layout } = readHeader(bytes, KNOWN_VERSIONS);
  const formats = formatsOf(version);
  if (formats === undefined) return HEADER_SIZE;
  const end = tableEnd(bytes);
  if (bytes.length < end) return end;
  return readTable(bytes, formats, layout)
    .reduce((sum, { length }) => sum + length, tableEnd(bytes));
}

function formatsOf(version: number): readonly SectionFormat[] | undefined {
  return VERSIONS.find((row) => row.version === version)?.sections;
}

/**
 * Reads what follows the header.
 *
 * @param content is filled step by step, so that it tells how far this came
 * @throws StateError
 */
export function decodeVuelo(
  bytes: Uint8Array,
  facts: HeaderFacts,
  content: StreamContent,
): MovedState | undefined {
  if (bytes.length < HEADER_SIZE) {
    throw cutShort(bytes.length, "header", HEADER_SIZE - bytes.length);
  }
  const formats = formatsOf(facts.version);
  let end = HEADER_SIZE;
  if (formats !== undefined) {
    content.sections = readTable(bytes, formats, facts);
    const reader = new SectionReader(bytes, facts, content);
    for (const section of content.sections) {
      const damage = verifySection(bytes, section);
      if (damage !== undefined) {
        if (content.damaged === undefined) throw damage;
        content.damaged(damage);
      }
      reader.read(section);
      end = section.offset + section.length;
    }
    reader.finish();
  }
  if (bytes.length > end) {
    throw invalid(
      end,
      "end of the stream",
      "nothing more",
      `${bytes.length - end} bytes`,
    );
  }
  const { device, entries, tcp, udp, ping, rules } = content;
  if (device === undefined || entries === undefined) return undefined;
  return { device, entries, tcp, udp, ping, rules };
}

const NO_SECTION: Section = {
  type: 0,
  name: "",
  optional: true,
  offset: 0,
  length: 0,
  crc: 0,
};

/** Reads the sections of version 2 one after the other. */
class SectionReader {
  #flows = NO_SECTION;
  #entries = new Int32Array();
  #records = new RecordCheck(this.#entries);

  constructor(
    readonly bytes: Uint8Array,
    readonly layout: HeaderFacts,
    readonly content: StreamContent,
  ) {}

  /** Offset of a word of an entry, for errors. */
  readonly #offsetOf = (flow: number, word: number) =>
    wordOffset(this.#flows, flow, word);

  read(section: Section): void {
    const { bytes, layout, content } = this;
    const end = section.offset + section.length;
    const fields = new FieldReader(bytes, section.offset, end, layout);
    switch (section.type) {
      case SectionType.device:
        content.device = readDevice(fields);
        break;
      case SectionType.flows:
        this.#flows = section;
        this.#entries = readEntries(bytes, section, layout);
        checkEntries(this.#entries, this.#offsetOf);
        this.#records = new RecordCheck(this.#entries);
        content.entries = this.#entries;
        break;
      case SectionType.hash:
        checkHash(bytes, section, layout, this.#entries);
        break;
      case SectionType.tcp:
        this.#readTcp(fields);
        break;
      case SectionType.queues:
        this.#readQueues(fields, section);
        break;
      case SectionType.udp:
        this.#readDatagrams(fields, "UDP flow", KINDS.udp, content.udp);
        break;
      case SectionType.ping:
        this.#readDatagrams(fields, "ping flow", KINDS.ping, content.ping);
        break;
      case SectionType.rules:
        for (let i = 0; fields.at < fields.end; i++) {
          fields.what = `rule ${i}`;
          content.rules.push(readRule(fields));
        }
    }
  }

  #readTcp(fields: FieldReader): void {
    for (let i = 0; fields.at < fields.end; i++) {
      const start = fields.at;
      fields.what = `TCP connection ${i}`;
      const record = readTcpRecord(fields);
      this.#records.note(start, fields.what, record.tcp.flow, KINDS.tcp);
      this.content.records.push(record);
    }
  }

  #readQueues(fields: FieldReader, { offset, length }: Section): void {
    const expected = this.content.records
      .reduce(
        (sum, { sendLength, receiveLength }) => sum + sendLength + receiveLength,
        0,
      );
    if (length !== expected) {
      throw invalid(offset, "length of TCP queues", `${expected}`, length);
    }
    for (const connection of this.content.records) {
      const record = takeQueues(connection, fields);
      this.content.tcp.push(withoutHoles(this.#entries, record));
    }
  }

  #readDatagrams(
    fields: FieldReader,
    what: string,
    kinds: readonly number[],
    flows: MovedDatagramFlow[],
  ): void {
    for (let i = 0; fields.at < fields.end; i++) {
      const start = fields.at;
      fields.what = `${what} ${i}`;
      const record = readDatagramFlow(fields);
      this.#records.note(start, fields.what, record.flow, kinds);
      flows.push(record);
    }
  }

  /** Checks what only shows when all is read. */
  finish(): void {
    this.#records.finish(this.#offsetOf);
  }
}
