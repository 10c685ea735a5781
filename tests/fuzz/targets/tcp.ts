/**
 * TCP through the whole data path (src/flow/tcp, src/flow/datapath.ts): segments of the
 * guest in any order and form, a host that does anything, the clock in between.
 */
import { Connections } from "../connections.ts";
import { Script, type Target } from "../engine/target.ts";
import { host } from "../host/install.ts";
import { FuzzWorld } from "../world.ts";

const MAX_STEPS = 60;
const Bit = { mergeable: 1, checksum: 2, large: 4, peekOffset: 8 } as const;
const world = new FuzzWorld();

function run(input: Uint8Array<ArrayBuffer>): void {
  const script = new Script(input);
  const setting = script.u8();
  const offloads = {
    mergeable: (setting & Bit.mergeable) !== 0,
    guestChecksum: (setting & (Bit.checksum | Bit.large)) !== 0,
    largeReceive4: (setting & Bit.large) !== 0,
    largeReceive6: (setting & Bit.large) !== 0,
    eventIdx: false,
  };
  world.run(offloads, () => {
    host.peekOffset = (setting & Bit.peekOffset) !== 0;
    world.path.tcp.setPeekOffset(host.peekOffset);
    world.post(40, 2048);
    const connections = new Connections(world, script);
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) connections.step();
    world.turn();
  });
}

const target: Target = {
  maxLength: 400,
  seeds: [
    // Opened by the guest: handshake, data both ways, FIN of both sides.
    [
      9,
      15,
      0,
      7,
      0,
      0x18,
      0,
      0,
      0,
      200,
      4,
      0,
      1,
      0,
      9,
      0,
      4,
      0,
      4,
      10,
      0,
      255,
      255,
      2,
      0,
    ],
    [9, 15, 1, 7, 9, 0, 0, 100, 5, 1, 1, 0x11, 0, 0, 0, 200, 0, 0, 1, 0, 8, 0, 0x84],
    // Opened by a peer, of a guest that merges nothing.
    [8, 15, 4, 2, 9, 0, 255, 255, 4, 0, 4, 0x10, 0, 0, 0, 200, 0, 0, 1, 0, 6, 3, 6, 4],
    [7, 15, 2, 7, 9, 0, 255, 255, 4, 6, 3, 0, 2, 4, 0, 0, 0, 200, 0, 0, 1, 0],
    // A peer that refuses, one that has no room, time that passes.
    [9, 0, 0, 2, 0, 0, 0, 100, 0, 0, 1, 0, 7, 0, 0xc8, 3, 6, 5, 6, 6],
    [9, 15, 3, 7, 10, 0, 0, 0, 1, 0, 0, 0, 3, 0x18, 0, 0, 0, 200, 8, 255, 1, 0, 6, 7],
    [9, 15, 0, 7, 4, 2, 47, 0x12, 60, 9, 0, 0, 7, 5, 12, 3, 13, 10, 8, 11, 0, 7, 0, 0, 0],
  ].map((bytes) => Uint8Array.from(bytes)),
  run,
  close: () => world.close(),
};
export default target;
