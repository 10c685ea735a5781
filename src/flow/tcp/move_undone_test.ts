import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../../ffi/errno.ts";
import { getOption, SO_REUSEADDR, SOL_SOCKET } from "../../../ffi/socket.ts";
import { deafen, undeafen } from "../../../ffi/socket_filter.ts";
import { synOptions } from "../../../tests/support/tcp_segment.ts";
import { HostTcp, LOOPBACK4 } from "../../../tests/support/host_tcp.ts";
import { leave, move, repair, restore, save } from "../../../tests/support/tcp_move.ts";
import {
  pattern,
  type ScriptedGuest,
  type TcpWorld,
} from "../../../tests/support/tcp_world.ts";
import { inWorlds, readAll } from "../../../tests/support/two_worlds.ts";
import { isInRepair, type RepairSwitch } from "../../repair/switch.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";

/** A helper that fails, after it has switched the first `done` sockets. */
function failing(done = 0): RepairSwitch {
  return {
    available: true,
    switchSockets(fds, on) {
      const some = Array.from(fds).slice(0, done);
      if (some.length > 0) repair.switchSockets(some, on);
      return Errno.EPIPE;
    },
    describe: () => "fails",
  };
}

/** All of `data` at the guest, in order. */
function expectAtGuest(world: TcpWorld, guest: ScriptedGuest, data: Uint8Array): void {
  world.until("data at the guest", () => {
    guest.drain();
    return guest.received.length >= data.length;
  });
  assertEquals(Uint8Array.from(guest.received), data);
}

/** Data both ways, and a good end. */
function useAndFinish(
  world: TcpWorld,
  guest: ScriptedGuest,
  host: ReturnType<TcpWorld["keep"]>,
): void {
  guest.in("A", { data: pattern(700) });
  assertEquals(readAll(world, host, 700), pattern(700));
  guest.received.length = 0;
  host.send(pattern(900));
  expectAtGuest(world, guest, pattern(900));
  guest.finish(host);
}

for (const when of ["frozen", "saved", "restored elsewhere"]) {
  inWorlds(`undone when ${when}: nothing is lost`, (source, target) => {
    const { guest, host } = source.connect();
    guest.window = 2000;
    guest.in("A");
    host.send(pattern(4000));
    guest.in("A", { data: pattern(300) });
    source.settle();
    if (when === "frozen") assertEquals(source.path.tcp.freeze(repair), 0);
    else {
      const moved = save(source);
      const free = source.path.table.fd(source.flowOf(guest));
      assert(isInRepair(free));
      if (when === "restored elsewhere") {
        restore(target, moved); // where the addresses are taken: all are lost
        target.path.tcp.discard();
        assertEquals(target.flows, 0);
      }
    }
    // The peer goes on sending, the clock goes on, the guest repeats itself.
    host.send(pattern(4000, 4000));
    guest.in("A", { seq: 1, data: pattern(300) });
    source.advance(500);
    assertEquals(source.path.tcp.thaw(repair), 0);
    assertEquals(source.path.tcp.thaw(repair), 0);
    source.settle();
    assertEquals(readAll(source, host, 300), pattern(300));
    guest.window = 65535;
    expectAtGuest(source, guest, pattern(8000));
    useAndFinish(source, guest, host);
  });
}

inWorlds(
  "what the peer sends while all is frozen comes to the target",
  (source, target) => {
    const { guest, host } = source.connect();
    host.send(pattern(1000));
    source.until("data", () => guest.received.length === 1000);
    const moved = save(source);
    host.send(pattern(3000, 1000));
    leave(source);
    restore(target, moved);
    host.send(pattern(6000, 4000));
    target.adopt(guest);
    guest.in("A"); // before it thaws: dropped
    assertEquals(target.path.tcp.thaw(repair), 0);
    guest.in("A");
    expectAtGuest(target, guest, pattern(10_000));
    useAndFinish(target, guest, host);
  },
);

inWorlds(
  "a target that gives up says nothing, and the source goes on",
  (source, target) => {
    // The source's sockets have left their addresses here, as on another host.
    const { guest, host } = source.connect();
    const moved = save(source);
    leave(source);
    restore(target, moved);
    host.send(pattern(500));
    target.advance(3000);
    leave(target);
    assertEquals([target.flows, host.error], [0, 0]);
    restore(source, moved);
    assertEquals(source.path.tcp.thaw(repair), 0);
    expectAtGuest(source, guest, pattern(500));
    useAndFinish(source, guest, host);
  },
);

inWorlds("repair mode that cannot be had changes nothing", (source) => {
  const both = [source.connect(), source.connect()];
  for (const done of [0, 1]) {
    assertEquals(source.path.tcp.freeze(failing(done)), Errno.EPIPE);
    // What was switched stays frozen until it can be switched back.
    assertEquals(source.path.tcp.thaw(repair), 0);
  }
  assertEquals(source.path.tcp.freeze(undefined), Errno.EPERM);
  assertEquals(source.path.tcp.thaw(repair), 0);
  for (const { guest, host } of both) useAndFinish(source, guest, host);
});

inWorlds("a helper that dies after it has thawed all leaves nothing frozen", (source) => {
  const both = [source.connect(), source.connect()];
  assertEquals(source.path.tcp.freeze(repair), 0);
  assertEquals(source.path.tcp.thaw(failing(2)), 0);
  for (const { guest, host } of both) useAndFinish(source, guest, host);
});

