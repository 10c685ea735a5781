/**
 * Captures every frame in a pcap file (draft-ietf-opsawg-pcap, Ethernet), with complete
 * checksums, so that any reader takes the file as what a wire would have carried.
 */
import { openOwnFile } from "../../ffi/own_file.ts";
import type { FrameCapture } from "./frame_sink.ts";
import type { FrameSource } from "./frame_source.ts";
import type { GuestMemory } from "./guest_memory.ts";
import { completeChecksum, NET_HEADER_SIZE } from "./net_header.ts";
import type { Segments } from "./virtqueue.ts";

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER_SIZE = 24;
const RECORD_HEADER_SIZE = 16;
const SNAPLEN = 262_144;
/** What IPv6 can carry at most, which is more than a guest may send as one frame. */
const LONGEST = 14 + 40 + 65_535;

/** Takes the bytes of a record, or of the file's header; they are the caller's again then. */
export type CaptureOutput = (bytes: Uint8Array) => void;

/**
 * Creates or truncates a capture file, and writes its header.
 *
 * @throws {Error} see {@link openOwnFile}
 */
export function openCapture(path: string): CaptureOutput {
  const file = openOwnFile(path, { truncate: true, mode: 0o600 });
  let failed = false;
  const write = (bytes: Uint8Array) => {
    if (failed) return;
    try {
      for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
    } catch {
      failed = true; // a full disk ends the capture, not the guest's network
    }
  };
  const header = new DataView(new ArrayBuffer(FILE_HEADER_SIZE));
  header.setUint32(0, MAGIC_MICROSECONDS, true);
  header.setUint16(4, 2, true);
  header.setUint16(6, 4, true);
  header.setUint32(16, SNAPLEN, true);
  header.setUint32(20, LINKTYPE_ETHERNET, true);
  write(new Uint8Array(header.buffer));
  return write;
}

/** Writes frames of both directions to a file. */
export class Pcap implements FrameCapture {
  readonly #output: CaptureOutput;
  readonly #memory: GuestMemory;
  readonly #record = new Uint8Array(RECORD_HEADER_SIZE + NET_HEADER_SIZE + LONGEST);
  readonly #view = new DataView(this.#record.buffer);
  /** The frame with its net header before it, after room for the record's header. */
  readonly #frame = new DataView(
    this.#record.buffer,
    RECORD_HEADER_SIZE + NET_HEADER_SIZE,
  );

  constructor(output: CaptureOutput, memory: GuestMemory) {
    this.#output = output;
    this.#memory = memory;
  }

  /** Captures the current frame of the guest. */
  fromGuest(source: FrameSource): void {
    const length = source.copyFrame(this.#frame);
    completeChecksum(this.#frame, length, source.netHeader, 0);
    this.#append(length);
  }

  toGuest(pieces: Segments, first: number, count: number, length: number): void {
    const from = this.#memory.view;
    let at = RECORD_HEADER_SIZE;
    const end = at + length;
    for (let i = first; i < first + count && at < end; i++) {
      const offset = pieces.offset[i];
      const size = Math.min(pieces.length[i], end - at);
      this.#record.set(new Uint8Array(from.buffer, offset, size), at);
      at += size;
    }
    const frameLength = length - NET_HEADER_SIZE;
    completeChecksum(this.#frame, frameLength, this.#view, RECORD_HEADER_SIZE);
    this.#append(frameLength);
  }

  /** Writes the record whose frame is in place; its header goes over the net header. */
  #append(length: number): void {
    const now = Date.now();
    const at = NET_HEADER_SIZE;
    this.#view.setUint32(at, Math.floor(now / 1000), true);
    this.#view.setUint32(at + 4, (now % 1000) * 1000, true);
    this.#view.setUint32(at + 8, length, true);
    this.#view.setUint32(at + 12, length, true);
    this.#output(this.#record.subarray(at, at + RECORD_HEADER_SIZE + length));
  }
}
