import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  entriesOf,
  type EntrySample,
  lostSample,
  sampleState,
  tcpSample,
} from "../../../tests/support/state_samples.ts";
import { type Field, lay, NETWORK } from "../../../tests/support/state_writer.ts";
import { formatAddress, formatMac } from "../address.ts";
import { decode, encodePasst, neededBytes, StateError } from "./decode.ts";
import { FlowWord } from "./flow_entry.ts";
import type { MovedState, MovedTcp } from "./model.ts";
import { TcpFlow, TcpState, TcpWord } from "./tcp_entry.ts";

const hex = (text: string) =>
  Uint8Array.from(
    text.replace(/\s/g, "").match(/../g) ?? [],
    (byte) => parseInt(byte, 16),
  );

/** Written by passt 2026_10_02 on x86-64: one connection, opened by the guest. */
const CAPTURED = hex(`
  b1bb1d1b0bb1d1b0 00000002 00000002
  fd980000000000000000000000000001
  00000000000000000000000000000000
  0a620001 525400123456
  00000001
  02 01
  00000000000000000000ffff0a620003
  00000000000000000000ffff0a620001
  581b 409c
  00000000000000000000ffff0a620001
  00000000000000000000ffff0a620003
  82dd 581b
  00 07 08 04
  000005b4 0000010e
  11 00 ffff 0100
  6b86b283 6b86b277 000003ef 000003ef 000003e8
  9b2ae4b8 fadcea50 00000000 00000000 0000000c
  000005b4 e4f0e004
  fadcea50 00010000 00010000 0000fc00 fadcea5c
  0a 0a 01 07
  756e61636b65642d64617461`);

const text = (words: string) => new TextEncoder().encode(words);
const join = (chunks: readonly Uint8Array[]) =>
  Uint8Array.from(chunks.flatMap((chunk) => [...chunk]));

function read(bytes: Uint8Array): MovedState {
  const { format, state } = decode(bytes);
  assertEquals(format, "passt");
  assert(state !== undefined);
  return state;
}

function refused(bytes: Uint8Array, number: number, words: string): void {
  const error = assertThrows(() => decode(bytes), StateError, words);
  assertEquals(error.number, number, error.message);
}

function patched(at: number, ...bytes: number[]): Uint8Array {
  const copy = CAPTURED.slice();
  copy.set(bytes, at);
  return copy;
}

const FLOW_AT = 62;
const SOCKET_AT = 174;

Deno.test("a stream of passt: device, entry and socket", () => {
  assertEquals(CAPTURED.length, 238);
  const { device, entries, tcp, udp, ping, rules } = read(CAPTURED);
  assertEquals(formatMac(device.mac), "52:54:00:12:34:56");
  assertEquals(formatAddress(device.address4), "10.98.0.1");
  assertEquals(formatAddress(device.address6), "fd98::1");
  assertEquals([udp, ping, rules], [[], [], []]);
  assertEquals(entries.length, 32);
  const bytes = new Uint8Array(entries.buffer);
  const at = (word: number) => formatAddress(bytes, word * 4);
  assertEquals(at(FlowWord.guestOur), "10.98.0.3");
  assertEquals(at(FlowWord.guestEndpoint), "10.98.0.1");
  assertEquals(at(FlowWord.hostOur), "10.98.0.1");
  assertEquals(at(FlowWord.hostEndpoint), "10.98.0.3");
  assertEquals(entries[FlowWord.guestPorts], 7000 << 16 | 40000);
  assertEquals(entries[FlowWord.hostPorts] >>> 0, (56706 << 16 | 7000) >>> 0);
  assertEquals(entries[FlowWord.kind], 1 | TcpState.established << 8 | TcpFlow.readable);
  assertEquals(entries[TcpWord.seqToGuest], 0x6b86b283);
  assertEquals(entries[TcpWord.seqMax], 0x6b86b283);
  assertEquals(entries[TcpWord.ackFromGuest], 0x6b86b277);
  assertEquals(entries[TcpWord.seqFromGuest], 0x3ef);
  assertEquals(entries[TcpWord.ackToGuest], 0x3ef);
  assertEquals(entries[TcpWord.isnFromGuest], 0x3e8);
  assertEquals(entries[TcpWord.windows], 0x0100ffff);
  assertEquals(entries[TcpWord.counts], 0x0807);
  assertEquals(entries[TcpWord.mss], 1460);
  assertEquals(
    tcp[0],
    tcpSample(0, {
      sendScale: 10,
      idle: 0,
      gapEnd: 0x3ef,
      recover: 0x6b86b283,
      receiveQueue: text("unacked-data"),
      sendsOn: true,
    }),
  );
});

