/** Sockets that are made ahead and closed behind. */
import { assertEquals, assertNotEquals } from "@std/assert";
import {
  AF_INET,
  AF_INET6,
  getOption,
  IPPROTO_TCP,
  openSocket,
  SO_OOBINLINE,
  SO_PEEK_OFF,
  SOCK_STREAM,
  SOL_SOCKET,
  supportsPeekOffset,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
import { withoutDescriptors } from "../../../tests/support/descriptor_limit.ts";
import { SpareSockets } from "./spare.ts";

const SO_DOMAIN = 39;

function isOpen(fd: number): boolean {
  return getOption(fd, SOL_SOCKET, SO_DOMAIN, -1) !== -1;
}

function closeAll(spares: SpareSockets, fds: readonly number[]): void {
  for (const fd of fds) spares.close(fd);
  spares.work(false, false);
  spares.clear();
}

for (const [four, family] of [[true, AF_INET], [false, AF_INET6]] as const) {
  Deno.test(`spare sockets are as those that are made at need, family ${family}`, () => {
    const spares = new SpareSockets();
    const peek = supportsPeekOffset(family);
    assertEquals(spares.waiting, false, "none is made before the first is needed");
    const first = spares.take(four, peek);
    assertEquals(spares.waiting, true);
    spares.work(peek, peek);
    assertEquals(spares.waiting, false);
    const fds = [first];
    withoutDescriptors(() => {
      for (let i = 0; i < 16; i++) fds.push(spares.take(four, peek));
      assertEquals(spares.take(four, peek), -1);
    });
    assertEquals(new Set(fds).size, 17);
    for (const fd of fds) {
      assertEquals(getOption(fd, SOL_SOCKET, SO_DOMAIN), family);
      assertNotEquals(getOption(fd, IPPROTO_TCP, TCP_NODELAY), 0);
      assertNotEquals(getOption(fd, SOL_SOCKET, SO_OOBINLINE), 0);
      if (peek) assertEquals(getOption(fd, SOL_SOCKET, SO_PEEK_OFF), 0);
    }
    closeAll(spares, fds);
    assertEquals(fds.filter(isOpen), []);
  });
}

Deno.test("a socket to be closed stays open until there is time; not too many do", () => {
  const spares = new SpareSockets();
  const fds: number[] = [];
  for (let i = 0; i < 300; i++) fds.push(openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
  for (const fd of fds) spares.close(fd);
  assertEquals(fds.filter(isOpen).length, 256);
  assertEquals(spares.waiting, true);
  spares.work(true, true);
  assertEquals(fds.filter(isOpen), []);
  assertEquals(spares.waiting, false);
});

Deno.test("a host without descriptors is not asked for spare sockets over and over", () => {
  const spares = new SpareSockets();
  const first = spares.take(true, false);
  withoutDescriptors(() => spares.work(false, false));
  assertEquals(spares.waiting, false);
  closeAll(spares, [first]);
});
