/**
 * UDP and ping through the whole data path (src/flow/udp*.ts, src/flow/ping.ts,
 * src/flow/receive_batch.ts), control messages of what is received, and errors that the
 * host's kernel tells of (src/flow/datagram_errors.ts, ffi/error_queue.ts).
 */
import { Datagrams } from "../datagrams.ts";
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
  seeds: [
    // A datagram, its reply; a ping, its reply; both in IPv6.
    [1, 0, 16, 2, 3, 0, 0, 4, 6, 0, 4, 1, 2, 3, 4, 3, 33, 0, 2, 0, 32, 4],
    [1, 0, 17, 2, 3, 0, 1, 0, 6, 0, 8, 0, 0, 0, 0, 0, 1, 0, 1, 3, 33, 0, 2, 0, 32, 4],
    [
      9,
      0,
      16,
      3,
      7,
      0,
      4,
      0,
      0,
      17,
      3,
      2,
      0,
      1,
      0,
      6,
      0,
      4,
      1,
      2,
      3,
      4,
      7,
      33,
      3,
      0,
      0,
      4,
    ],
    // Several at once, joined where the guest takes that.
    [5, 0, 16, 2, 4, 255, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 6, 0, 0, 5],
    [5, 7, 0, 6, 33, 2, 1, 66, 100, 0, 0, 0, 0, 0, 0, 0, 64, 0, 4],
    // An error of a datagram that was sent, and to one that came in.
    [
      1,
      0,
      16,
      2,
      3,
      0,
      0,
      0,
      8,
      0,
      0,
      1,
      33,
      2,
      1,
      203,
      111,
      0,
      0,
      0,
      2,
      3,
      3,
      0,
      2,
      0,
      1,
      4,
    ],
    [1, 7, 0, 3, 33, 2, 1, 0, 0, 1, 0, 3, 33, 2, 1, 3, 0, 4, 0, 16, 2, 3, 0, 0, 0, 4],
    [0, 9, 5, 0, 16, 2, 3, 0, 0, 0, 11, 5, 0, 255, 5, 7, 10, 5, 3, 3, 0, 3, 4],
  ].map((bytes) => Uint8Array.from(bytes)),
  run,
  close: () => world.close(),
};
export default target;