Deno.test("the same stream, written by vuelo", () => {
  const { chunks, carried, left } = encodePasst(read(CAPTURED));
  const written = join(chunks);
  assertEquals([written.length, carried, left.length], [238, 1, 0]);
  const differs = Array.from(written.keys()).filter((i) => written[i] !== CAPTURED[i]);
  // Send buffer, "stalled", a duplicate acknowledgement that never was, vuelo's mark.
  assertEquals(differs, [147, 148, 149, 225]);
  assertEquals([written[148], written[225]], [0x10, 0xa7]);
  const captured = read(CAPTURED);
  const tcp = captured.tcp.map(({ sendsOn: _, ...record }) => record);
  assertEquals(read(written), { ...captured, tcp });
});

Deno.test("versions of passt's stream", () => {
  const version = (version: number, compat: number) =>
    patched(8, ...lay(NETWORK, [[4, version], [4, compat]]));
  for (const pair of [[2, 2], [3, 2], [3, 1], [9, 2]]) {
    assertEquals(read(version(pair[0], pair[1])).tcp.length, 1);
    assertEquals(neededBytes(version(pair[0], pair[1]).subarray(0, 66)), 226);
  }
  refused(version(1, 1), 95, "passt's version at byte 8: expected 2 or higher, came 1");
  refused(version(3, 3), 95, "at byte 12: expected 2 at most, came 3");
  refused(version(0, 0), 95, "version");
  refused(version(2, 0), 22, "oldest version");
  refused(version(2, 3), 95, "size of a pointer");
  assertThrows(() => neededBytes(version(3, 3).subarray(0, 16)), StateError);
});

Deno.test("a stream of passt that is cut or goes on", () => {
  for (let length = 0; length < CAPTURED.length; length++) {
    refused(CAPTURED.subarray(0, length), 61, `at byte ${length}`);
  }
  refused(join([CAPTURED, Uint8Array.of(0)]), 22, "end of the stream at byte 238");
  // More flows than there can be, or than there are.
  refused(patched(58, 0xff), 22, "count of flows");
  refused(patched(61, 2), 22, "flow record 1 of 2: interfaces at byte 174");
});

Deno.test("fields of passt's stream that cannot be", () => {
  refused(patched(FLOW_AT, 0), 22, "interfaces");
  refused(patched(FLOW_AT, 3), 22, "interfaces");
  refused(patched(FLOW_AT + 75, 15), 22, "window scale of the guest");
  refused(patched(FLOW_AT + 78, 1), 22, "flow 0: MSS");
  refused(patched(FLOW_AT + 96, 0), 22, "flow 0: bytes under way");
  refused(patched(FLOW_AT + 12, 0), 22, "flow 0: guest side");
  refused(patched(SOCKET_AT + 8, 4, 0, 0, 1), 22, "send queue's length");
  refused(patched(SOCKET_AT + 15, 1), 22, "bytes not sent at byte 186");
  refused(patched(SOCKET_AT + 16, 4, 0, 0, 1), 22, "receive queue's length");
  refused(patched(SOCKET_AT + 16, 4, 0, 0, 0), 61, "more bytes");
  refused(patched(SOCKET_AT + 48, 15), 22, "window scale of the peer");
});

