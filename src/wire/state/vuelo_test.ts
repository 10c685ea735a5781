import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  address,
  entriesOf,
  lostSample,
  sampleState,
  tcpSample,
} from "../../../tests/support/state_samples.ts";
import {
  layHeader,
  laySections,
  layStream,
  type Machine,
  MACHINES,
  type RawSection,
  sectionsOf,
  writeState,
} from "../../../tests/support/state_writer.ts";
import { decode, encodeVuelo, neededBytes, StateError } from "./decode.ts";
import type { MovedState, MovedTcp } from "./model.ts";

const HEADER = 65536;
const TABLE_END = HEADER + 8 + 8 * 24;
const HOST: Machine = { little: true, pointer: 8, time: 8 };
const bytesOf = (hex: string) =>
  Uint8Array.from(hex.match(/\w\w/g) ?? [], (byte) => parseInt(byte, 16));
const join = (chunks: readonly Uint8Array[]) => {
  const all = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  chunks.reduce((at, chunk) => (all.set(chunk, at), at + chunk.length), 0);
  return all;
};

function refused(bytes: Uint8Array, number: number, words: string): StateError {
  const error = assertThrows(() => decode(bytes), StateError, words);
  assertEquals(error.number, number, error.message);
  return error;
}

/** The sample's sections, some of them other than they are. */
function changed(
  changes: Record<number, Partial<RawSection> | undefined>,
  more: readonly RawSection[] = [],
): Uint8Array {
  const sections = sectionsOf(HOST, sampleState())
    .flatMap((section) => {
      if (!(section.type in changes)) return [section];
      const change = changes[section.type];
      return change === undefined ? [] : [{ ...section, ...change }];
    });
  return layStream(HOST, [...sections, ...more]);
}

/** A section of the sample with other bytes somewhere. */
function patched(type: number, at: number, bytes: readonly number[]): Uint8Array {
  const section = sectionsOf(HOST, sampleState()).find((section) =>
    section.type === type
  );
  assert(section !== undefined);
  const copy = [...section.bytes];
  copy.splice(at, bytes.length, ...bytes);
  return changed({ [type]: { bytes: copy } });
}

Deno.test("the header of a 64-bit little-endian source", () => {
  const [header] = encodeVuelo(sampleState(), 1);
  assertEquals(header.length, HEADER);
  assertEquals(
    header.subarray(0, 32),
    bytesOf(
      "b0d1b10b1b1dbbb1 00000001 00000008 00000008 00000080 00000004 00000000",
    ),
  );
  assert(header.subarray(28).every((byte) => byte === 0));
});

Deno.test("version 1 is the header alone, of any source", () => {
  for (const machine of MACHINES) {
    const bytes = Uint8Array.from(layHeader(machine, 1));
    const { format, source, state, sections } = decode(bytes);
    assertEquals([format, source.version, state, sections], ["vuelo", 1, undefined, []]);
    assertEquals(source.littleEndian, machine.little);
    assertEquals([source.pointerSize, source.timeSize], [machine.pointer, machine.time]);
    assertEquals(neededBytes(bytes.subarray(0, 28)), HEADER);
  }
  assertEquals(encodeVuelo(sampleState(), 1).length, 1);
  const longer = Uint8Array.from([...layHeader(HOST, 1), 0]);
  refused(longer, 22, "end of the stream at byte 65536: expected nothing more");
  refused(longer.subarray(0, HEADER - 1), 61, "header at byte 65535");
});

Deno.test("the header is judged: magic, version, sizes, in this order", () => {
  const header = (version: number, ...sizes: number[]) =>
    Uint8Array.from(layHeader(HOST, version, sizes));
  const garbage = header(99, 1, 1, 1, 1);
  garbage[0] = 0;
  refused(garbage, 95, "magic at byte 0: expected b1bb1d1b0bb1d1b0");
  for (const version of [0, 3, 0x01000000, 0xffffffff]) {
    refused(header(version, 0, 0, 0, 0), 95, `version at byte 8: expected 1 or 2, came`);
  }
  for (const pointer of [0, 5, 16, 0x08000000]) {
    refused(header(1, pointer, 8, 128, 4), 95, "size of a pointer at byte 12");
  }
  refused(header(1, 8, 2, 128, 4), 95, "size of a time at byte 16: expected 4 or 8");
  refused(header(1, 8, 8, 120, 4), 95, "size of a flow entry at byte 20: expected 128");
  refused(header(1, 8, 8, 128, 8), 95, "size of a hash entry at byte 24: expected 4");
  for (let length = 0; length < HEADER; length = length < 40 ? length + 1 : length * 2) {
    refused(header(1, 8, 8, 128, 4).subarray(0, length), 61, "the end of the stream");
  }
});

