import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { close, Epoll, EPOLLIN } from "../../ffi/event.ts";
import { connectUnix, isHungUp } from "../../ffi/unix_socket.ts";
import { withoutDescriptors } from "../../tests/support/descriptor_limit.ts";
import { until } from "../../tests/support/lab_process.ts";
import { ScriptedHelper } from "../../tests/support/repair_scripted.ts";
import type { Behaviour } from "../../tests/support/repair_worker.ts";
import { StartError } from "../errors.ts";
import { openRepairLink, RepairLink } from "./link.ts";
import { newTcpSocket } from "./switch.ts";

const lines: string[] = [];
const write = (line: string) => void lines.push(line);
const report = { error: write, warn: write, info: write, debug: () => {} };

function withLink(name: string, body: (link: RepairLink) => void | Promise<void>): void {
  Deno.test(name, async () => {
    const folder = Deno.makeTempDirSync();
    lines.length = 0;
    const link = new RepairLink(`${folder}/vm.sock.repair`, report);
    try {
      await body(link);
    } finally {
      link.close();
      Deno.removeSync(folder, { recursive: true });
    }
  });
}

withLink("one helper at a time; a hang-up frees the place", (link) => {
  assertEquals(link.connected, false);
  assertMatch(link.describe(), /^no helper at .*vm\.sock\.repair: start vuelo repair /);
  const epoll = new Epoll(1);
  epoll.add(link.fd, EPOLLIN, 0);
  assertEquals(epoll.wait(0), 0);

  const first = connectUnix(link.path);
  assertEquals(epoll.wait(0), 1);
  link.onReadable();
  assertEquals(epoll.wait(0), 0);
  assert(link.connected);
  assertMatch(lines[0], new RegExp(`repair helper \\(process ${Deno.pid}\\) connected`));

  const second = connectUnix(link.path);
  assertEquals(epoll.wait(0), 1);
  link.onReadable();
  assert(isHungUp(second));
  assert(!isHungUp(first));
  assertMatch(lines[1], /refused a second repair helper/);

  close(first);
  assertEquals(epoll.wait(0), 1);
  link.onReadable();
  assertEquals(epoll.wait(0), 0);
  assertEquals(link.connected, false);
  assertMatch(lines[2], /has ended the connection/);

  const third = connectUnix(link.path);
  assert(link.available, "without the loop having looked");
  for (const fd of [second, third]) close(fd);
  assertEquals(link.available, false);
  epoll.close();
});

withLink(
  "without a descriptor a helper waits, and does not keep the loop busy",
  (link) => {
    const epoll = new Epoll(1);
    epoll.add(link.fd, EPOLLIN, 0);
    const helper = connectUnix(link.path);
    assertEquals(epoll.wait(0), 1);
    withoutDescriptors(() => link.onReadable());
    assertEquals(epoll.wait(0), 0);
    assertEquals(link.connected, false);
    assertMatch(lines[0], /a connection waits \(EMFILE\)/);
    while (epoll.wait(10) === 0) link.turn();
    link.onReadable();
    assert(link.connected && !isHungUp(helper));
    close(helper);
    epoll.close();
  },
);

withLink("without a helper there is an error number and a line", (link) => {
  assertEquals(link.switchSockets([0], true), Errno.ENOTCONN);
  assertMatch(lines[0], /TCP repair on: no helper at .* start vuelo repair/);
  assertEquals(link.switchSockets([], true), 0);
});

// What the helper does with a message, the error number and what the log says.
const FAILURES: [Behaviour, number, RegExp][] = [
  ["hang up", Errno.ECONNRESET, /expected the answer 1: it has ended the connection/],
  ["wrong", Errno.EPROTO, /expected the answer 1: it answered 0/],
  ["descriptors", Errno.EPROTO, /it answered with descriptors/],
  ["lie", Errno.EPROTO, /it answered that it did, but did not/],
  ["silent", Errno.ETIMEDOUT, /it did not answer within 50 ms/],
];
for (const [behaviour, number, line] of FAILURES) {
  withLink(`a helper that fails: ${behaviour}`, async (link) => {
    const helper = await ScriptedHelper.connected(link, { behaviours: [behaviour] });
    const socket = newTcpSocket();
    const timeout = behaviour === "silent" ? 50 : 30_000;
    assertEquals(link.switchSockets([socket], true, timeout), number);
    const last = lines.at(-1) ?? "";
    assertMatch(last, line);
    assertMatch(last, /was asked for TCP repair on of 1 sockets.*connection closed$/);
    assertEquals(link.connected, false);
    assertEquals((await helper.end()).commands, [1]);
    close(socket);
  });
}

withLink("a helper that answers twice loses its connection", async (link) => {
  const helper = await ScriptedHelper.connected(link, { behaviours: ["twice"] });
  const fds = Array.from({ length: 300 }, newTcpSocket);
  // The second answer to the first message is none to the second message.
  assertEquals(link.switchSockets(fds, true, 30_000), Errno.EPROTO);
  assertEquals(link.connected, false);
  await helper.end();
  fds.forEach(close);
});

withLink("a helper that speaks unasked loses its connection", async (link) => {
  const orders = { path: link.path, behaviours: ["switch"] as const, unasked: true };
  const helper = new ScriptedHelper(orders);
  await until("it was heard", () => {
    link.onReadable();
    return lines.some((line) => line.includes("sent 1 unasked; connection closed"));
  });
  assertEquals(link.connected, false);
  assertEquals((await helper.end()).batches, []);
});

withLink("descriptors that are none are no fault of the helper's", async (link) => {
  const helper = await ScriptedHelper.connected(link, { behaviours: ["switch"] });
  assertEquals(link.switchSockets([1_000_000], true), Errno.EBADF);
  assert(link.connected);
  link.close();
  assertEquals((await helper.end()).batches, []);
});

Deno.test("where the configuration has it listen", () => {
  const folder = Deno.makeTempDirSync();
  const socketPath = `${folder}/vm.sock`;
  assertEquals(openRepairLink({ repairPath: "none", socketPath }), undefined);
  assertEquals(openRepairLink({}), undefined);
  const long = `${folder}/${"a".repeat(100 - folder.length)}`;
  assertEquals(
    openRepairLink({ socketPath: long }),
    undefined,
    "its default is too long",
  );
  assertThrows(
    () => openRepairLink({ repairPath: `${folder}/none/there`, socketPath }),
    StartError,
  );

  const link = openRepairLink({ socketPath });
  assertEquals(link?.path, `${socketPath}.repair`);
  assertEquals((Deno.lstatSync(`${socketPath}.repair`).mode ?? 0) & 0o777, 0o600);
  link?.close();
  const other = openRepairLink({ repairPath: `${folder}/other`, socketPath });
  assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["other"]);
  other?.close();
  assertEquals([...Deno.readDirSync(folder)], []);
  Deno.removeSync(folder);
});
