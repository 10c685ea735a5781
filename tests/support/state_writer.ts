/**
 * Writes streams of state for sources of any byte order and word size, from what is
 * documented at the top of header.ts, sections.ts, entries.ts and records.ts. It shares
 * no code with what it tests: bytes are made digit by digit, the CRC bit by bit.
 */
import type { MovedState, MovedTcp } from "../../src/wire/state/model.ts";

/** A source. */
export interface Machine {
  readonly little: boolean;
  readonly pointer: 4 | 8;
  readonly time: 4 | 8;
}

export const MACHINES: readonly Machine[] = [true, false].flatMap((little) =>
  ([4, 8] as const).flatMap((pointer) =>
    ([4, 8] as const).map((time) => ({ little, pointer, time }))
  )
);

/** One field: a number of so many bytes ("time": as many as the machine has), or bytes. */
export type Field =
  | readonly [size: 1 | 2 | 4 | 8 | "time", value: number]
  | Uint8Array
  | number; // so many zeros

/** Lays fields one after the other. */
export function lay(machine: Machine, fields: readonly Field[]): number[] {
  return fields.flatMap((field) => {
    if (field instanceof Uint8Array) return Array.from(field);
    if (typeof field === "number") return Array<number>(field).fill(0);
    const [size, value] = field;
    const digits: number[] = [];
    let rest = BigInt.asUintN(64, BigInt(value));
    for (let i = size === "time" ? machine.time : size; i > 0; i--) {
      digits.push(Number(rest & 0xffn));
      rest >>= 8n;
    }
    return machine.little ? digits : digits.reverse();
  });
}

export const NETWORK: Machine = { little: false, pointer: 8, time: 8 };

/** CRC32C, bit by bit, of the reversed polynomial (RFC 3385, section 3.2). */
export function slowCrc32c(bytes: readonly number[]): number {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0x82f63b78 : 0);
    }
  }
  return ~crc >>> 0;
}

/** A section as it shall lie, right or wrong. */
export interface RawSection {
  readonly type: number;
  readonly flags?: number;
  readonly bytes: readonly number[];
  /** In place of the right ones. */
  readonly length?: number;
  readonly crc?: number;
}

/** The header: 65,536 bytes. */
export function layHeader(
  machine: Machine,
  version: number,
  sizes: readonly number[] = [machine.pointer, machine.time, 128, 4],
): number[] {
  const magic = "b1bb1d1b0bb1d1b0".match(/../g)?.map((hex) => parseInt(hex, 16)) ?? [];
  const numbers = [version, ...sizes].map((value): Field => [4, value]);
  const start = lay(NETWORK, [
    Uint8Array.from(machine.little ? magic.reverse() : magic),
    ...numbers,
  ]);
  return start.concat(Array<number>(65536 - start.length).fill(0));
}

/** Table and sections. */
export function laySections(sections: readonly RawSection[]): number[] {
  const count = lay(NETWORK, [[4, sections.length]]);
  const entries = sections.flatMap(({ type, flags = 0, bytes, length, crc }) =>
    lay(NETWORK, [
      [4, type],
      [4, flags],
      [8, length ?? bytes.length],
      [4, crc ?? slowCrc32c(bytes)],
      4,
    ])
  );
  const crc = lay(NETWORK, [[4, slowCrc32c([...count, ...entries])]]);
  return [...count, ...crc, ...entries, ...sections.flatMap(({ bytes }) => bytes)];
}

/** A stream of version 2. */
export function layStream(
  machine: Machine,
  sections: readonly RawSection[],
): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(layHeader(machine, 2).concat(laySections(sections)));
}

const ADDRESS_WORDS = [[2, 10], [11, 19]];
const isAddress = (word: number) =>
  ADDRESS_WORDS.some(([from, to]) => word >= from && word < to);

function layFlows(machine: Machine, entries: Int32Array<ArrayBuffer>): number[] {
  const memory = new Uint8Array(entries.buffer, entries.byteOffset, entries.byteLength);
  return Array.from(
    entries,
    (value, i) =>
      isAddress(i % 32)
        ? Array.from(memory.subarray(i * 4, i * 4 + 4))
        : lay(machine, [[4, value]]),
  ).flat();
}

