/**
 * Net headers of the guest with anything in them, on frames of any kind and up to the
 * largest (src/virtio/net_header.ts, src/flow/udp_send.ts), and frames to guests that take
 * large segments and datagrams, with and without partial checksums and merged buffers.
 */
import { Connections, TCP_STEPS } from "../connections.ts";
import { DATAGRAM_STEPS, Datagrams } from "../datagrams.ts";
import { Script, type Target } from "../engine/target.ts";
import { DHCP_SEEDS, NEIGHBOUR_SEEDS, sealed, WIRE_SEEDS } from "../frames.ts";
import { FuzzWorld } from "../world.ts";

const MAX_STEPS = 40;
const Bit = { mergeable: 1, checksum: 2, large: 4, datagrams: 8, small: 16 } as const;
const FRAMES = [...DHCP_SEEDS, ...NEIGHBOUR_SEEDS, ...WIRE_SEEDS];
const GSO_TYPES = [0, 1, 3, 4, 5, 0x81, 0x85, 255];
const SIZES = [0, 1, 8, 100, 511, 512, 1400, 1460, 0x7fff, 0xffff];
const STARTS = [34, 54, 0, 14, 33, 511, 0xffff, 0xfffe];
const OFFSETS = [16, 6, 0, 2, 1, 0xffff, 0x8000, 500];
const NET_HEADER = 12;
const world = new FuzzWorld();

/** A net header: each field telling or anything. */
function header(script: Script): Uint8Array {
  const bytes = new Uint8Array(NET_HEADER);
  const view = new DataView(bytes.buffer);
  const kind = script.u8();
  if (kind >= 240) {
    bytes.set(script.bytes(NET_HEADER));
    return bytes;
  }
  bytes[0] = kind & 7;
  bytes[1] = GSO_TYPES[kind >> 3 & 7];
  const pick = (values: readonly number[]) => values[script.u8() % values.length];
  view.setUint16(2, pick(SIZES), true);
  view.setUint16(4, pick(SIZES), true);
  view.setUint16(6, pick(STARTS), true);
  view.setUint16(8, pick(OFFSETS), true);
  view.setUint16(10, pick(SIZES), true);
  return bytes;
}

/** A captured frame with bytes changed, or bytes of the input's. */
function frame(script: Script): Uint8Array<ArrayBuffer> {
  const kind = script.u8();
  if (kind >= 224) return script.bytes(script.u8()).slice();
  const bytes = FRAMES[kind % FRAMES.length].slice();
  for (let more = script.below(6); more > 0; more--) {
    bytes[script.u16() % bytes.length] = script.u8();
  }
  const { length } = bytes;
  // Longer than what its headers say, as far as a frame can be.
  const longer = kind < 200 ? 0 : script.u16();
  const input = new Uint8Array(Math.min(1 + 65_550, length + longer));
  input.set(bytes);
  return sealed(input);
}

function run(input: Uint8Array<ArrayBuffer>): void {
  const script = new Script(input);
  const setting = script.u8();
  const large = (setting & Bit.large) !== 0;
  const largeDatagrams = (setting & Bit.datagrams) !== 0;
  const offloads = {
    mergeable: (setting & Bit.mergeable) !== 0,
    guestChecksum: large || largeDatagrams || (setting & Bit.checksum) !== 0,
    largeReceive4: large,
    largeReceive6: large,
    largeDatagrams,
    eventIdx: false,
  };
  world.run(offloads, () => {
    world.post(40, (setting & Bit.small) !== 0 ? 512 : 4096);
    const connections = new Connections(world, script);
    const datagrams = new Datagrams(world, script);
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) {
      switch (script.below(8)) {
        case 0:
        case 1:
          datagrams.header = connections.header = header(script);
          break;
        case 2:
        case 3:
          connections.step();
          break;
        case 4:
        case 5:
          datagrams.step();
          break;
        default:
          world.send(frame(script), datagrams.header, [NET_HEADER, 20 + script.u8()]);
          if (script.u8() & 1) world.turn();
      }
    }
    world.turn();
  });
}

const target: Target = {
  maxLength: 400,
  seeds: [
    // DHCP and NDP with partial checksums, complete ones, and none that can be.
    [1, 0, 1, 0, 0, 0, 1, 0, 6, 0, 0, 8, 1, 6, 1, 0, 8, 1, 6, 2, 0, 8, 1],
    [
      3,
      0,
      1,
      0,
      0,
      6,
      5,
      0,
      6,
      3,
      0,
      8,
      1,
      6,
      9,
      0,
      8,
      1,
      6,
      12,
      0,
      8,
      1,
      6,
      20,
      0,
      8,
      1,
    ],
    // Datagrams that are to be cut, and some that come joined.
    [
      9,
      0,
      41,
      0,
      3,
      0,
      1,
      0,
      4,
      0,
      16,
      2,
      7,
      0,
      0,
      0,
      4,
      4,
      4,
      6,
      0,
      0,
      5,
      33,
      2,
      1,
      66,
      100,
      0,
    ],
    [
      13,
      0,
      32,
      0,
      5,
      0,
      0,
      0,
      4,
      0,
      16,
      3,
      8,
      0,
      4,
      0,
      4,
      4,
      0,
      168,
      0,
      1,
      0,
      0,
      0,
      4,
      0,
      16,
      2,
    ],
    // Large segments both ways.
    [
      7,
      2,
      15,
      0,
      7,
      0,
      8,
      0,
      6,
      0,
      0,
      2,
      0,
      0,
      0x18,
      0,
      0,
      0,
      200,
      9,
      0,
      1,
      2,
      9,
      0,
      31,
      255,
      5,
    ],
    [6, 2, 15, 5, 7, 2, 9, 0, 31, 255, 4, 2, 0, 5, 0x10, 0, 0, 0, 200, 0, 0, 1, 2, 6, 4],
    [
      21,
      6,
      210,
      0,
      255,
      255,
      40,
      1,
      6,
      215,
      0,
      64,
      0,
      3,
      1,
      6,
      240,
      30,
      1,
      2,
      3,
      4,
      5,
      6,
      7,
      8,
    ],
    ...[1, 2, 3, 6].flatMap((size) =>
      DATAGRAM_STEPS.map((steps) => [
        ...[9 + (size & 4), 0, 33, 0, size, 0, 0, 0],
        ...steps.flatMap((step) => [4, ...step]),
      ])
    ),
    ...TCP_STEPS.map((steps) => [7, ...steps.flatMap((step) => [2, ...step])]),
  ].map((bytes) => Uint8Array.from(bytes)),
  run,
  close: () => world.close(),
};
export default target;