Deno.test("connections of passt's stream that cannot be moved", () => {
  const lost = (bytes: Uint8Array) => read(bytes).tcp[0].lost;
  const skipped = CAPTURED.slice(0, 226);
  skipped.fill(0xee, SOCKET_AT);
  skipped[SOCKET_AT + 50] = 0;
  assertEquals(lost(skipped), "the source could not save it");
  assertEquals(lost(patched(SOCKET_AT + 50, 6)), "its socket was in state 6");
  assertEquals(lost(patched(SOCKET_AT + 50, 7)), "its socket was in state 7");
  assertEquals(lost(patched(FLOW_AT + 77, 1)), "it was not established");
  assertEquals(
    lost(patched(FLOW_AT + 99, 0x76)),
    "13 bytes under way to the guest, but 12 in its queue",
  );
});

/** What differs between the flows of one of passt's streams. */
interface Sample {
  readonly inbound?: boolean;
  readonly events: number;
  readonly flags?: number;
  readonly toGuest?: readonly [next: number, acknowledged: number];
  readonly fromGuest?: readonly [next: number, acknowledged: number, initial: number];
  readonly window?: number;
  readonly sequences?: readonly [send: number, receive: number];
  readonly sendQueue?: string;
  readonly notSent?: number;
  readonly receiveQueue?: string;
  readonly rcv?: readonly [window: number, update: number];
  readonly state: number;
}

/** As passt lays it, on a little-endian host. */
function stream(sample: Sample): Uint8Array {
  const [next, acknowledged] = sample.toGuest ?? [1000, 1000];
  const [expected, told, initial] = sample.fromGuest ?? [500, 500, 100];
  const [send, receive] = sample.sequences ?? [7000, 9000];
  const [rcvWnd, rcvWup] = sample.rcv ?? [60000, 9000];
  const sendQueue = text(sample.sendQueue ?? "");
  const receiveQueue = text(sample.receiveQueue ?? "");
  const sides: Field[] = [
    CAPTURED.slice(FLOW_AT + 2, FLOW_AT + 38),
    CAPTURED.slice(FLOW_AT + 38, FLOW_AT + 74),
  ];
  return Uint8Array.from(lay(NETWORK, [
    CAPTURED.slice(0, 62),
    Uint8Array.from(sample.inbound ? [1, 2] : [2, 1]),
    ...sample.inbound ? sides.reverse() : sides,
    Uint8Array.of(0, 7, 8, sample.events),
    [4, 1460],
    [4, 270],
    Uint8Array.of(sample.flags ?? 0, 0),
    [2, sample.window ?? 64],
    [2, 256],
    [4, next],
    [4, acknowledged],
    [4, expected],
    [4, told],
    [4, initial],
    [4, send],
    [4, receive],
    [4, sendQueue.length],
    [4, sample.notSent ?? 0],
    [4, receiveQueue.length],
    [4, 1460],
    [4, 0],
    [4, 8000],
    [4, 65536],
    [4, 65536],
    [4, rcvWnd],
    [4, rcvWup],
    Uint8Array.of(7, 10, sample.state, 7),
    sendQueue,
    receiveQueue,
  ]));
}

const flagsIn = (state: MovedState) => state.entries[0] & ~0xffff & ~TcpFlow.readable;
const GUEST_FIN = 0x04 | 0x20 | 0x10;

Deno.test("passt: the number of the send queue is put right while a FIN is out (D3)", () => {
  const outcome = (state: number, events: number, sendQueue = "", notSent = 0) => {
    const moved = read(stream({ state, events, sendQueue, notSent }));
    assertEquals(moved.tcp[0].lost, "");
    return [moved.tcp[0].state, moved.tcp[0].sendSequence, flagsIn(moved)];
  };
  const { guestFin, peerFin } = TcpFlow;
  assertEquals(outcome(1, 0x04), [1, 7000, 0]);
  assertEquals(outcome(4, GUEST_FIN, "unsent", 6), [4, 6999, guestFin]);
  assertEquals(outcome(5, GUEST_FIN), [5, 7000, guestFin]);
  assertEquals(outcome(9, GUEST_FIN | 0x08), [9, 6999, guestFin | peerFin]);
  assertEquals(outcome(11, GUEST_FIN | 0x08), [11, 6999, guestFin | peerFin]);
  assertEquals(outcome(7, GUEST_FIN | 0x08), [7, 7000, guestFin | peerFin]);
  // The guest's FIN came, and was not passed on yet.
  assertEquals(outcome(1, 0x24, "data"), [4, 7000, guestFin]);
  assertEquals(outcome(8, 0x2c), [9, 7000, guestFin | peerFin]);
});

