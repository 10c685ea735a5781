/** The state machine of a move, driven from outside: through the frontend's pipe. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { Errno } from "../../ffi/errno.ts";
import { memfdCreate, setNonBlocking } from "../../ffi/memory.ts";
import { createPipe } from "../../ffi/pipe.ts";
import { LOAD, moving, SAVE, saved, STOPPED } from "../support/side_of_move.ts";

moving("a guest moves; nothing goes on before it runs", (source, target) => {
  const bytes = saved(source);
  assertEquals(source.guest.take(), ["freeze", "save"]);
  const fd = target.begin(LOAD);
  target.send(fd, bytes);
  target.run();
  assertEquals(target.migration.check(), 0);
  assertEquals(target.guest.take(), ["restore"]);
  assertEquals(target.guest.restored?.device, source.guest.state.device);
  target.migration.ringsRun();
  assertEquals(target.guest.take(), ["thaw"]);
  target.migration.ringsRun();
  assertEquals(target.guest.take(), [], "once");
  source.migration.gone();
  assertEquals(source.guest.take(), ["discard"]);
  assertStringIncludes(source.log.lines.join(), "guest state saved: 0 TCP connections");
});

moving("the pipe may take and give a byte at a time", (source, target) => {
  const bytes = Uint8Array.from(source.receive(source.begin(SAVE), 1000));
  assertEquals(source.migration.check(), 0);
  target.send(target.begin(LOAD), bytes, 1001);
  target.run();
  assertEquals(target.migration.check(), 0);
});

moving("a save that the hypervisor undoes is undone", (source) => {
  saved(source);
  source.guest.take();
  source.migration.ringsRun();
  assertEquals(source.guest.take(), ["thaw"]);
  source.migration.gone();
  assertEquals(source.guest.take(), [], "nothing is frozen any more");
});

moving("what a slow repair helper freezes after a failed save goes on", (source) => {
  const { guest, migration } = source;
  migration.tick();
  assertEquals(guest.take(), []);
  guest.late = true;
  migration.tick();
  assertEquals(guest.take(), ["catchLate", "thaw"]);
  guest.failing.set("thaw", Errno.ENOTCONN);
  migration.tick();
  migration.tick();
  assertEquals(guest.take(), ["catchLate", "thaw", "catchLate"], "waits for a helper");
  guest.failing.clear();
  migration.helperCame();
  assertEquals(guest.take(), ["thaw"]);
  saved(source);
  guest.take();
  migration.tick();
  assertEquals(guest.take(), [], "all is frozen now");
});

moving("what was loaded is dropped if the guest never ran", (source, target) => {
  const bytes = saved(source);
  target.send(target.begin(LOAD), bytes);
  target.run();
  target.migration.gone();
  assertEquals(target.guest.take(), ["restore", "discard"]);
});

moving("anything else than what the specification has is refused", (source) => {
  const { migration, log } = source;
  assertEquals(migration.check(), Errno.EINVAL, "before any transfer");
  assertEquals(source.begin(2), -1);
  assertEquals(source.begin(SAVE, 1), -1);
  assertEquals(source.begin(SAVE, STOPPED, false), -1);
  const [reading, writing] = createPipe();
  assertEquals(migration.begin(SAVE, STOPPED, reading, true).accepted, false);
  assertEquals(migration.begin(LOAD, STOPPED, writing, true).accepted, false);
  close(reading);
  close(writing);
  const fd = source.begin(LOAD);
  assertEquals(source.begin(LOAD), -1, "one is under way");
  for (
    const problem of [
      "direction 2",
      "phase 1",
      "a queue runs",
      "cannot be written",
      "cannot be read",
      "another transfer",
    ]
  ) assertStringIncludes(log.lines.join("\n"), problem);
  source.hangUp(fd);
  source.run();
  assertEquals(migration.check(), Errno.EIO, "nothing came");
  assertEquals(source.guest.take(), ["discard"]);
});

moving("a source that cannot freeze writes nothing and goes on", (source) => {
  source.guest.failing.set("freeze", Errno.EPERM);
  const fd = source.begin(SAVE);
  assertEquals(source.receive(fd).length, 0);
  assertEquals(source.migration.check(), Errno.EPERM);
  assertEquals(source.guest.take(), ["freeze", "thaw"]);
});

moving("a frontend that hangs up in the middle undoes the save", (source) => {
  const fd = source.begin(SAVE);
  source.guest.state = { ...source.guest.state, rules: manyRules() };
  source.turn();
  source.hangUp(fd);
  source.run();
  assertEquals(source.migration.check(), Errno.EIO);
  assertEquals(source.guest.take(), ["freeze", "save", "thaw"]);
  saved(source);
});

/** Rules that fill a pipe of any size. */
function manyRules() {
  return Array.from({ length: 30_000 }, (_, i) => ({
    protocol: "tcp" as const,
    first: 1 + i,
    last: 1 + i,
    guestFirst: 1,
    weak: false,
  }));
}

