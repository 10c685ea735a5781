import { assertEquals } from "@std/assert";
import { goldenFrame, goldenView } from "../../tests/golden/wire.ts";
import {
  TCP_CHECKSUM_AT,
  TCP_HEADER_SIZE,
  TCP_SYN_OPTIONS_SIZE,
  tcpAcknowledgement,
  TcpFlag,
  tcpFlags,
  tcpHeaderLength,
  tcpMss,
  TcpOption,
  tcpOption,
  tcpSequence,
  tcpWindow,
  tcpWindowScale,
  writeTcp,
  writeTcpSynOptions,
} from "./tcp.ts";

/** Where TCP starts in a frame of IPv4 without options. */
const TCP_AT = 34;

/** A header with these options, dirty bytes after it. */
function withOptions(hex: string): [DataView, headerLength: number] {
  const options = Uint8Array.fromHex(hex);
  const bytes = new Uint8Array(TCP_HEADER_SIZE + options.length + 64).fill(0xa5);
  bytes.set(options, TCP_HEADER_SIZE);
  return [new DataView(bytes.buffer), TCP_HEADER_SIZE + options.length];
}

Deno.test("tcpHeaderLength() demands the whole header", () => {
  const view = goldenView("tcp4Syn", 3);
  for (let available = 0; available < 40; available++) {
    assertEquals(tcpHeaderLength(view, 3 + TCP_AT, available), -1);
  }
  assertEquals(tcpHeaderLength(view, 3 + TCP_AT, 40), 40);
  view.setUint8(3 + TCP_AT + 12, 0x4f);
  assertEquals(tcpHeaderLength(view, 3 + TCP_AT, 100), -1);
});

Deno.test("fields and options of a Linux SYN", () => {
  // tshark: Seq 0x1bde9f58, Win 64240, MSS 1460, SACK_PERM, WS 1024.
  const view = goldenView("tcp4Syn");
  assertEquals(tcpFlags(view, TCP_AT), TcpFlag.syn);
  assertEquals(tcpSequence(view, TCP_AT), 0x1bde9f58);
  assertEquals(tcpAcknowledgement(view, TCP_AT), 0);
  assertEquals(tcpWindow(view, TCP_AT), 64240);
  assertEquals(tcpMss(view, TCP_AT, 40), 1460);
  assertEquals(tcpWindowScale(view, TCP_AT, 40), 10);
  assertEquals(tcpOption(view, TCP_AT, 40, TcpOption.sackPermitted, 2), 24);
  assertEquals(tcpOption(view, TCP_AT, 40, TcpOption.timestamps, 10), 26);
  assertEquals(tcpMss(view, TCP_AT, 20), -1);
  assertEquals(tcpMss(goldenView("tcp6Syn"), TCP_AT + 20, 40), 1440);
  // A segment with data has but timestamps.
  assertEquals(tcpMss(goldenView("tcp4Data"), TCP_AT, 32), -1);
  assertEquals(tcpWindowScale(goldenView("tcp4Data"), TCP_AT, 32), -1);
});

Deno.test("options that are broken end the search", () => {
  const cases: [hex: string, mss: number][] = [
    ["020405b4", 1460],
    ["01010101020405b4", 1460],
    ["00000000020405b4", -1], // after the end
    ["020005b4", -1], // length 0
    ["0501020405b4", -1], // length 1
    ["020305b4", -1], // wrong for this kind
    ["0803aa01020405b4", 1460], // unknown size of another kind
    ["01010102", -1], // kind without a length
    ["01010204", -1], // longer than the header
    ["fe0602040505020405b40000", 1460], // hidden in an unknown one
  ];
  for (const [hex, mss] of cases) {
    const [view, headerLength] = withOptions(hex);
    assertEquals(tcpMss(view, 0, headerLength), mss, hex);
  }
  const [view, headerLength] = withOptions("0303ff00");
  assertEquals(tcpWindowScale(view, 0, headerLength), 14);
});

Deno.test("writeTcp() writes the header that the kernel wrote", () => {
  const golden = goldenView("tcp4Fin");
  const view = new DataView(new ArrayBuffer(40));
  new Uint8Array(view.buffer).fill(0xa5);
  const flags = TcpFlag.fin | TcpFlag.ack;
  writeTcp(view, 3, 0x8f7a, 7000, 0x1bde9f5d, 0x0f3300a2, 32, flags, 0x003f);
  assertEquals(view.getUint16(3 + TCP_CHECKSUM_AT), 0);
  view.setUint16(3 + TCP_CHECKSUM_AT, golden.getUint16(TCP_AT + TCP_CHECKSUM_AT));
  assertEquals(
    new Uint8Array(view.buffer, 3, TCP_HEADER_SIZE).toHex(),
    goldenFrame("tcp4Fin").slice(TCP_AT, TCP_AT + TCP_HEADER_SIZE).toHex(),
  );
});

Deno.test("writeTcpSynOptions() by RFC 9293, section 3.2, and RFC 7323, section 2.2", () => {
  const view = new DataView(new ArrayBuffer(TCP_HEADER_SIZE + TCP_SYN_OPTIONS_SIZE));
  writeTcpSynOptions(view, 0, 1460, 8);
  const options = new Uint8Array(view.buffer, TCP_HEADER_SIZE);
  assertEquals(options.toHex(), "020405b401030308");
  writeTcpSynOptions(view, 0, 536, -1);
  assertEquals(options.toHex(), "0204021801010101");
});
