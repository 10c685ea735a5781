import { assertEquals, assertThrows } from "@std/assert";
import { Errno, SyscallError } from "./errno.ts";
import { openOwnFile } from "./own_file.ts";
import { close } from "./event.ts";
import { giveTo, pointTo, renameToNew } from "./folder_entry.ts";

const OTHER = 54321;
const MODE = 0o600;

function inFolder(body: (folder: string) => void): () => void {
  return () => {
    const folder = Deno.makeTempDirSync();
    try {
      body(folder);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  };
}

function write(path: string, text: string, truncate = false): void {
  const file = openOwnFile(path, { truncate, mode: MODE });
  file.writeSync(new TextEncoder().encode(text));
  file.close();
}

Deno.test(
  "a file is created with its mode, and opened again",
  inFolder((folder) => {
    const path = `${folder}/file`;
    write(path, "first");
    assertEquals((Deno.lstatSync(path).mode ?? 0) & 0o777, MODE);
    write(path, "FI");
    assertEquals(Deno.readTextFileSync(path), "FIrst");
    write(path, "new", true);
    assertEquals(Deno.readTextFileSync(path), "new");
    const file = openOwnFile(path, { read: true, mode: MODE });
    const bytes = new Uint8Array(8);
    assertEquals(file.readSync(bytes), 3);
    file.close();
    assertThrows(() => write(`${folder}/none/file`, ""), SyscallError, "ENOENT");
  }),
);

Deno.test(
  "one's own links are followed, in circles not",
  inFolder((folder) => {
    Deno.symlinkSync("target", `${folder}/link`);
    Deno.symlinkSync(`${folder}/link`, `${folder}/second`);
    write(`${folder}/second`, "through two links");
    assertEquals(Deno.readTextFileSync(`${folder}/target`), "through two links");
    Deno.symlinkSync("b", `${folder}/a`);
    Deno.symlinkSync("a", `${folder}/b`);
    const error = assertThrows(() => write(`${folder}/a`, ""), SyscallError);
    assertEquals(error.number, Errno.ELOOP);
  }),
);

// Only root can have files of others here; how it is for others follows from the same.
if (Deno.uid() === 0) {
  Deno.test(
    "links and files of others are no trap in a folder of everybody's",
    inFolder((folder) => {
      Deno.writeTextFileSync(`${folder}/precious`, "precious");
      Deno.symlinkSync("precious", `${folder}/link`);
      const link = pointTo(`${folder}/link`);
      giveTo(link, OTHER, OTHER);
      close(link);
      Deno.writeTextFileSync(`${folder}/file`, "theirs");
      Deno.chownSync(`${folder}/file`, OTHER, OTHER);
      write(`${folder}/file`, "T"); // nobody else could have put it there
      write(`${folder}/link`, "P");
      Deno.chmodSync(folder, 0o1777);
      const trap = (name: string, what: string) =>
        assertThrows(() => write(`${folder}/${name}`, "", true), Error, what);
      trap("link", `a symbolic link of user ${OTHER}`);
      trap("file", `a file of user ${OTHER}`);
      assertEquals(Deno.readTextFileSync(`${folder}/precious`), "Precious");
      assertEquals(Deno.readTextFileSync(`${folder}/file`), "Theirs");
      Deno.chownSync(folder, OTHER, OTHER);
      write(`${folder}/file`, "their own folder", true);
      Deno.chmodSync(folder, 0o755);
      trap("link", `a symbolic link of user ${OTHER}`);
      assertEquals(Deno.readTextFileSync(`${folder}/precious`), "Precious");
    }),
  );
}

Deno.test(
  "a rename replaces nothing",
  inFolder((folder) => {
    Deno.writeTextFileSync(`${folder}/a`, "a");
    Deno.writeTextFileSync(`${folder}/b`, "b");
    const error = assertThrows(
      () => renameToNew(`${folder}/a`, `${folder}/b`),
      SyscallError,
    );
    assertEquals(error.number, Errno.EEXIST);
    assertEquals(renameToNew(`${folder}/a`, `${folder}/c`), true);
    assertEquals(Deno.readTextFileSync(`${folder}/c`), "a");
  }),
);
