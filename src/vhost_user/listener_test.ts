import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { connectUnix, isHungUp, listenUnix } from "../../ffi/unix_socket.ts";
import { StartError } from "../errors.ts";
import { Listener } from "./listener.ts";

const lines: string[] = [];
const log = {
  warn: (message: string) => void lines.push(message),
  info: () => {},
  debug: () => {},
};

function inFolder(name: string, body: (path: string) => void): void {
  Deno.test(name, () => {
    const folder = Deno.makeTempDirSync();
    lines.length = 0;
    try {
      body(`${folder}/vm.sock`);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  });
}

inFolder("the socket has mode 0600 and is removed at the end", (path) => {
  const listener = new Listener(path, log);
  const status = Deno.lstatSync(path);
  assert(status.isSocket);
  assertEquals((status.mode ?? 0) & 0o777, 0o600);
  listener.close();
  listener.close();
  assertThrows(() => Deno.lstatSync(path), Deno.errors.NotFound);
});

inFolder("a socket that nobody listens at is replaced", (path) => {
  close(listenUnix(path));
  const listener = new Listener(path, log);
  close(connectUnix(path));
  listener.close();
});

inFolder("a socket that is in use is refused and stays", (path) => {
  const listener = new Listener(path, log);
  const error = assertThrows(() => new Listener(path, log), StartError);
  assertStringIncludes(error.message, "another process listens there");
  assert(Deno.lstatSync(path).isSocket);
  listener.close();
});

inFolder("another file is never removed, nor what a link points to", (path) => {
  Deno.writeTextFileSync(path, "precious");
  assertThrows(() => new Listener(path, log), StartError, "is not a socket");
  assertEquals(Deno.readTextFileSync(path), "precious");

  const target = `${path}.target`;
  close(listenUnix(target));
  const link = `${path}.link`;
  Deno.symlinkSync(target, link);
  assertThrows(() => new Listener(link, log), StartError, "is not a socket");
  assert(Deno.lstatSync(link).isSymlink && Deno.lstatSync(target).isSocket);
  Deno.mkdirSync(`${path}.folder`);
  assertThrows(() => new Listener(`${path}.folder`, log), StartError, "not a socket");
});

inFolder("the end leaves alone what took the socket's place", (path) => {
  const listener = new Listener(path, log);
  Deno.removeSync(path);
  Deno.writeTextFileSync(path, "new");
  listener.close();
  assertEquals(Deno.readTextFileSync(path), "new");
});

inFolder("paths that cannot be are refused with the reason", (path) => {
  const long = path + "x".repeat(108);
  assertThrows(() => new Listener(long, log), StartError, "expected a socket path");
  assertThrows(() => new Listener("", log), StartError, "expected a socket path");
  assertThrows(() => new Listener(`${path}/no/such`, log), StartError);
});

inFolder("a second frontend is closed, one in place of a dead one is taken", (path) => {
  const listener = new Listener(path, log);
  assertEquals(listener.accept(null), -1);
  const first = connectUnix(path);
  const served = listener.accept(null);
  assert(served >= 0);
  let closed = 0;
  const session = {
    get hungUp() {
      return isHungUp(served);
    },
    close: () => void closed++,
  };
  const second = connectUnix(path);
  assertEquals(listener.accept(session), -1);
  assert(isHungUp(second));
  assertStringIncludes(lines[0], "refused a second frontend");
  assertEquals(closed, 0);

  close(first);
  const third = connectUnix(path);
  const taken = listener.accept(session);
  assert(taken >= 0 && !isHungUp(third));
  assertEquals(closed, 1);
  [second, third, served, taken].forEach(close);
  listener.close();
});
