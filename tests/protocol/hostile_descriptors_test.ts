/** Descriptors of a frontend's that are not what they seem. */
import { assert, assertEquals } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { createNew } from "../../ffi/folder_entry.ts";
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { inFolder } from "../support/cli.ts";
import { state, u64 } from "../support/frontend.ts";
import {
  HostileLink,
  HostileRam,
  MARKER,
  message,
  ringAddress,
} from "../support/hostile_link.ts";
import { Quarry, served } from "../support/quarry.ts";

/** VERSION_1 and protocol features. */
const FEATURES = 2 ** 32 + 2 ** 30;
const PLACE = { desc: 0, avail: 0x1000, used: 0x2000 };
const own = new GuestMemory(2 ** 30);

/**
 * A regular file, which nobody can wait for, and of which /proc/self/fd does not say what
 * it is: its path is too long.
 */
function nameless(folder: string): number {
  const part = (name: string) => name.repeat(200);
  const deep = Array.from({ length: 15 }, () => part("d")).join("/");
  const before = Array.from({ length: 7 }, () => part("b")).join("/");
  Deno.mkdirSync(`${folder}/a/${deep}`, { recursive: true });
  Deno.mkdirSync(`${folder}/${before}`, { recursive: true });
  const fd = createNew(`${folder}/a/${deep}/file`, 0o600);
  Deno.renameSync(`${folder}/a`, `${folder}/${before}/a`);
  return fd;
}

for (const pair of [0, 1]) {
  const whose = pair === 0 ? "a ring" : "another thread's ring";
  Deno.test(`a kick that cannot be waited for is refused for ${whose}`, async () => {
    await inFolder(async (folder) => {
      const quarry = new Quarry(folder, "quarry", pair > 0 ? ["--queues", "2"] : []);
      const ram = new HostileRam();
      const fd = nameless(folder);
      try {
        await quarry.ready();
        const link = new HostileLink(quarry.path);
        link.negotiate(FEATURES, link.get(MARKER)[0], ram);
        const index = 2 * pair + 1;
        link.do(8, state(index, 256));
        link.do(9, ringAddress(index, PLACE));
        link.send(message(12, u64(index), 9), [fd]);
        const answer = link.answer();
        assertEquals([...answer!.payload], [1, 0, 0, 0, 0, 0, 0, 0]);
        link.close();
        const guest = await quarry.guest(own);
        await served(guest);
        guest.close();
        assert(!quarry.process.ended, quarry.text);
      } finally {
        close(fd);
        ram.close();
        await quarry.stop();
      }
    });
  });
}