inWorlds("thawing is tried again when there is a helper again", (source, target) => {
  const both = [source.connect(), source.connect()];
  const moved = save(source);
  leave(source);
  restore(target, moved);
  for (const { guest } of both) target.adopt(guest);
  assertEquals(target.path.tcp.thaw(undefined), Errno.EPERM);
  assertEquals(target.path.tcp.thaw(failing(1)), Errno.EPIPE);
  both[1].host.send(pattern(100));
  target.settle();
  assertEquals(target.path.tcp.thaw(repair), 0);
  expectAtGuest(target, both[1].guest, pattern(100));
  for (const { guest, host } of both) useAndFinish(target, guest, host);
});

inWorlds("frozen connections that are given up are reset", (source) => {
  const { guest, host } = source.connect();
  assertEquals(source.path.tcp.freeze(repair), 0);
  source.path.tcp.resetFrozen();
  source.settle();
  assert(guest.out().some((s) => s.startsWith("R")));
  assertEquals(source.flows, 0);
  host.send(pattern(1));
  source.until("RST at the peer", () => host.error !== 0);
});

inWorlds("a guest that is gone leaves frozen connections silent", (source) => {
  const { host } = source.connect();
  assertEquals(source.path.tcp.freeze(repair), 0);
  source.path.dropAll();
  source.settle();
  assertEquals([source.flows, host.error], [0, 0]);
  host.reset();
});

inWorlds(
  "a connection whose peer has not answered is opened anew at the target",
  (source, target) => {
    const listener = source.listen();
    deafen(listener.fd);
    const guest = source.guest(listener.port);
    guest.in("S", { options: synOptions(1460, 0) });
    assertEquals([source.flows, source.path.tcp.movable], [1, 0]);
    assertEquals(move(source, target, [guest]).records, []);
    assertEquals(source.flows, 0);
    undeafen(listener.fd);
    guest.next = 0;
    guest.in("S", { options: synOptions(1460, 0) });
    target.until("SYN and ACK", () => guest.peerIsn !== undefined);
    guest.in("A");
    useAndFinish(target, guest, target.keep(listener.accept()));
  },
);

inWorlds(
  "a connection that the guest has not answered yet moves",
  (source, target) => {
    const listener = source.forward(80);
    const host = source.keep(HostTcp.connect(LOOPBACK4, listener.port));
    const guest = source.guest(host.port, { fromPort: 80 });
    source.until("SYN", () => guest.peerIsn !== undefined);
    const moved = move(source, target, [guest]);
    assertEquals(moved.records.length, 1);
    guest.in("SA");
    useAndFinish(target, guest, host);
  },
);

inWorlds(
  "of a connection that the guest answers after the move each byte comes once",
  (source, target) => {
    const listener = source.forward(80);
    const host = source.keep(HostTcp.connect(LOOPBACK4, listener.port));
    const guest = source.guest(host.port, { fromPort: 80 });
    source.until("SYN", () => guest.peerIsn !== undefined);
    move(source, target, [guest]);
    host.send(pattern(5000));
    guest.in("SA");
    target.until("data", () => guest.received.length > 0);
    host.send(pattern(20_000, 7));
    target.until("all data", () => (guest.in("A"), guest.received.length >= 25_000));
    const expected = [...pattern(5000), ...pattern(20_000, 7)];
    assertEquals(guest.received, expected);
    guest.finish(host);
  },
);

inWorlds("a connection whose address is missing is reset, the others are not", (
  source,
  target,
) => {
  const [lost, kept] = [source.connect(), source.connect()];
  source.settle();
  const moved = save(source);
  leave(source);
  const at = moved.entries[FlowWord.guestPorts] & 0xffff;
  const which = at === lost.guest.fromPort ? 0 : 1;
  // Of the range that RFC 5737 keeps for examples: 198.51.100.1.
  moved.entries[which * FLOW_WORDS + FlowWord.hostOur + 3] = 0x016433c6;
  restore(target, moved);
  for (const { guest } of [lost, kept]) target.adopt(guest);
  lost.guest.out();
  assertEquals(target.path.tcp.thaw(repair), 0);
  target.settle();
  assertEquals(lost.guest.out().length, 1);
  assertEquals(lost.guest.last!.flags, "RA");
  assertEquals(target.flowOf(lost.guest), -1);
  useAndFinish(target, kept.guest, kept.host);
});

inWorlds(
  "a connection over the source's loopback is lost, unless told",
  (source, target) => {
    const { guest, host } = source.connect();
    const moved = save(source);
    source.path.tcp.discard();
    const flow = target.path.table.allocate(1);
    target.path.table.words.set(moved.entries, flow * FLOW_WORDS);
    assertEquals(target.path.tcp.restore(moved.records, [flow], repair), 0);
    target.adopt(guest);
    guest.out();
    assertEquals(target.path.tcp.thaw(repair), 0);
    target.settle();
    assertEquals(guest.last!.flags, "RA");
    host.reset();
  },
);

for (const off of [{ tcp: false }, { ip4: undefined }]) {
  inWorlds(
    `a connection is lost where it could not be opened: ${Object.keys(off)}`,
    (source, target) => {
      const { guest, host } = source.connect();
      const moved = save(source);
      leave(source);
      Object.assign(target.path.config, off);
      restore(target, moved);
      target.adopt(guest);
      guest.out();
      assertEquals(target.path.tcp.thaw(repair), 0);
      target.settle();
      assertEquals(guest.last!.flags, "RA");
      assertEquals(target.flows, 0);
      host.reset();
    },
  );
}

inWorlds("sockets that moved may share their port with a listening one", (
  source,
  target,
) => {
  const { guest, host } = source.accept();
  move(source, target, [guest]);
  const fd = target.path.table.fd(target.flowOf(guest));
  assertEquals(getOption(fd, SOL_SOCKET, SO_REUSEADDR), 1);
  useAndFinish(target, guest, host);
});
