/**
 * A frontend that takes away the memory it has shared. No process of Deno's survives that;
 * what is promised is that it costs this guest its own backend, nobody else anything, and
 * that --sealed-memory refuses memory with which it can be done.
 */
import { assert, assertEquals } from "@std/assert";
import { addSeals, F_SEAL_SHRINK, truncate } from "../../ffi/memory.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { inFolder } from "../support/cli.ts";
import { state, u64 } from "../support/frontend.ts";
import { HostileLink, HostileRam, MARKER, message } from "../support/hostile_link.ts";
import { Neighbour, Quarry, served } from "../support/quarry.ts";

/** VERSION_1 and protocol features. */
const FEATURES = 2 ** 32 + 2 ** 30;
const PLACE = { desc: 0, avail: 0x1000, used: 0x2000 };
const own = new GuestMemory(2 ** 30);
const other = new GuestMemory(2 ** 30);
const EMPTY = new Uint8Array(0);

/** A frontend whose rings run, in memory that could be made shorter. */
function connect(quarry: Quarry, ram: HostileRam): HostileLink {
  const link = new HostileLink(quarry.path);
  const [protocol] = link.get(MARKER);
  link.negotiate(FEATURES, protocol, ram);
  return link;
}

Deno.test("memory that is taken away costs one guest its backend, and no other", async () => {
  await inFolder(async (folder) => {
    const quarry = new Quarry(folder, "quarry");
    const beside = new Quarry(folder, "beside");
    const ram = new HostileRam();
    let again: Quarry | undefined;
    try {
      await Promise.all([quarry.ready(), beside.ready()]);
      const neighbour = new Neighbour(await beside.guest(other));
      const link = connect(quarry, ram);
      link.ring(1, 256, 0, PLACE);
      truncate(ram.fd, 0);
      link.send(message(11, state(1, 0), 1)); // what it has used is written to the ring
      link.send(message(12, u64(1), 1), [link.event()]);
      assertEquals((await quarry.process.status).signal, "SIGBUS");
      link.close();
      await neighbour.unharmed();
      neighbour.guest.close();
      // What it left behind is no obstacle.
      Deno.removeSync(`${folder}/quarry.log`);
      again = new Quarry(folder, "quarry");
      await again.ready();
      const guest = await again.guest(own);
      await served(guest);
      guest.close();
    } finally {
      ram.close();
      await quarry.stop();
      await beside.stop();
      await again?.stop();
    }
  });
});

Deno.test("--sealed-memory refuses what could be taken away, and serves what is sealed", async () => {
  await inFolder(async (folder) => {
    const quarry = new Quarry(folder, "quarry", ["--sealed-memory"]);
    const ram = new HostileRam();
    try {
      await quarry.ready();
      const refused = new HostileLink(quarry.path);
      refused.send(message(5, ram.table, 1), [ram.fd]);
      assertEquals(refused.answer(), null, "the connection ends");
      refused.close();
      assert(quarry.log.includes("which --sealed-memory refuses"), quarry.log);
      addSeals(ram.fd, F_SEAL_SHRINK);
      const link = connect(quarry, ram);
      link.send(message(MARKER, EMPTY, 1));
      assert(link.untilMarker());
      link.close();
    } finally {
      ram.close();
      await quarry.stop();
    }
  });
});
