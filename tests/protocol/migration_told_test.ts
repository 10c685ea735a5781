/** What a move tells: the guest of its gateway, the operator of what fails and why. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { FLOW_WORDS, FlowWord } from "../../src/flow/table.ts";
import { Forwarder } from "../../src/flow/forward.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import type { RepairSwitch } from "../../src/repair/switch.ts";
import { emptyState } from "../support/fake_movable.ts";
import { FlowWorld } from "../support/flow_world.ts";
import { logged } from "../support/logged.ts";
import { LOAD, moving, SAVE, saved } from "../support/side_of_move.ts";
import { sampleState } from "../support/state_samples.ts";
import { leave, repair, restore, save } from "../support/tcp_move.ts";
import { inWorld, pattern } from "../support/tcp_world.ts";
import { inWorlds } from "../support/two_worlds.ts";

const FACTS = { featuresLo: 0, featuresHi: 1 };

/** An announcement by ARP, or an advertisement of a neighbour that nobody asked for. */
function kind(frame: Uint8Array): string {
  const view = new DataView(frame.buffer, frame.byteOffset);
  const type = view.getUint16(12);
  if (type === 0x0806 && view.getUint32(28) === view.getUint32(38)) return "ARP";
  return type === 0x86dd && frame[54] === 136 ? "NDP" : `${type}`;
}

Deno.test("a guest that came is told its gateway once it runs, another one is not", () => {
  const world = new FlowWorld();
  world.driver.post(64, 2048);
  const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
  const told = () => {
    world.path.now += 2000;
    world.path.turn();
    return world.frames().map(kind);
  };
  assertEquals(move.freeze(), 0);
  assertEquals(move.thaw(), 0);
  assertEquals(told(), [], "it has stayed");
  assertEquals(move.restore(emptyState(1)), 0);
  assertEquals(told(), [], "it does not run yet");
  assertEquals(move.thaw(), 0);
  assertEquals(told(), ["ARP", "NDP"]);
  assertEquals(told(), []);
  world.close();
});

inWorld("without a helper a move is refused before anything is touched", (world) => {
  const { guest, host } = world.connect();
  const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
  const missing: RepairSwitch = {
    available: false,
    switchSockets: () => {
      throw new Error("there is nobody to ask");
    },
    describe: () => "start vuelo repair",
  };
  for (const [by, what] of [[missing, "start vuelo repair"], [undefined, "no TCP"]]) {
    move.repair = by as RepairSwitch | undefined;
    const lines = logged(() => assertEquals(move.freeze(), Errno.EPERM));
    assertEquals(lines.length, 1, lines.join());
    assert(lines[0].startsWith(`warning: TCP connections cannot be moved: ${what}`));
    // Nothing is thawed: there is nothing frozen.
    guest.in("PA", { data: pattern(5) });
    world.until("data at the peer", () => host.receive() instanceof Uint8Array);
    const before = guest.received.length;
    host.send(pattern(7));
    world.until("data at the guest", () => guest.received.length === before + 7);
    guest.in("A");
  }
});

inWorlds(
  "a connection that cannot be moved is named once, with why",
  (source, target) => {
    const [lost, kept] = [source.connect(), source.connect()];
    source.settle();
    const moved = save(source);
    leave(source);
    const first = (moved.entries[FlowWord.guestPorts] & 0xffff) === lost.guest.fromPort;
    // 198.51.100.1, of the range that RFC 5737 keeps for examples.
    moved.entries[(first ? 0 : 1) * FLOW_WORDS + FlowWord.hostOur + 3] = 0x016433c6;
    const lines = logged(() => {
      restore(target, moved);
      for (const { guest } of [lost, kept]) target.adopt(guest);
      assertEquals(target.path.tcp.thaw(repair), 0);
      target.settle();
    });
    assertEquals(lines.length, 1, lines.join("\n"));
    assert(lines[0].includes(`${lost.guest.fromPort}`), lines[0]);
    assertMatch(lines[0], /is lost: bind to 198\.51\.100\.1 port \d+: EADDRNOTAVAIL/);
    kept.guest.finish(kept.host);
    lost.host.reset();
  },
);

/** Runs `body` by a clock that stands still, unless it is told to go on. */
function byClock(body: (pass: (ms: number) => void) => void): void {
  const { now } = performance;
  let time = now.call(performance);
  performance.now = () => time;
  try {
    body((ms) => time += ms);
  } finally {
    performance.now = now;
  }
}

moving("a long transfer tells how far it has come, once a second", (source, target) => {
  const rules = Array.from({ length: 60_000 }, (_, i) => ({
    protocol: "tcp" as const,
    first: 1 + i,
    last: 1 + i,
    guestFirst: 1,
    weak: false,
  }));
  source.guest.state = { ...sampleState(), rules };
  byClock((pass) => {
    const fd = source.begin(SAVE);
    const told = () => source.log.lines.filter((line) => line.includes(" MB moved"));
    source.turn();
    pass(900);
    source.turn();
    assertEquals(told(), [], "a second has not passed");
    pass(200);
    const bytes = Uint8Array.from(source.receive(fd));
    assertEquals(told().length, 1, told().join());
    assertMatch(
      told()[0],
      /^migration: \d\.\d of 3\.\d MB moved, \d+ of \d+ connections$/,
    );
    assertEquals(source.migration.check(), 0);
    const end = target.begin(LOAD);
    pass(1100);
    target.send(end, bytes);
    target.run();
    assertEquals(target.migration.check(), 0);
    assertMatch(target.log.lines.join("\n"), /^migration: \d\.\d MB moved$/m);
  });
});

moving("what no helper thaws within a minute is given up, and said", (source) => {
  const { guest, migration, log } = source;
  saved(source);
  guest.failing.set("thaw", Errno.ENOTCONN);
  byClock((pass) => {
    migration.ringsRun();
    guest.take();
    pass(59_000);
    migration.tick();
    assert(!guest.take().includes("reset"), "before a minute has passed");
    pass(2000);
    migration.tick();
    assertEquals(guest.take(), ["reset"]);
    assertMatch(log.lines.at(-1)!, /no repair helper came/);
    migration.tick();
    assertEquals(guest.take(), []);
  });
  guest.failing.clear();
  saved(source);
});
