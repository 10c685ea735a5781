import { assert, assertEquals, assertThrows } from "@std/assert";
import { SyscallError } from "./errno.ts";
import {
  close,
  Epoll,
  EPOLLIN,
  EPOLLOUT,
  eventfdCreate,
  eventfdRead,
  eventfdWrite,
  isPollable,
} from "./event.ts";

Deno.test("Epoll.wait() names the ready descriptor by both words of its data", () => {
  const epoll = new Epoll(4);
  const a = eventfdCreate();
  const b = eventfdCreate();
  epoll.add(a, EPOLLIN, 0xdead_beef, 7);
  epoll.add(b, EPOLLIN, 2, 0xffff_ffff);
  assertEquals(epoll.wait(0), 0);

  eventfdWrite(b);
  assertEquals(epoll.wait(-1), 1);
  assertEquals(epoll.events(0), EPOLLIN);
  assertEquals(epoll.data(0), 2);
  assertEquals(epoll.high(0), 0xffff_ffff);

  eventfdWrite(a);
  assertEquals(epoll.wait(-1), 2);
  const found = [0, 1].map((i) => `${epoll.data(i)}:${epoll.high(i)}`).sort();
  assertEquals(found, [`2:${0xffff_ffff}`, `${0xdead_beef}:7`]);

  epoll.remove(b);
  epoll.modify(a, EPOLLOUT, 9);
  assertEquals(epoll.wait(-1), 1);
  assertEquals([epoll.events(0), epoll.data(0), epoll.high(0)], [EPOLLOUT, 9, 0]);
  [a, b].forEach(close);
  epoll.close();
});

Deno.test("Epoll reports what the kernel refuses", () => {
  const epoll = new Epoll(1);
  const fd = eventfdCreate();
  const error = assertThrows(() => epoll.remove(fd), SyscallError);
  assertEquals(error.message, `epoll_ctl of descriptor ${fd}: ENOENT`);
  assertThrows(() => epoll.add(9_999_999, EPOLLIN, 0), SyscallError, "EBADF");
  close(fd);
  epoll.close();
});

Deno.test("eventfd counts writes until it is read", () => {
  const fd = eventfdCreate();
  assertEquals(eventfdRead(fd), 0);
  for (let i = 0; i < 3; i++) assert(eventfdWrite(fd));
  assertEquals(eventfdRead(fd), 3);
  assertEquals(eventfdRead(fd), 0);
  close(fd);
  assert(!eventfdWrite(fd));
});

Deno.test("isPollable() refuses regular files and closed descriptors", () => {
  const fd = eventfdCreate();
  assert(isPollable(fd));
  close(fd);
  assert(!isPollable(fd));
});
