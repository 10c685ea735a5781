import { assertEquals, assertThrows } from "@std/assert";
import { SyscallError } from "./errno.ts";
import { close } from "./event.ts";
import { countEntries, entriesOf, openFolder } from "./folder.ts";

Deno.test("a folder that is open is counted again and again as it changes", () => {
  const path = Deno.makeTempDirSync();
  const fd = openFolder(path);
  try {
    assertEquals(countEntries(fd), 0);
    // More than one call returns.
    for (let i = 0; i < 1000; i++) Deno.writeTextFileSync(`${path}/entry ${i}`, "");
    assertEquals(countEntries(fd), 1000);
    Deno.removeSync(`${path}/entry 7`);
    assertEquals(countEntries(fd), 999);
    Deno.writeTextFileSync(`${path}/.hidden ü`, "");
    const names = [...Deno.readDirSync(path)].map(({ name }) => name);
    assertEquals(entriesOf(fd).sort(), names.sort());
    assertThrows(() => openFolder(`${path}/none`), SyscallError, "ENOENT");
  } finally {
    close(fd);
    Deno.removeSync(path, { recursive: true });
  }
});
