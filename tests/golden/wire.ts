/** Frames of {@link ./wire.json}, which says where they come from. */
import golden from "./wire.json" with { type: "json" };

export type GoldenFrame = keyof typeof golden.frames;

export const GOLDEN_FRAMES = Object.keys(golden.frames) as GoldenFrame[];

/** The bytes of a frame, Ethernet header on. */
export function goldenFrame(name: GoldenFrame): Uint8Array<ArrayBuffer> {
  return Uint8Array.fromHex(golden.frames[name]);
}

/** The frame at offset `at` of a view whose other bytes are dirty, as a guest's are. */
export function goldenView(name: GoldenFrame, at = 0): DataView<ArrayBuffer> {
  const frame = goldenFrame(name);
  const bytes = new Uint8Array(at + frame.length + 64).fill(0xa5);
  bytes.set(frame, at);
  return new DataView(bytes.buffer);
}
