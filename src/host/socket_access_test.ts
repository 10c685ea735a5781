import { assertEquals, assertThrows } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { effectiveUser } from "../../ffi/process.ts";
import { listenUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { grant } from "./socket_access.ts";

Deno.test("what has taken a socket's place is given to nobody", () => {
  const folder = Deno.makeTempDirSync();
  const [file, socket, link] = ["file", "socket", "link"].map((name) =>
    `${folder}/${name}`
  );
  const modeOf = (path: string) => (Deno.lstatSync(path).mode ?? 0) & 0o777;
  const access = { user: effectiveUser(), group: Deno.gid() ?? 0 };
  try {
    Deno.writeTextFileSync(file, "precious", { mode: 0o600 });
    close(listenUnix(socket));
    Deno.symlinkSync(socket, link);
    for (const path of [file, link]) {
      assertThrows(() => grant(path, access), StartError, "something else has taken");
    }
    assertThrows(() => grant(`${folder}/nothing`, access), StartError, "ENOENT");
    assertEquals([modeOf(file), modeOf(socket)], [0o600, 0o600]);
    grant(socket, access);
    assertEquals(modeOf(socket), 0o660);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