function layHash(machine: Machine, entries: Int32Array<ArrayBuffer>): number[] {
  const memory = new Uint8Array(entries.buffer, entries.byteOffset, entries.byteLength);
  const hashes: Field[] = [];
  for (let word = 0; word < entries.length; word += 32) {
    for (const ports of [word + 1, word + 10]) {
      const addresses = memory.subarray(ports * 4 + 4, ports * 4 + 36);
      hashes.push([
        4,
        slowCrc32c([...lay(NETWORK, [[4, entries[ports]]]), ...addresses]),
      ]);
    }
  }
  return lay(machine, hashes);
}

const utf8 = (text: string) => new TextEncoder().encode(text);
const name = (text: string): Field[] => [utf8(text), 16 - text.length];

function layTcp(machine: Machine, r: MovedTcp): number[] {
  if (r.lost !== "") {
    const length = utf8(r.lost).length;
    return lay(machine, [[4, r.flow], 12, [4, length], 76, ["time", 0]]);
  }
  return lay(machine, [
    [4, r.flow],
    [1, r.state],
    [1, r.options],
    [1, r.sendScale],
    [1, r.receiveScale],
    [4, r.sendSequence],
    [4, r.receiveSequence],
    [4, r.sendQueue.length],
    [4, r.notSent],
    [4, r.receiveQueue.length],
    [4, r.mss],
    [4, r.timestamp],
    [4, r.sndWl1],
    [4, r.sndWnd],
    [4, r.maxWindow],
    [4, r.rcvWnd],
    [4, r.rcvWup],
    [4, r.keepIdle],
    [4, r.keepInterval],
    [4, r.keepCount],
    [4, r.gap],
    [4, r.gapEnd],
    [4, r.recover],
    ...name(r.device),
    ["time", r.idle],
  ]);
}

/** The sections of version 2, by what the documentation says. */
export function sectionsOf(machine: Machine, state: MovedState): RawSection[] {
  const { device, entries, tcp, udp, ping, rules } = state;
  const none = new Uint8Array(16);
  const datagrams = (flows: MovedState["udp"]) =>
    flows.flatMap(({ flow, idle }) => lay(machine, [[4, flow], 4, ["time", idle]]));
  const bits = (...set: boolean[]) =>
    set.reduce((sum, bit, i) => sum + (bit ? 2 ** i : 0), 0);
  return [
    {
      type: 1,
      bytes: lay(machine, [
        device.mac,
        device.ourMac,
        device.address4,
        device.address6,
        device.linkLocal6,
        device.lease4,
        device.lease6,
        [1, device.lease4Prefix],
        [1, device.lease6Prefix],
        2,
        [4, device.mtu],
        [4, device.featuresLo],
        [4, device.featuresHi],
        4,
        ["time", device.savedAt],
      ]),
    },
    { type: 2, bytes: layFlows(machine, entries) },
    { type: 3, flags: 1, bytes: layHash(machine, entries) },
    { type: 4, bytes: tcp.flatMap((record) => layTcp(machine, record)) },
    {
      type: 5,
      bytes: tcp.flatMap((record) =>
        record.lost === ""
          ? [...record.sendQueue, ...record.receiveQueue]
          : [...utf8(record.lost)]
      ),
    },
    { type: 6, bytes: datagrams(udp) },
    { type: 7, bytes: datagrams(ping) },
    {
      type: 8,
      bytes: rules.flatMap((rule) =>
        lay(machine, [
          [1, rule.protocol === "tcp" ? 6 : 17],
          [
            1,
            bits(
              rule.address !== undefined,
              rule.interface !== undefined,
              rule.guestAddress !== undefined,
              rule.weak,
            ),
          ],
          2,
          [2, rule.first],
          [2, rule.last],
          [2, rule.guestFirst],
          2,
          rule.address ?? none,
          rule.guestAddress ?? none,
          ...name(rule.interface ?? ""),
        ])
      ),
    },
  ];
}

/** The whole stream of version 2. */
export function writeState(machine: Machine, state: MovedState): Uint8Array<ArrayBuffer> {
  return layStream(machine, sectionsOf(machine, state));
}
