/** Reads what --pcap writes: who sent each frame, and how long it is. */
import { VUELO_MAC } from "./guest_packets.ts";

/** A frame of a capture; lengths are of the whole frame, Ethernet header on. */
export interface CapturedFrame {
  readonly fromGuest: boolean;
  /** As agents name it: "tcp ip4", "udp ip6"; "" for others. */
  readonly kind: string;
  readonly length: number;
}

const FILE_HEADER = 24;
const RECORD_HEADER = 16;
const PROTOCOLS: Readonly<Record<number, string>> = { 6: "tcp", 17: "udp" };

function kindOf(frame: DataView): string {
  const type = frame.getUint16(12);
  if (type === 0x0800) return `${PROTOCOLS[frame.getUint8(23)] ?? "other"} ip4`;
  if (type === 0x86dd) return `${PROTOCOLS[frame.getUint8(20)] ?? "other"} ip6`;
  return "";
}

/** The frames that a capture has gained since it was `from` bytes long. */
export function capturedSince(path: string, from: number): CapturedFrame[] {
  const bytes = Deno.readFileSync(path);
  const frames: CapturedFrame[] = [];
  // A frame may have been half written at `from`: records are counted from the first.
  let at = FILE_HEADER;
  const view = new DataView(bytes.buffer);
  while (at + RECORD_HEADER <= bytes.length) {
    const length = view.getUint32(at + 8, true);
    if (at + RECORD_HEADER + length > bytes.length) break; // is being written
    if (at >= from) {
      const frame = new DataView(bytes.buffer, at + RECORD_HEADER, length);
      const fromGuest = VUELO_MAC.some((octet, i) => frame.getUint8(6 + i) !== octet);
      frames.push({ fromGuest, kind: kindOf(frame), length });
    }
    at += RECORD_HEADER + length;
  }
  return frames;
}

/** The longest of the frames of a kind that went one way; 0 if there is none. */
export function longest(
  frames: readonly CapturedFrame[],
  fromGuest: boolean,
  kind: string,
): number {
  return frames.filter((frame) => frame.fromGuest === fromGuest && frame.kind === kind)
    .reduce((most, { length }) => Math.max(most, length), 0);
}
