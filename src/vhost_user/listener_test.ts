import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { close, Epoll } from "../../ffi/event.ts";
import { withoutDescriptors } from "../../tests/support/descriptor_limit.ts";
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

inFolder("the socket is nobody's to be replaced until it is removed", (path) => {
  const listener = new Listener(path, log);
  const { removeSync } = Deno;
  Deno.removeSync = (name) => {
    assertThrows(() => new Listener(path, log), StartError, "another process listens");
    removeSync(name);
  };
  try {
    listener.close();
  } finally {
    Deno.removeSync = removeSync;
  }
  assertThrows(() => Deno.lstatSync(path), Deno.errors.NotFound);
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

inFolder(
  "without a descriptor a frontend waits, and does not keep the loop busy",
  (path) => {
    const listener = new Listener(path, log);
    const epoll = new Epoll(4);
    listener.watch(epoll, 7);
    const first = connectUnix(path);
    assertEquals([epoll.wait(0), epoll.data(0)], [1, 7]);
    withoutDescriptors(() => {
      assertEquals(listener.accept(null), -1);
      assertEquals(listener.accept(null), -1);
    });
    assertEquals(epoll.wait(0), 0, "it is not watched");
    assertEquals(lines.length, 1);
    assertStringIncludes(lines[0], "a connection waits (EMFILE): raise the limit");
    while (epoll.wait(10) === 0) listener.turn();
    const served = listener.accept(null);
    assert(served >= 0 && !isHungUp(first));
    assertEquals(epoll.wait(0), 0);
    const second = connectUnix(path);
    assertEquals(epoll.wait(0), 1, "watched as before");
    [first, second, served].forEach(close);
    listener.close();
    epoll.close();
  },
);

inFolder("what takes the place of a stale socket meanwhile stays", (path) => {
  close(listenUnix(path));
  const { randomUUID } = crypto;
  let live = -1;
  // Another vuelo is faster: when this one is about to remove the stale socket, it has.
  crypto.randomUUID = () => {
    Deno.removeSync(path);
    live = listenUnix(path);
    return randomUUID.call(crypto);
  };
  try {
    assertThrows(() => new Listener(path, log), StartError, "another process takes it");
  } finally {
    crypto.randomUUID = randomUUID;
  }
  close(connectUnix(path));
  close(live);
  const folder = path.slice(0, path.lastIndexOf("/"));
  assertEquals([...Deno.readDirSync(folder)].length, 1, "nothing is left aside");
});
