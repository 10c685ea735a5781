/** A guest's frame taken apart for the flows (src/flow/packet.ts). */
import { Packet, Parsed } from "../../../src/flow/packet.ts";
import { FlowTable } from "../../../src/flow/table.ts";
import { type FrameMemory, FrameSource } from "../../../src/virtio/frame_source.ts";
import { GuestMemory } from "../../../src/virtio/guest_memory.ts";
import { SplitQueue } from "../../../src/virtio/split_queue.ts";
import type { Target } from "../engine/target.ts";
import { sealed, WIRE_SEEDS } from "../frames.ts";

const NET_HEADER = 12;
const buffer = new ArrayBuffer(4096);
const bytes = new Uint8Array(buffer);
const memory: FrameMemory = { base: 0, buffer, windows: [new DataView(buffer)] };
const source = new FrameSource(memory, new SplitQueue(new GuestMemory(2 ** 30)));
const table = new FlowTable(16);
const packet = new Packet(source, table);

const target: Target = {
  maxLength: 1600,
  seeds: WIRE_SEEDS,
  run(input) {
    const frame = sealed(input);
    bytes.fill(0xa5);
    bytes.set(frame, NET_HEADER);
    if (!source.lend(memory, 0, NET_HEADER + frame.length)) return;
    const result = packet.parse();
    if (!Object.values(Parsed).some((known) => known === result)) {
      throw new Error(`parsed as ${result}`);
    }
    if (result !== Parsed.ip) return;
    const { transportAt, transportLength } = packet;
    if (transportLength < 8 || transportAt + transportLength > frame.length) {
      throw new Error("a transport packet outside of its frame");
    }
    if (source.headLength < transportAt + 8) throw new Error("a header was not copied");
    packet.keyPorts();
  },
};
export default target;
