/** Who may connect to vuelo's sockets. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Errno, errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { connectUnix, isHungUp, receive, send } from "../../ffi/unix_socket.ts";
import { background, inFolder, IS_ROOT, run } from "../support/cli.ts";
import { payload } from "../support/frontend.ts";
import { until } from "../support/lab_process.ts";
import { asUser } from "../support/other_user.ts";

const FIXED = ["-4", "-a", "192.0.2.5/24", "-g", "192.0.2.1"];
const GET_FEATURES = 1;
const OTHER = 54321;
const GROUP = 54322;

const modeOf = (path: string) => (Deno.lstatSync(path).mode ?? 0) & 0o777;

/** vuelo with a socket and a log of its own in a fresh folder. */
async function serving(
  args: readonly string[],
  body: (path: string, log: () => string) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const log = `${folder}/log`;
    const all = [...FIXED, "-s", path, "-l", log, ...args];
    await background(folder, all, () => body(path, () => Deno.readTextFileSync(log)));
  });
}

/** Whether a frontend that has connected is answered, or else closed. */
async function isServed(fd: number): Promise<boolean> {
  send(fd, payload(["u32", GET_FEATURES], ["u32", 1], ["u32", 0]));
  const reply = new Uint8Array(20);
  let count = -1;
  await until("an answer, or the end", () => {
    count = receive(fd, reply, []);
    return count >= 0 || errno() !== Errno.EAGAIN;
  });
  close(fd);
  return count === reply.length;
}

Deno.test("a group of one's own may connect: mode 0660, of both sockets", async () => {
  const own = String(Deno.gid());
  await serving(["--socket-group", own], async (path) => {
    for (const socket of [path, `${path}.repair`]) {
      assertEquals([modeOf(socket), Deno.lstatSync(socket).gid], [0o660, Deno.gid()]);
    }
    assert(await isServed(connectUnix(path)));
  });
  await serving([], async (path) => {
    assertEquals([modeOf(path), modeOf(`${path}.repair`)], [0o600, 0o600]);
    assert(await isServed(connectUnix(path)));
  });
  const wrong = await run([...FIXED, "--socket-group", "no-such-group"]);
  assertEquals(wrong.code, 2);
  assertStringIncludes(wrong.stderr, "the host has no such group");
});

Deno.test("links and files at the paths are refused, and stay as they are", async () => {
  await inFolder(async (folder) => {
    const target = `${folder}/target`;
    Deno.writeTextFileSync(target, "precious");
    Deno.symlinkSync(target, `${folder}/link`);
    Deno.symlinkSync(`${folder}/nothing`, `${folder}/dangling`);
    for (const name of ["target", "link", "dangling"]) {
      for (
        const [option, other] of [["-s", []], ["--repair-path", ["-s", `${folder}/s`]]]
      ) {
        const args = [...FIXED, ...other, option as string, `${folder}/${name}`];
        const { code, stderr } = await run(["-f", ...args]);
        assertEquals(code, 1, stderr);
        assertStringIncludes(stderr, "exists and is not a socket");
      }
    }
    assertEquals(Deno.readTextFileSync(target), "precious");
    assert(Deno.lstatSync(`${folder}/dangling`).isSymlink);
  });
});

if (IS_ROOT) {
  Deno.test("others are refused, with the remedy in the log; root is served", async () => {
    await serving([], async (path, log) => {
      Deno.chmodSync(path, 0o666);
      Deno.chmodSync(`${path}.repair`, 0o666);
      const others = () => asUser(OTHER, GROUP, [GROUP], () => connectUnix(path));
      assert(!await isServed(others()));
      assertMatch(
        log(),
        /refused a connection of user 54321 \(process \d+\), expected root: start vuelo with --socket-group, or .*--runas/,
      );
      const helper = asUser(OTHER, GROUP, [], () => connectUnix(`${path}.repair`));
      await until("the helper is closed", () => isHungUp(helper));
      close(helper);
      assertEquals(log().match(/refused a connection/g)?.length, 2);
      assert(await isServed(connectUnix(path)));
    });
  });

  Deno.test("who is in the group is served, by either kind of membership", async () => {
    await serving(["--socket-group", String(GROUP)], async (path, log) => {
      const { uid, gid } = Deno.lstatSync(path);
      assertEquals([modeOf(path), uid, gid], [0o660, 0, GROUP]);
      const member = (gid: number, groups: number[]) =>
        asUser(OTHER, gid, groups, () => connectUnix(path));
      assert(await isServed(member(GROUP, [])));
      const many = Array.from({ length: 200 }, (_, i) => 60_000 + i);
      assert(await isServed(member(1, [...many, GROUP])));
      Deno.chmodSync(path, 0o666);
      assert(!await isServed(member(1, many)));
      assertStringIncludes(log(), `expected root or a member of group ${GROUP}`);
    });
  });

  Deno.test("the user of --runas owns the sockets, and is served", async () => {
    await serving(["--runas", String(OTHER)], async (path) => {
      for (const socket of [path, `${path}.repair`]) {
        const { uid, gid } = Deno.lstatSync(socket);
        assertEquals([modeOf(socket), uid, gid], [0o600, OTHER, 0]);
      }
      const own = () => asUser(OTHER, OTHER, [], () => connectUnix(path));
      assert(await isServed(own()));
      assert(await isServed(connectUnix(path)));
    });
  });
}