Deno.test("the rest of the header is not looked at, but told", () => {
  const bytes = writeState(HOST, sampleState());
  assertEquals(decode(bytes).source.reservedUsed, false);
  bytes[65535] = 1;
  assertEquals(decode(bytes).source.reservedUsed, true);
});

Deno.test("how much is needed is known from the table on", () => {
  const bytes = writeState(HOST, sampleState());
  assertEquals(neededBytes(bytes.subarray(0, 0)), 28);
  assertEquals(neededBytes(bytes.subarray(0, 27)), 28);
  assertEquals(neededBytes(bytes.subarray(0, 28)), HEADER + 8);
  assertEquals(neededBytes(bytes.subarray(0, HEADER + 8)), TABLE_END);
  assertEquals(neededBytes(bytes.subarray(0, TABLE_END)), bytes.length);
  bytes[HEADER + 9] ^= 1;
  assertThrows(() => neededBytes(bytes.subarray(0, TABLE_END)), StateError, "CRC32C");
});

Deno.test("sections: unknown ones, missing ones, twice, out of order", () => {
  const unknown = { type: 4711, bytes: [1, 2, 3] };
  const { state, sections } = decode(changed({}, [{ ...unknown, flags: 1 }]));
  assertEquals(state?.tcp, sampleState().tcp);
  assertEquals([sections[8].type, sections[8].name, sections[8].intact], [
    4711,
    undefined,
    true,
  ]);
  refused(changed({}, [unknown]), 95, "came type 4711, which may not be skipped");
  refused(changed({}, [{ ...unknown, flags: 3 }]), 22, "entry 8: flags");
  // The hash alone may be missing.
  assertEquals(decode(changed({ 3: undefined })).state?.entries, sampleState().entries);
  refused(changed({ 4: undefined }), 22, 'expected a section "TCP connections"');
  refused(layStream(HOST, []), 22, 'expected a section "device", came none');
  refused(changed({}, [{ type: 8, bytes: [] }]), 22, "entry 8: type");
  refused(changed({}, [{ type: 1, bytes: [], flags: 1 }]), 22, "types that ascend");
});

Deno.test("sections: lengths and checksums", () => {
  refused(changed({ 5: { crc: 1 } }), 22, "expected a CRC32C of 00000001");
  refused(changed({ 2: { length: 2 ** 40 } }), 22, "length of flow table");
  refused(changed({ 4: { length: 105 } }), 22, "a multiple of 104");
  refused(changed({ 5: { length: 2 ** 60 } }), 22, "entry 4: length");
  refused(changed({ 1: { bytes: [] } }), 22, "length of device");
  refused(changed({ 5: { bytes: [1] } }), 22, "length of TCP queues");
  refused(changed({ 8: { length: 180 } }), 61, "forwarding rules");
  const bytes = writeState(HOST, sampleState());
  refused(Uint8Array.from([...bytes, 0]), 22, "end of the stream");
  const huge = Uint8Array.from(
    layHeader(HOST, 2).concat([0xff, 0xff, 0xff, 0xff], [
      0,
      0,
      0,
      0,
    ]),
  );
  refused(huge, 22, "section table: count");
});

