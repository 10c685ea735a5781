/** Sockets that are made ahead and closed behind. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Errno, errno } from "../../../ffi/errno.ts";
import { awaitReady, POLLOUT } from "../../../ffi/pipe.ts";
import {
  AF_INET,
  AF_INET6,
  connectSocket,
  getOption,
  IPPROTO_TCP,
  openSocket,
  SO_ERROR,
  SO_OOBINLINE,
  SO_PEEK_OFF,
  SOCK_STREAM,
  SOL_SOCKET,
  supportsPeekOffset,
  TCP_NODELAY,
} from "../../../ffi/socket.ts";
import { withoutDescriptors } from "../../../tests/support/descriptor_limit.ts";
import {
  HostListener,
  HostTcp,
  LOOPBACK4,
  LOOPBACK6,
} from "../../../tests/support/host_tcp.ts";
import { SpareSockets } from "./spare.ts";

const SO_DOMAIN = 39;
/** How long a handshake on loopback may take. */
const LONG_MS = 10_000;

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

  Deno.test(`a socket serves again as it was, family ${family}`, () => {
    const spares = new SpareSockets();
    const peek = supportsPeekOffset(family);
    const address = four ? LOOPBACK4 : LOOPBACK6;
    const listener = new HostListener(address);
    const closed = new HostListener(address);
    closed.close();
    const fd = spares.take(four, peek);
    const connect = (port: number) => {
      assertEquals(connectSocket(fd, address, 0, port), -1);
      assertEquals(errno(), Errno.EINPROGRESS);
      assert(awaitReady(fd, POLLOUT, LONG_MS));
    };
    const again = () => {
      assertEquals(spares.reuse(fd, four, peek), true);
      assertEquals(spares.take(four, peek), fd);
      assertNotEquals(getOption(fd, IPPROTO_TCP, TCP_NODELAY), 0);
      assertNotEquals(getOption(fd, SOL_SOCKET, SO_OOBINLINE), 0);
      if (peek) assertEquals(getOption(fd, SOL_SOCKET, SO_PEEK_OFF), 0);
    };
    connect(closed.port);
    assertEquals(getOption(fd, SOL_SOCKET, SO_ERROR), Errno.ECONNREFUSED);
    again();
    connect(listener.port);
    const first = listener.accept()!;
    again();
    assertEquals(first.receive(), Errno.ECONNRESET, "the guest has gone by then");
    connect(listener.port);
    const second = listener.accept()!;
    assertEquals(second.send(Uint8Array.of(1, 2, 3)), 3);
    assertEquals(new HostTcp(fd).receive(), Uint8Array.of(1, 2, 3));
    for (const one of [first, second, listener]) one.close();
    closeAll(spares, [fd]);
  });
}

Deno.test("no more sockets serve again than are kept, none where they are scarce", () => {
  const supply = { scarce: false };
  const spares = new SpareSockets(supply);
  const fds = Array.from({ length: 17 }, () => spares.take(true, false));
  supply.scarce = true;
  assertEquals(spares.reuse(fds[0], true, false), false);
  supply.scarce = false;
  assertEquals(fds.map((fd) => spares.reuse(fd, true, false)), [
    ...Array(16).fill(true),
    false,
  ]);
  assertEquals(spares.reuse(fds[16], false, false), true, "of the other family");
  closeAll(spares, []);
  assertEquals(fds.filter(isOpen), []);
});

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
