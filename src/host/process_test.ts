import { assert, assertEquals, assertThrows } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { listenUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { PidFile } from "./pid_file.ts";
import { parseUser } from "./privileges.ts";
import { freeSocketPath } from "./socket_path.ts";

Deno.test("users and groups by name and by number", () => {
  const root = { uid: 0, gid: 0 };
  assertEquals(parseUser("root"), root);
  assertEquals(parseUser("0"), root);
  assertEquals(parseUser("root:root"), root);
  assertEquals(parseUser("54321"), { uid: 54321, gid: 54321 });
  assertEquals(parseUser("54321:7"), { uid: 54321, gid: 7 });
  for (
    const wrong of ["", ":", "root:", ":root", "a:b:c", "no-such-user", "0:no-such-group"]
  ) {
    assertEquals(parseUser(wrong), undefined, wrong);
  }
  for (const wrong of ["-1", "4294967295", "1e3", "99999999999"]) {
    assertEquals(parseUser(wrong), undefined, wrong);
  }
});

Deno.test("the first path where nobody listens and nothing else is", () => {
  const folder = Deno.makeTempDirSync();
  const path = (n: number) => `${folder}/vuelo_${n}.socket`;
  try {
    const live = listenUnix(path(1));
    close(listenUnix(path(2))); // stale
    assertEquals(freeSocketPath(folder), path(2));
    assertThrows(() => Deno.lstatSync(path(2)), Deno.errors.NotFound);
    Deno.writeTextFileSync(path(2), "a file");
    Deno.symlinkSync(path(4), path(3));
    assertEquals(freeSocketPath(folder), path(4));
    assertEquals(Deno.readTextFileSync(path(2)), "a file");
    assert(Deno.lstatSync(path(3)).isSymlink);
    close(live);
    assertEquals(freeSocketPath(folder), path(1));
    for (let n = 1; n <= 64; n++) {
      if (n > 3) Deno.writeTextFileSync(path(n), "");
    }
    Deno.writeTextFileSync(path(1), "");
    assertThrows(() => freeSocketPath(folder), StartError, "--socket-path");
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("a PID file is opened first and written later", () => {
  const folder = Deno.makeTempDirSync();
  try {
    Deno.writeTextFileSync(`${folder}/pid`, "something longer than a number\n");
    const file = new PidFile(`${folder}/pid`);
    assertEquals(Deno.readTextFileSync(`${folder}/pid`), "");
    file.write();
    assertEquals(Deno.readTextFileSync(`${folder}/pid`), `${Deno.pid}\n`);
    assertThrows(
      () => new PidFile(`${folder}/none/pid`),
      StartError,
      `${folder}/none/pid`,
    );
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