Deno.test("flow entries that cannot be", () => {
  const word = (flow: number, number: number, ...bytes: number[]) =>
    patched(2, flow * 128 + number * 4, bytes);
  refused(word(0, 0, 0), 22, "flow 0: kind");
  refused(word(1, 0, 5), 22, "flow 1: kind");
  refused(word(0, 0, 1, 5), 22, "flow 0: state");
  refused(word(2, 0, 2, 1), 22, "flow 2: state");
  refused(word(0, 19, 3, 0, 0, 0), 22, "flow 0: descriptor");
  refused(word(0, 27, 15), 22, "flow 0: window scale of the guest");
  refused(word(0, 27, 7, 15), 22, "flow 0: window scale to the guest");
  refused(word(0, 28, 0, 0, 0, 0), 22, "flow 0: MSS");
  refused(word(0, 21, 0, 0, 0, 0x70), 22, "flow 0: bytes under way");
  refused(word(0, 20, 0xff, 0xff), 22, "flow 0: next byte to the guest");
  refused(word(0, 24, 0, 0, 0, 0x70), 22, "flow 0: bytes taken");
  refused(word(0, 0, 1, 4, 2, 0), 22, "flow 0: flags");
  refused(word(0, 2, 0xfe, 0x80), 22, "flow 0: guest side, addresses");
  refused(word(0, 15, ...Array(16).fill(0)), 22, "flow 0: host side, endpoint");
  refused(word(0, 10, 0, 0), 22, "flow 0: port of the peer");
  const [four, six] = ["192.0.2.1", "2001:db8::1"].map((a) => [...address(a)]);
  refused(word(0, 2, ...six, ...six), 22, "flow 0: guest side, family");
  refused(word(1, 11, ...four, ...four), 22, "flow 1: guest side, family");
  refused(word(2, 2, ...Array(16).fill(0), ...six), 22, "flow 2: guest side, family");
  refused(word(3, 0, 4), 22, "flow 3: kind");
  refused(word(3, 2, ...six, ...six, 0, 0, 0, 0, ...six, ...six), 22, "flow 3: kind");
  refused(word(2, 20, 0, 1), 22, "flow 2: TTL");
  refused(word(2, 21, 65), 22, "flow 2: hint");
  refused(word(2, 22, 0, 0, 8), 22, "flow 2: listener");
  refused(word(3, 21, 6), 22, "flow 3: path MTU discovery");
  const error = refused(word(1, 14, 1), 22, "flow hash, flow 1: host side");
  assertEquals(error.offset, TABLE_END + 120 + 4 * 128 + 12);
  const twice = entriesOf([0, 1].map(() => ({
    kind: 3,
    guest: ["192.0.2.9", "10.98.0.1", 77] as const,
    host: ["0.0.0.0", "192.0.2.9", 0] as const,
    own: [64, 2],
  })));
  const state = { ...sampleState(), entries: twice, tcp: [], udp: [] };
  refused(writeState(HOST, state), 22, "flow 1: guest side");
});

Deno.test("records that cannot be", () => {
  const tcp = (at: number, ...bytes: number[]) => patched(4, at, bytes);
  refused(tcp(0, 4), 22, "TCP connection 0: flow at byte");
  refused(tcp(0, 2), 22, "came flow 2 of kind 2");
  refused(tcp(0, 1), 22, "TCP connection 1: flow");
  refused(tcp(4, 6), 22, "TCP connection 0: state");
  refused(tcp(6, 15), 22, "window scale of the peer");
  refused(tcp(7, 15), 22, "TCP connection 0: window scale");
  refused(tcp(16, 1, 0, 0, 4), 22, "send queue's length");
  refused(tcp(20, 13), 22, "bytes not sent");
  refused(tcp(24, 1, 0, 0, 4), 22, "receive queue's length");
  refused(tcp(28, 0, 0), 22, "MSS");
  refused(tcp(40, 0, 0, 0, 0x41), 22, "snd_wnd");
  refused(tcp(68, 2), 22, "gap");
  refused(tcp(80, ...Array(16).fill(97)), 22, "interface");
  refused(tcp(80, 47), 22, "interface");
  refused(tcp(103, 0x80), 22, "idle time");
  refused(tcp(104 + 4, 0), 22, "send queue's length");
  refused(patched(6, 0, [3]), 22, "UDP flow 0: flow");
  refused(patched(7, 0, [2]), 22, "ping flow 0: flow");
  refused(patched(6, 15, [0x40]), 22, "a time below 2^53");
  refused(changed({ 7: { bytes: [] } }), 22, "flow 3 at byte");
  const rule = (at: number, ...bytes: number[]) => patched(8, at, bytes);
  refused(rule(0, 7), 22, "rule 0: protocol");
  refused(rule(1, 16), 22, "rule 0: bits");
  refused(rule(4, 0, 0), 22, "rule 0: first port");
  refused(rule(6, 1, 0), 22, "rule 0: last port");
  refused(rule(60 + 8, 0xff, 0xff), 22, "rule 1: port of the guest");
  refused(rule(60 + 12, 1), 22, "rule 1: addresses");
  refused(rule(60 + 44, 0), 22, "rule 1: interface");
  refused(patched(1, 12, [1]), 22, "device: IPv4 address seen");
  refused(patched(1, 44, [0x20]), 22, "device: link-local address seen");
  refused(patched(1, 92, [33]), 22, "device: IPv4 prefix length");
  refused(patched(1, 98, [1]), 22, "device: MTU");
});