moving("a stream that is cut, damaged or too long is refused whole", (source, target) => {
  const bytes = saved(source);
  const damaged = bytes.slice();
  damaged[damaged.length - 1] ^= 1;
  const longer = new Uint8Array(bytes.length + 1);
  longer.set(bytes);
  for (const stream of [bytes.slice(0, -1), damaged, longer, bytes.slice(0, 8)]) {
    target.send(target.begin(LOAD), Uint8Array.from(stream));
    target.run();
    assert(target.migration.check() > 0);
    assertEquals(target.guest.take(), ["discard"]);
  }
  target.send(target.begin(LOAD), bytes);
  target.run();
  assertEquals(target.migration.check(), 0, "and the next may come");
});

moving("a version that is not known is refused with ENOTSUP", (source, target) => {
  const bytes = saved(source);
  new DataView(bytes.buffer).setUint32(8, 3);
  target.send(target.begin(LOAD), bytes);
  target.run();
  assertEquals(target.migration.check(), Errno.EOPNOTSUPP);
});

moving("version 1 carries nothing", (source, target) => {
  const bytes = saved(source).slice(0, 65536);
  new DataView(bytes.buffer).setUint32(8, 1);
  target.send(target.begin(LOAD), bytes);
  target.run();
  assertEquals(target.migration.check(), 0);
  assertEquals(target.guest.take(), []);
});

moving("a target that cannot take the guest says so", (source, target) => {
  target.guest.failing.set("restore", Errno.EPERM);
  target.send(target.begin(LOAD), saved(source));
  target.run();
  assertEquals(target.migration.check(), Errno.EPERM);
  assertEquals(target.guest.take(), ["restore", "discard"]);
});

moving("CHECK_DEVICE_STATE takes what is still in the pipe", (source, target) => {
  const bytes = saved(source);
  const fd = target.begin(LOAD);
  target.send(fd, bytes);
  assertEquals(target.migration.check(), 0, "without a turn of the loop");
});

moving("what cannot be waited for is replaced by a pipe", (source) => {
  const file = memfdCreate("state", 4096);
  const { accepted, instead } = source.migration.begin(SAVE, STOPPED, file, true);
  assert(accepted && instead !== undefined);
  setNonBlocking(instead);
  assert(source.receive(instead).length > 65536);
  close(instead);
  assertEquals(source.migration.check(), 0);
});

moving("without a repair helper it thaws when one comes", (source) => {
  saved(source);
  source.guest.failing.set("thaw", Errno.EPERM);
  source.migration.ringsRun();
  assertStringIncludes(source.log.lines.join(), "start 'vuelo repair'");
  assertEquals(source.begin(SAVE), -1, "not undone yet");
  source.guest.failing.clear();
  source.guest.take();
  source.migration.helperCame();
  assertEquals(source.guest.take(), ["thaw"]);
  source.migration.helperCame();
  assertEquals(source.guest.take(), []);
});
