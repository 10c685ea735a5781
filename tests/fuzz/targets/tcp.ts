/**
 * TCP through the whole data path (src/flow/tcp, src/flow/datapath.ts): segments of the
 * guest in any order and form, a host that does anything, the clock in between.
 */
import { Connections, TCP_STEPS } from "../connections.ts";
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
  seeds: TCP_STEPS.flatMap((steps) =>
    [9, 8, 11, 13, 0].map((setting) => Uint8Array.of(setting, ...steps.flat()))
  ),
  run,
  close: () => world.close(),
};
export default target;
