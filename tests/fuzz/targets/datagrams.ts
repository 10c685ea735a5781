/**
 * UDP and ping through the whole data path (src/flow/udp*.ts, src/flow/ping.ts,
 * src/flow/receive_batch.ts), control messages of what is received, and errors that the
 * host's kernel tells of (src/flow/datagram_errors.ts, ffi/error_queue.ts).
 */
import { DATAGRAM_STEPS, Datagrams } from "../datagrams.ts";
import { Script, type Target } from "../engine/target.ts";
import { FuzzWorld } from "../world.ts";

const MAX_STEPS = 50;
const Bit = { mergeable: 1, checksum: 2, large: 4, small: 8 } as const;
const world = new FuzzWorld();

function run(input: Uint8Array<ArrayBuffer>): void {
  const script = new Script(input);
  const setting = script.u8();
  const large = (setting & Bit.large) !== 0;
  const offloads = {
    mergeable: (setting & Bit.mergeable) !== 0,
    guestChecksum: large || (setting & Bit.checksum) !== 0,
    largeReceive4: false,
    largeReceive6: false,
    largeDatagrams: large,
    eventIdx: false,
  };
  world.run(offloads, () => {
    world.post(40, (setting & Bit.small) !== 0 ? 300 : 2048);
    const datagrams = new Datagrams(world, script);
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) datagrams.step();
    world.turn();
  });
}

const target: Target = {
  maxLength: 400,
  seeds: DATAGRAM_STEPS.flatMap((steps) =>
    [1, 5, 9, 0].map((setting) => Uint8Array.of(setting, ...steps.flat()))
  ),
  run,
  close: () => world.close(),
};
export default target;
