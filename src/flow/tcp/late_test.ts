import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../../ffi/errno.ts";
import { ScriptedHelper } from "../../../tests/support/repair_scripted.ts";
import { leave, repair, restore, save } from "../../../tests/support/tcp_move.ts";
import { pattern, TcpWorld } from "../../../tests/support/tcp_world.ts";
import { inWorlds, readAll } from "../../../tests/support/two_worlds.ts";
import { RepairLink } from "../../repair/link.ts";
import { isInRepair, type RepairSwitch } from "../../repair/switch.ts";

const QUIET = { error() {}, warn() {}, info() {}, debug() {} };

/** A helper that is given up at once. */
const absent: RepairSwitch = {
  available: true,
  switchSockets: () => Errno.ETIMEDOUT,
  describe: () => "says nothing",
};

Deno.test("a helper that switches after it was given up silences nobody", async () => {
  const folder = Deno.makeTempDirSync();
  const link = new RepairLink(`${folder}/repair`, QUIET);
  const world = new TcpWorld();
  try {
    const slow = await ScriptedHelper.connected(link, { behaviours: ["late"] });
    const impatient: RepairSwitch = {
      available: true,
      switchSockets: (fds, on) => link.switchSockets(fds, on, 50),
      describe: () => "waits for 50 ms",
    };
    const both = [world.connect(), world.connect()];
    const { tcp, table } = world.path;
    const fd = table.fd(world.flowOf(both[0].guest));
    assertEquals(tcp.freeze(impatient), Errno.ETIMEDOUT);
    await slow.end();
    assert(isInRepair(fd), "late");
    assertEquals(tcp.catchLate(), false, "a second has not passed");
    world.advance(1000);
    assert(tcp.catchLate());
    assertEquals(tcp.thaw(impatient), Errno.ENOTCONN);
    const quick = await ScriptedHelper.connected(link, { behaviours: ["switch"] });
    assertEquals(tcp.thaw(impatient), 0);
    assert(!isInRepair(fd));
    for (const { guest, host } of both) {
      guest.in("A", { data: pattern(700) });
      assertEquals(readAll(world, host, 700), pattern(700));
      guest.finish(host);
    }
    world.advance(1000);
    assertEquals(tcp.catchLate(), false);
    link.close();
    await quick.end();
  } finally {
    link.close();
    world.close();
    Deno.removeSync(folder, { recursive: true });
  }
});

for (const moves of [false, true]) {
  inWorlds(
    `what both sides send meanwhile is not lost${moves ? ", if it moves" : ""}`,
    (source, target) => {
      const { guest, host } = source.connect();
      host.send(pattern(1000));
      source.until("data", () => guest.received.length === 1000);
      const { tcp, table } = source.path;
      assertEquals(tcp.freeze(absent), Errno.ETIMEDOUT);
      source.settle();
      repair.switchSockets([table.fd(source.flowOf(guest))], true);
      // What it acknowledges now cannot be dropped from the socket.
      guest.in("A", { ack: guest.expected - 400 });
      host.send(pattern(500, 1000));
      source.settle();
      const { next } = guest;
      guest.in("A", { data: pattern(300) });
      assert(!guest.sent.some((segment) => segment.startsWith("R")), "no RST");
      let world = source;
      if (moves) {
        const moved = save(source);
        leave(source);
        restore(target, moved);
        target.adopt(guest);
        world = target;
      } else {
        source.advance(1000);
        assert(tcp.catchLate());
      }
      assertEquals(world.path.tcp.thaw(repair), 0);
      guest.in("A", { seq: next, data: pattern(300) });
      assertEquals(readAll(world, host, 300), pattern(300));
      world.until("data at the guest", () => {
        guest.drain();
        return guest.received.length >= 1500;
      });
      assertEquals(Uint8Array.from(guest.received), pattern(1500));
      guest.finish(host);
    },
  );
}

inWorlds("it is looked for less than a minute", (source) => {
  const { guest, host } = source.connect();
  const { tcp, table } = source.path;
  assertEquals(tcp.freeze(absent), Errno.ETIMEDOUT);
  for (let second = 0; second < 60; second++) {
    source.advance(1000);
    assertEquals(tcp.catchLate(), false);
  }
  const fd = table.fd(source.flowOf(guest));
  repair.switchSockets([fd], true);
  source.advance(1000);
  assertEquals(tcp.catchLate(), false);
  repair.switchSockets([fd], false);
  guest.finish(host);
});
