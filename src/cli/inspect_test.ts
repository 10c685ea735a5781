import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { lostSample, sampleState } from "../../tests/support/state_samples.ts";
import { MACHINES, sectionsOf, writeState } from "../../tests/support/state_writer.ts";
import { StartError, UsageError } from "../errors.ts";
import { encodePasst } from "../wire/state/decode.ts";
import { formatReport, inspectCommand } from "./inspect.ts";
import { inspect } from "./inspect_report.ts";

const BIG = MACHINES.find(({ little, time }) => !little && time === 4) ?? MACHINES[0];
const passt = () =>
  Uint8Array.from(encodePasst(sampleState()).chunks.flatMap((chunk) => [...chunk]));
/** Where a section starts in the sample's stream. */
const offsetOf = (type: number) =>
  sectionsOf(BIG, sampleState())
    .filter((section) => section.type < type)
    .reduce((sum, { bytes }) => sum + bytes.length, 65536 + 8 + 8 * 24);

Deno.test("inspect tells source, sections, guest, connections, flows and rules", () => {
  const report = inspect(writeState(BIG, sampleState()));
  assertEquals(report.damage, []);
  assertEquals(report.source?.littleEndian, false);
  assertEquals(report.sections.map(({ crc }) => crc), Array(8).fill("ok"));
  assertEquals(report.device?.mac, "52:54:00:12:34:56");
  const [one, two] = report.connections;
  assertEquals(one, {
    flow: 0,
    openedBy: "guest",
    guest: "10.98.0.1:40000",
    guestPeer: "10.98.0.3:7000",
    local: "10.98.0.1:56706",
    peer: "10.98.0.3:7000",
    state: "ESTABLISHED",
    guestState: "ESTABLISHED",
    sendQueue: 12,
    notSent: 4,
    receiveQueue: 12,
    underWay: 12,
    peerWindow: 65536,
    ourWindow: 64512,
    guestWindow: 256 << 7,
    windowToGuest: 256 << 8,
    lost: "",
  });
  assertEquals([two.openedBy, two.local], ["peer", "[2001:db8::1]:2222"]);
  assertEquals(report.flows.map(({ kind, idle }) => [kind, idle]), [["UDP", 20], [
    "ping",
    0,
  ]]);
  assertEquals(report.rules[1].guestAddress, "10.98.0.1");
  const text = formatReport(report);
  const first = "version 2, big-endian, 32-bit pointers, 32-bit times\n";
  assertStringIncludes(text.split("\n")[0] + "\n", first);
  const row = "0  guest  10.98.0.1:40000  10.98.0.1:56706     10.98.0.3:7000       ESTAB";
  assertStringIncludes(text, row);
  assertStringIncludes(text, "  udp       192.0.2.1  eth0       5000-5010  10.98.0.1");
});

Deno.test("inspect tells why a connection is lost", () => {
  const state = sampleState();
  const moved = { ...state, tcp: [state.tcp[0], lostSample(1, "no memory")] };
  const text = formatReport(inspect(writeState(BIG, moved)));
  assertStringIncludes(text, "  flow 1 is lost: no memory\n");
});

Deno.test("inspect reads passt's streams", () => {
  const report = inspect(passt());
  assertEquals([report.source?.format, report.damage.length], ["passt", 0]);
  assertEquals(
    report.connections.map(({ sendQueue, receiveQueue }) => [
      sendQueue,
      receiveQueue,
    ]),
    [[12, 12], [0, 12]],
  );
  const cut = inspect(passt().subarray(0, 340));
  assertEquals(cut.damage.length, 1);
  assertEquals(cut.damage[0].offset, 340);
  assertEquals(cut.connections[0].lost, "its socket record is missing");
});

Deno.test("inspect says where a stream breaks, and prints the rest", () => {
  const bytes = writeState(BIG, sampleState());
  // The window scale of the second connection's peer.
  const at = offsetOf(4) + 100 + 6;
  bytes[at] = 15;
  const report = inspect(bytes);
  assertEquals(report.damage.map(({ offset }) => offset), [offsetOf(4), at]);
  assertEquals(report.sections.map(({ crc }) => crc).slice(2, 5), [
    "ok",
    "damaged",
    "not read",
  ]);
  assertEquals(report.connections.length, 1);
  const text = formatReport(report);
  assertStringIncludes(
    text,
    `BROKEN at byte ${at}: TCP connection 1: window scale of the peer\n` +
      "  expected  0 to 14\n  came      15\n",
  );
  // A byte of a queue: all else is there.
  const other = writeState(BIG, sampleState());
  other[offsetOf(5)] ^= 1;
  assertEquals(inspect(other).rules.length, 2);
  assertEquals(inspect(other).damage.map(({ offset }) => offset), [offsetOf(5)]);
  const cut = inspect(other.subarray(0, offsetOf(8) + 7));
  assertEquals([cut.flows.length, cut.damage[1].offset], [2, offsetOf(8) + 7]);
});

Deno.test("inspect of anything is a report that can be printed", () => {
  const streams = [passt(), ...MACHINES.map((one) => writeState(one, sampleState()))];
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 8 });
  fc.assert(
    fc.property(
      fc.constantFrom(...streams),
      changes,
      fc.boolean(),
      (stream, list, cut) => {
        const bytes = stream.slice();
        for (const [at, value] of list) {
          // Where it matters: the first bytes, and what follows the header.
          const used = 32 + Math.max(0, bytes.length - 65536);
          const place = at % used;
          bytes[place < 32 ? place : bytes.length - used + place] = value;
        }
        const end = cut
          ? bytes.length - (list[0]?.[0] ?? 0) % bytes.length
          : bytes.length;
        const text = formatReport(inspect(bytes.subarray(0, end)));
        // Nothing that a terminal would obey.
        // deno-lint-ignore no-control-regex
        assert(!/[\x00-\x09\x0b-\x1f\x7f-\x9f]/.test(text));
      },
    ),
    { numRuns: 500 },
  );
});

Deno.test("inspect: wrong usage, and files that cannot be read", () => {
  for (const args of [[], ["a", "b"], ["--jsn", "a"]]) {
    assertThrows(() => inspectCommand(args), UsageError);
  }
  assertThrows(() => inspectCommand(["/nonexistent"]), StartError, "/nonexistent");
});
