/**
 * Streams that passt wrote on x86-64 (of Debian: 2025_05_03 in trixie, 2026_10_02 in sid)
 * while a connection of the guest 10.98.0.1 port 40000 to 10.98.0.3 port 7000 was half
 * closed. What the numbers must be, the peer's socket told at the same time
 * (TCP_QUEUE_SEQ).
 */
import { assert, assertEquals } from "@std/assert";
import { decode } from "./decode.ts";
import type { MovedState } from "./model.ts";
import { TcpFlow, TcpWord } from "./tcp_entry.ts";

interface Capture {
  readonly release: string;
  /** The stream without the queues. */
  readonly records: string;
  /** Of the peer's socket. */
  readonly peer: number;
}

/** The guest sent 16800 bytes and FIN; the peer's kernel has taken 5600, told in `peer`. */
const FIN_WAIT_1: readonly Capture[] = [
  {
    release: "2026_10_02",
    peer: 1619419031,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a620003f081581b00070034000005b40000010e0c000200
      0000f4d642fbf4d642fb0000458a0000458a000003e860865f98f465f6ef00002bc000002bc0
      00000000000005b421c06aecf465f6ef0000000000000b500000fc00f465f6ef000a0407
    `,
  },
  {
    release: "2025_05_03",
    peer: 2113587623,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a6200036ac9581b00070034000005b40000010e04000200
      000042709f2a42709f2a0000458a0000458a000003e87dfac9a81acf7a7000002bc000002bc0
      00000000000005b487dd503e1acf7a700000000000000b500000fc001acf7a70000a0407
    `,
  },
];

/** The guest sent 5 bytes and FIN, and the peer acknowledged both, up to `peer`. */
const FIN_WAIT_2: readonly Capture[] = [
  {
    release: "2026_10_02",
    peer: 1631379790,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a620003fa81581b00070834000005b40000010e04000200
      00a50ec9743f0ec9743f000003ef000003ef000003e8613ce14e6e8fd2d20000000000000000
      00000000000005b4a6703aa46e8fd2d200010000000100000000fc006e8fd2d20a0a0507
    `,
  },
  {
    release: "2025_05_03",
    peer: 737915554,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a62000376c9581b00070834000005b40000010e04000200
      010037f31aea37f31aea000003ef000003ef000003e82bfbb2a274ee85cc0000000000000000
      00000000000005b4e407a95a74ee85cc00010000000100000000fc0074ee85cc0a0a0507
    `,
  },
];

/** The peer sent 11 bytes and FIN, which ends before `peer`; the guest had the bytes. */
const CLOSE_WAIT: readonly Capture[] = [
  {
    release: "2026_10_02",
    peer: 709614721,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a620003fe81581b0007080c000005b40000010e11000200
      0100f1d481c1f1d481b6000003e9000003e9000003e865a18f132a4bdc770000000000000000
      0000000a000005b4df1c71ce2a4bdc8000010000000100000000fc012a4bdc800a0a0807
    `,
  },
  {
    release: "2025_05_03",
    peer: 3016885357,
    records: `
      b1bb1d1b0bb1d1b0000000020000000200000000000000000000000000000000000000000000
      000000000000000000000a62000152540012345600000001020100000000000000000000ffff
      0a62000300000000000000000000ffff0a620001581b409c00000000000000000000ffff0a62
      000100000000000000000000ffff0a6200037a9c581b0007080c000005b40000010e11000200
      fe88bdc265d5bdc265ca000003e9000003e9000003e8406cc05cb3d204630000000000000000
      0000000a000005b456c2dbceb3d2046c00010000000100000000fc01b3d2046c0a0a0807
    `,
  },
];

function read(
  { records }: Capture,
  queue: string,
  change: (bytes: DataView) => void = () => {},
): MovedState {
  const digits = records.replace(/\s/g, "").match(/../g) ?? [];
  const start = digits.map((digits) => parseInt(digits, 16));
  const bytes = Uint8Array.from([...start, ...new TextEncoder().encode(queue)]);
  change(new DataView(bytes.buffer));
  const { state } = decode(bytes);
  assert(state !== undefined);
  return state;
}

for (const capture of FIN_WAIT_1) {
  Deno.test(`passt ${capture.release}: half-closed by the guest, data not sent`, () => {
    const { tcp: [record], entries } = read(capture, "x".repeat(11200));
    assertEquals([record.lost, record.state], ["", 4]);
    assertEquals([record.sendQueue.length, record.notSent], [11200, 11200]);
    // passt itself says one more.
    assertEquals(record.sendSequence, capture.peer);
    assertEquals(entries[0] & TcpFlow.guestFin, TcpFlow.guestFin);
    assertEquals(entries[TcpWord.seqFromGuest], 1001 + 16800 + 1);
  });
}

for (const capture of FIN_WAIT_2) {
  Deno.test(`passt ${capture.release}: half-closed by the guest, all acknowledged`, () => {
    const { tcp: [record], entries } = read(capture, "");
    assertEquals([record.lost, record.state], ["", 5]);
    assertEquals(record.sendSequence, capture.peer);
    assertEquals(entries[TcpWord.seqFromGuest], 1001 + 5 + 1);
  });
}

for (const capture of CLOSE_WAIT) {
  Deno.test(`passt ${capture.release}: half-closed by the peer, bytes pending`, () => {
    const { tcp: [lost], entries } = read(capture, "ten-bytes.");
    assertEquals(lost.lost, "passt left out the last byte before the peer's FIN");
    assertEquals(entries[TcpWord.seqToGuest] - entries[TcpWord.ackFromGuest], 11);
    assertEquals(entries[0] & TcpFlow.peerFin, TcpFlow.peerFin);
    // Had passt sent the FIN to the guest as well, and left nothing out:
    const { tcp: [record] } = read(capture, "ten-bytes..", (bytes) => {
      bytes.setUint8(62 + 77, bytes.getUint8(62 + 77) | 0x40);
      bytes.setUint32(62 + 92, bytes.getUint32(62 + 92) + 1);
      bytes.setUint32(174 + 4, capture.peer - 11);
      bytes.setUint32(174 + 16, 11);
    });
    assertEquals(record.lost, "");
    assertEquals(record.receiveSequence, capture.peer - 1 - 11);
    assertEquals([record.rcvWnd, record.rcvWup], [64512, capture.peer]);
  });
}
