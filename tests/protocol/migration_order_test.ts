/** Moves by frontends that do what the specification has not foreseen, and by hosts that
 * run out of what a move needs. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { close, EPOLLHUP } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import { createPipe, writeSome } from "../../ffi/pipe.ts";
import { withoutDescriptors } from "../support/descriptor_limit.ts";
import {
  LOAD,
  moving,
  SAVE,
  saved,
  SideOfMove,
  STOPPED,
} from "../support/side_of_move.ts";

moving("a guest that never ran since is saved again, as it is", (source) => {
  const bytes = saved(source);
  source.guest.take();
  assertEquals(saved(source), bytes);
  assert(!source.guest.take().includes("discard"), "its connections are frozen still");
  source.migration.ringsRun();
  assertEquals(source.guest.take(), ["thaw"]);
});

moving("a guest moves on from where it never ran", (source, target) => {
  const bytes = saved(source);
  target.send(target.begin(LOAD), bytes);
  target.run();
  assertEquals(target.migration.check(), 0);
  target.guest.take();
  saved(target);
  assert(!target.guest.take().includes("discard"), "its connections are frozen still");
  target.migration.gone();
  assertEquals(target.guest.take(), ["discard"]);
});

moving("a second save that fails leaves what the first one left", (source) => {
  saved(source);
  source.guest.take();
  const fd = source.begin(SAVE);
  source.turn();
  source.hangUp(fd);
  source.guest.failing.set("freeze", Errno.EPERM);
  source.hangUp(source.begin(SAVE));
  source.run();
  assert(source.migration.check() !== 0);
  assert(!source.guest.take().includes("discard"));
  source.migration.ringsRun();
  assertEquals(source.guest.take(), ["thaw"]);
});

moving("nothing is frozen for a frontend that reads no more", (source) => {
  source.hangUp(source.begin(SAVE));
  source.run();
  assertEquals(source.migration.check(), Errno.EIO);
  assertEquals(source.guest.take(), ["thaw"]);
});

moving(
  "a stream is refused as soon as its table of sections is there",
  (source, target) => {
    const bytes = saved(source);
    bytes[65536 + 30] ^= 1;
    const fd = target.begin(LOAD);
    // More than a pipe holds.
    writeSome(fd, bytes);
    target.run();
    writeSome(fd, bytes.subarray(65536));
    target.run();
    assertStringIncludes(target.log.lines.join(), "section table");
    assert(target.migration.check() > 0);
  },
);

moving("the guest runs again while it is saved a second time", (source) => {
  saved(source);
  source.begin(SAVE);
  source.guest.take();
  source.migration.ringsRun();
  assertEquals(source.migration.check(), Errno.ECANCELED);
  assertEquals(source.guest.take(), ["thaw"]);
});

moving("a second load takes the place of the first", (source, target) => {
  const bytes = saved(source);
  for (let i = 0; i < 2; i++) {
    target.send(target.begin(LOAD), bytes);
    target.run();
    assertEquals(target.migration.check(), 0);
  }
  assertEquals(target.guest.take(), ["restore", "discard", "restore"]);
});

for (const what of ["a pipe", "a file"]) {
  for (const direction of [SAVE, LOAD]) {
    const name = `${what} for a ${direction === SAVE ? "save" : "load"}`;
    moving(`without descriptors ${name} is refused, and a later one taken`, (source) => {
      const [reading, writing] = createPipe();
      const fds = [reading, writing, memfdCreate("state", 4096)];
      const fd = what === "a file" ? fds[2] : direction === SAVE ? writing : reading;
      withoutDescriptors(() => {
        const { accepted } = source.migration.begin(direction, STOPPED, fd, true);
        assertEquals(accepted, false);
      });
      for (const fd of fds) close(fd);
      source.migration.gone();
      assert(source.begin(direction) !== -1);
    });
  }
}

for (const call of ["freeze", "save", "restore"]) {
  moving(`out of memory in ${call}: the transfer fails alone`, (source, target) => {
    const bytes = saved(source);
    source.migration.ringsRun();
    const side = call === "restore" ? target : source;
    side.guest.take();
    side.guest.throwing = call;
    if (side === target) side.send(side.begin(LOAD), bytes);
    else side.begin(SAVE);
    side.run();
    assertEquals(side.migration.check(), Errno.ENOMEM);
    assertEquals(side.guest.take().at(-1), side === target ? "discard" : "thaw");
    assertStringIncludes(side.log.lines.join(), "migration failed");
  });
}

Deno.test("a transfer that comes byte by byte does not keep the loop for itself", async () => {
  using source = new SideOfMove();
  using target = new SideOfMove();
  const bytes = saved(source);
  const fd = target.begin(LOAD);
  writeSome(fd, bytes.subarray(0, bytes.length - 1));
  target.run();
  // Seconds of it, which are too long a tail once they have come.
  const drip = 'exec 3>"$0"; echo; exec dd if=/dev/zero bs=1 count=5000000 >&3';
  const child = new Deno.Command("sh", {
    args: ["-c", drip, `/proc/${Deno.pid}/fd/${fd}`],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  try {
    const reader = child.stdout.getReader();
    await reader.read();
    target.hangUp(fd);
    assertEquals(target.migration.check(), Errno.EBUSY);
    await reader.cancel();
  } finally {
    child.kill();
  }
  assertEquals((await child.status).signal, "SIGTERM", "it was not waited for");
});

moving("a late event of an earlier transfer means nothing", (source) => {
  const first = source.begin(LOAD);
  source.epoll.wait(0);
  source.hangUp(first);
  source.run();
  const fd = source.begin(LOAD);
  source.migration.onEvent(EPOLLHUP, 1);
  assertEquals(source.begin(LOAD), -1, "the second one is under way");
  source.hangUp(fd);
});
