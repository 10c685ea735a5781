import { assertEquals, assertThrows } from "@std/assert";
import { SyscallError } from "./errno.ts";
import { Epoll, EPOLLIN } from "./event.ts";
import { FolderWatch } from "./inotify.ts";

const NOTHING = { names: [], overflowed: false, gone: false };

function inFolder(body: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test("names that are made in a folder or moved into it", () => {
  inFolder((parent) => {
    const folder = `${parent}/watched`;
    Deno.mkdirSync(folder);
    Deno.writeTextFileSync(`${folder}/before`, "");
    const watch = new FolderWatch(folder);
    const epoll = new Epoll(1);
    epoll.add(watch.fd, EPOLLIN, 0);
    assertEquals(watch.read(), NOTHING);

    Deno.writeTextFileSync(`${folder}/a`, "text");
    Deno.writeTextFileSync(`${parent}/outside`, "");
    Deno.renameSync(`${parent}/outside`, `${folder}/${"Ä".repeat(120)}`);
    Deno.mkdirSync(`${folder}/deep`);
    Deno.writeTextFileSync(`${folder}/deep/file`, "");
    Deno.removeSync(`${folder}/a`);
    assertEquals(epoll.wait(0), 1);
    const names = ["a", "Ä".repeat(120), "deep"];
    assertEquals(watch.read(), { ...NOTHING, names });
    assertEquals(epoll.wait(0), 0);

    Deno.renameSync(folder, `${parent}/away`);
    assertEquals(watch.read(), { ...NOTHING, gone: true });
    Deno.removeSync(`${parent}/away`, { recursive: true });
    assertEquals(watch.read(), { ...NOTHING, gone: true });
    epoll.close();
    watch.close();
  });
});

Deno.test("more names than the kernel remembers", () => {
  const limit = "/proc/sys/fs/inotify/max_queued_events";
  const most = Number(Deno.readTextFileSync(limit));
  inFolder((folder) => {
    const watch = new FolderWatch(folder);
    // Of equal events that follow each other the kernel keeps one.
    for (let i = 0; i <= most; i++) {
      const path = `${folder}/${i % 2}`;
      Deno.mkdirSync(path);
      Deno.removeSync(path);
    }
    const { names, overflowed, gone } = watch.read();
    assertEquals([names.length, overflowed, gone], [most, true, false]);
    watch.close();
  });
});

Deno.test("what cannot be watched", () => {
  inFolder((folder) => {
    Deno.writeTextFileSync(`${folder}/file`, "");
    assertThrows(() => new FolderWatch(`${folder}/none`), SyscallError, "ENOENT");
    assertThrows(() => new FolderWatch(`${folder}/file`), SyscallError, "file");
  });
});