/** The only record of a state with one connection, as it is read. */
function only(record: MovedTcp, kind: number, own?: number[]): MovedTcp {
  const entries = entriesOf([{
    kind,
    guest: ["10.98.0.3", "10.98.0.1", 7000 << 16 | 40000],
    host: ["10.98.0.1", "10.98.0.3", 56706 << 16 | 7000],
    own: own ?? [1013, 1013, 1001, 7, 7, 0, 0, 0, 1460, 0],
  }]);
  const state: MovedState = {
    ...sampleState(),
    entries,
    tcp: [record],
    udp: [],
    ping: [],
  };
  const read = decode(join(encodeVuelo(state))).state?.tcp[0];
  assert(read !== undefined);
  return read;
}

Deno.test("a connection whose queue lacks what was sent is lost alone", () => {
  const established = 1 | 4 << 8;
  const held = (length: number) => tcpSample(0, { receiveQueue: new Uint8Array(length) });
  assertEquals(only(held(12), established).lost, "");
  assertEquals(
    only(held(11), established).lost,
    "12 bytes under way to the guest, but 11 in its queue",
  );
  // One of the twelve is the peer's FIN.
  assertEquals(only(held(11), established | 1 << 27 | 1 << 17).lost, "");
  assertEquals(only(tcpSample(0), 1 | 1 << 8).lost, "it was not connected yet");
  assertEquals(only(tcpSample(0), 1 | 3 << 8).lost, "");
});

Deno.test("why a connection is lost travels, in one line and not long", () => {
  const kind = 1 | 4 << 8;
  assertEquals(
    only(lostSample(0, "no memory: ENOMEM"), kind),
    lostSample(0, "no memory: ENOMEM"),
  );
  assertEquals(only(lostSample(0, "a\n\x1b[31mb"), kind).lost, "a??[31mb");
  const long = only(lostSample(0, "ä".repeat(200)), kind).lost;
  assertEquals(long, "ä".repeat(127));
});

Deno.test("bytes of an idle connection: 240, and those of its queues beside", () => {
  const size = (state: MovedState) =>
    encodeVuelo(state).reduce((sum, chunk) => sum + chunk.length, 0);
  const state = sampleState();
  const [one, two] = [1, 2].map((count) =>
    size({
      ...state,
      entries: state.entries.slice(0, 32 * count),
      tcp: Array.from({ length: count }, (_, flow) => tcpSample(flow)),
      udp: [],
      ping: [],
    })
  );
  assertEquals(two - one, 240);
});

Deno.test("large queues are not copied, small ones are gathered", () => {
  const large = new Uint8Array(1 << 20).fill(7);
  const records = Array.from({ length: 1000 }, (_, flow) =>
    tcpSample(flow, {
      sendQueue: flow === 500 ? large : Uint8Array.of(flow),
      receiveQueue: Uint8Array.of(flow >> 8),
    }));
  const entries = entriesOf(records.map((_, i) => ({
    kind: 1 | 4 << 8,
    guest: ["10.98.0.3", "10.98.0.1", 7000 << 16 | i + 1],
    host: ["10.98.0.1", "10.98.0.3", 7000],
    own: [1, 1, 1, 1, 1, 1, 0, 0, 1460, 0],
  })));
  const state = { ...sampleState(), entries, tcp: records, udp: [], ping: [], rules: [] };
  const chunks = encodeVuelo(state);
  assert(chunks.includes(large));
  assert(chunks.length < 12, `${chunks.length} chunks`);
  assertEquals(decode(join(chunks)).state?.tcp, records);
});

Deno.test("an empty state: nothing but a device", () => {
  const state: MovedState = {
    ...sampleState(),
    entries: new Int32Array(),
    tcp: [],
    udp: [],
    ping: [],
    rules: [],
  };
  assertEquals(decode(join(encodeVuelo(state))).state, state);
  assertEquals(laySections(sectionsOf(HOST, state)).length, 8 + 8 * 24 + 120);
});