Deno.test("passt: numbers and windows after the peer's FIN", () => {
  // The FIN is 9000 in the peer's numbers; passt counts it, and adds it to the window.
  const idle = { sequences: [7000, 9001], rcv: [60001, 9000] } as const;
  const closeWait = read(stream({ state: 8, events: 0x0c | 0x40, ...idle }));
  const [record] = closeWait.tcp;
  assertEquals(
    [record.lost, record.receiveSequence, record.rcvWnd, record.rcvWup],
    ["", 9000, 60000, 9001],
  );
  // All that was sent to the guest is acknowledged, so its FIN is.
  const { peerFin, finToGuest, finSent, finToGuestAcked } = TcpFlow;
  assertEquals(flagsIn(closeWait), peerFin | finToGuest | finSent | finToGuestAcked);
  const closing = read(stream({ state: 11, events: GUEST_FIN | 8, ...idle })).tcp[0];
  assertEquals(
    [closing.receiveSequence, closing.rcvWnd, closing.rcvWup],
    [9000, 60001, 9000],
  );
});

Deno.test("passt: a byte that it left out before the peer's FIN is noticed (D2)", () => {
  const outcome = (events: number, receiveQueue: string, unacked = 0, window = 64) =>
    read(stream({
      state: 8,
      events,
      receiveQueue,
      window,
      toGuest: [1000 + unacked, 1000],
      sequences: [7000, 9002],
    })).tcp[0];
  const missing = "passt left out the last byte before the peer's FIN";
  // Nine of ten bytes came, none of them sent to the guest yet.
  assertEquals(outcome(0x0c, "ten bytes").lost, missing);
  // Sent with the FIN: the FIN tells how many there are.
  assertEquals(outcome(0x4c, "ten bytes", 11).lost, missing);
  const whole = outcome(0x4c, "ten bytes.", 11);
  assertEquals([whole.lost, whole.receiveSequence], ["", 9001]);
  // None came: there was none, unless one was sent, or could not be.
  assertEquals(outcome(0x0c, "").lost, "");
  assertEquals(outcome(0x0c, "", 1).lost, missing);
  assertEquals(outcome(0x0c, "", 0, 0).lost, missing);
});

Deno.test("passt: who opened a connection, and what is owed", () => {
  const moved = read(
    stream({ state: 1, events: 4, inbound: true, flags: 8, receiveQueue: "x" }),
  );
  assertEquals(flagsIn(moved), TcpFlow.inbound | TcpFlow.ackDue);
  // passt keeps the number after an inbound SYN, vuelo that of the SYN.
  assertEquals(moved.entries[TcpWord.isnFromGuest], 99);
  assertEquals(moved.entries[FlowWord.guestPorts], 7000 << 16 | 40000);
  // Behind what the guest has acknowledged after going back: not below it.
  const back = read(stream({ state: 1, events: 4, toGuest: [900, 1000] }));
  assertEquals(back.entries[TcpWord.seqToGuest], 1000);
});

const ESTABLISHED = 1 | TcpState.established << 8;

function entrySample(changes: Partial<EntrySample> = {}): EntrySample {
  return {
    kind: ESTABLISHED,
    guest: ["10.98.0.3", "10.98.0.1", 7000 << 16 | 40000],
    host: ["10.98.0.1", "10.98.0.3", 56706 << 16 | 7000],
    own: [1000, 1000, 1000, 500, 500, 100, 256 << 16 | 64, 0x0807, 1460, 0],
    ...changes,
  };
}

function stateOf(record: MovedTcp, entry = entrySample()): MovedState {
  return { ...sampleState(), entries: entriesOf([entry]), tcp: [record] };
}

/** The socket record that vuelo writes. */
function written(record: Partial<MovedTcp>, flags: number): number[] {
  const moved = stateOf(
    tcpSample(0, { sendSequence: 7000, receiveSequence: 9000, ...record }),
    entrySample({ kind: ESTABLISHED | flags }),
  );
  const { chunks, left } = encodePasst(moved);
  assertEquals(left, []);
  const bytes = join(chunks);
  const view = new DataView(bytes.buffer, SOCKET_AT);
  const back = read(bytes).tcp[0];
  for (const field of ["sendSequence", "receiveSequence", "rcvWnd", "rcvWup"] as const) {
    assertEquals(back[field], moved.tcp[0][field], field);
  }
  assertEquals(back.lost, "");
  const state = record.state === 11 ? 9 : record.state;
  assertEquals(back.state, state);
  return [bytes[FLOW_AT + 77], view.getUint8(50), view.getUint32(0), view.getUint32(4)];
}

Deno.test("passt is told numbers and states that it restores rightly", () => {
  const { guestFin, peerFin, finToGuest, finSent, finToGuestAcked } = TcpFlow;
  assertEquals(written({ state: 1 }, 0), [0x04, 1, 7000, 9000]);
  assertEquals(written({ state: 4 }, guestFin), [GUEST_FIN, 4, 7000, 9000]);
  // It counts its FIN itself, so the number is that of the FIN.
  assertEquals(written({ state: 5 }, guestFin), [GUEST_FIN, 5, 6999, 9000]);
  const closed = peerFin | finToGuest | finSent | finToGuestAcked;
  assertEquals(written({ state: 8 }, closed), [0xcc, 8, 7000, 9001]);
  // It sends a FIN again in FIN-WAIT-1 only.
  assertEquals(written({ state: 9 }, closed | guestFin), [0xfc, 4, 7000, 9001]);
  assertEquals(written({ state: 11 }, peerFin | guestFin), [0x3c, 4, 7000, 9001]);
  assertEquals(written({ state: 7 }, peerFin | guestFin), [0x3c, 5, 6999, 9001]);
});

Deno.test("queues go to passt whole", () => {
  const queues = {
    state: 8,
    sendQueue: text("to the peer"),
    notSent: 4,
    receiveQueue: text("to the guest"),
  };
  const moved = stateOf(
    tcpSample(0, queues),
    entrySample({ kind: ESTABLISHED | 1 << 16 }),
  );
  const back = read(join(encodePasst(moved).chunks));
  const { lost, sendQueue, receiveQueue, notSent } = back.tcp[0];
  assertEquals([lost, notSent], ["", 4]);
  assertEquals([sendQueue, receiveQueue], [queues.sendQueue, queues.receiveQueue]);
});

Deno.test("what passt's format cannot carry is left out, and told", () => {
  const why = (record: MovedTcp, changes: Partial<EntrySample> = {}) => {
    const { chunks, carried, left } = encodePasst(stateOf(record, entrySample(changes)));
    assertEquals([join(chunks).length, carried, left.length], [62, 0, 1]);
    assertEquals(left[0].flow, 0);
    return left[0].why;
  };
  const record = tcpSample(0);
  assertEquals(why(lostSample(0, "no memory")), "no memory");
  assertEquals(
    why(record, { kind: 1 | TcpState.synSent << 8 }),
    "it is not established towards the guest",
  );
  assertEquals(why(record, { kind: ESTABLISHED | 1 << 25 }), "its socket has failed");
  const own = entrySample().own.with(9, 3);
  const near = ["fe80::1", "fe80::2", 1 << 16 | 7000] as const;
  assertEquals(why(record, { own, host: near }), "its peer has a link-local address");
  assertEquals(
    why(record, { host: ["0.0.0.0", "10.98.0.3", 7000] }),
    "its local address is not known",
  );
  assertEquals(
    why(record, { host: ["fd98::1", "fd98::2", 1 << 16 | 7000] }),
    "it is of another family towards its peer than towards the guest",
  );
});

Deno.test("an MSS is written as passt keeps it: in units of 4", () => {
  const own = entrySample().own.with(8, 1447);
  const bytes = join(
    encodePasst(stateOf(tcpSample(0), entrySample({ own }))).chunks,
  );
  assertEquals(new DataView(bytes.buffer).getUint32(FLOW_AT + 78), 1444);
});
