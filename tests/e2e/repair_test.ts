/**
 * `vuelo repair` against a scripted service, vuelo's side against real helpers. With the
 * guests' tests since they, too, need the rights of root in a network namespace.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { program } from "../../scripts/lab/packages.ts";
import { passt } from "../../scripts/lab/passt.ts";
import { Errno } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import {
  AF_INET,
  getOption,
  IPPROTO_UDP,
  listenSocket,
  openSocket,
  SO_RCVBUF,
  SO_SNDBUF,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../../ffi/socket.ts";
import { RepairLink } from "../../src/repair/link.ts";
import { newTcpSocket, OwnRepair, probeRepair } from "../../src/repair/switch.ts";
import { inFolder, run as runVuelo } from "../support/cli.ts";
import { HostListener, HostTcp, LOOPBACK4 } from "../support/host_tcp.ts";
import { Process, run, until } from "../support/lab_process.ts";
import { asUser } from "../support/other_user.ts";
import { modes, RepairClient, startHelper } from "../support/repair_client.ts";
import { ScriptedHelper } from "../support/repair_scripted.ts";

const ON = 1;
const OFF = 0;
const OFF_SILENTLY = -1;
const MIB = 1 << 20;
const STRANGER = 54321;

/** Opens TCP sockets for `body`. */
async function withSockets(
  count: number,
  body: (fds: number[]) => void | Promise<void>,
): Promise<void> {
  const fds = Array.from({ length: count }, newTcpSocket);
  try {
    await body(fds);
  } finally {
    fds.forEach(close);
  }
}

/** Starts a helper for a scripted service at a socket. */
async function withHelper(
  body: (client: RepairClient, helper: Process) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    const helper = startHelper([client.path]);
    try {
      await client.accept();
      await body(client, helper);
    } finally {
      client.close();
      await helper.stop();
    }
  });
}

/** Whether this is root of the machine, and not of a user namespace with one user. */
async function hasManyUsers(): Promise<boolean> {
  return (await Deno.readTextFile("/proc/self/uid_map")).trim().split(/\s+/)[2] !== "1";
}

Deno.test("vuelo repair: on, off, off silently; status 0 at the end", async () => {
  await withHelper((client, helper) =>
    withSockets(3, async (fds) => {
      for (const command of [ON, OFF, ON, OFF_SILENTLY, ON]) {
        assertEquals(await client.ask(command, fds), [command & 0xff]);
        assertEquals(modes(fds), Array(3).fill(command === ON ? 1 : 0));
      }
      client.hangUp();
      assertEquals((await helper.status).code, 0);
      assertMatch(helper.output, /ended the connection \(5 requests, 15 sockets\)/);
    })
  );
});

Deno.test("vuelo repair: batches that grow, up to 253, are switched whole", async () => {
  await withHelper((client) =>
    withSockets(253, async (fds) => {
      for (const count of [1, 5, 253, 2, 253]) {
        const batch = fds.slice(0, count);
        assertEquals(await client.ask(ON, batch), [1]);
        assertEquals(modes(batch), Array(count).fill(1));
        assertEquals(await client.ask(OFF, batch), [0]);
        assertEquals(modes(batch), Array(count).fill(0));
      }
      // Two requests in one go are two answers.
      client.send([1], fds.slice(0, 100));
      client.send([1], fds.slice(100));
      const answers = await client.answer();
      while (answers.length < 2) answers.push(...await client.answer());
      assertEquals(answers, [1, 1]);
      assertEquals(modes(fds), Array(253).fill(1));
    })
  );
});

Deno.test("vuelo repair: only new sockets get larger buffers", async () => {
  const ip = await program("ip");
  await run([ip.path, ...ip.args, "link", "set", "lo", "up"]);
  const listener = new HostListener(LOOPBACK4);
  const own = HostTcp.connect(LOOPBACK4, listener.port);
  const fresh = newTcpSocket();
  const sizes = (fd: number) =>
    [SO_SNDBUF, SO_RCVBUF].map((name) => getOption(fd, SOL_SOCKET, name));
  try {
    await withHelper(async (client) => {
      const before = sizes(own.fd);
      const untouched = sizes(fresh);
      assertEquals(await client.ask(ON, [own.fd, fresh]), [1]);
      assertEquals(modes([own.fd, fresh]), [1, 1]);
      assertEquals(sizes(own.fd), before);
      // The kernel counts its own memory and doubles what it is told (socket(7)); the
      // host's limits may be passed by root of the machine only.
      const forced = await hasManyUsers() ? [32 * MIB, 32 * MIB] : untouched;
      assertEquals(sizes(fresh), forced);
      assertEquals(await client.ask(OFF_SILENTLY, [own.fd]), [255]);
    });
  } finally {
    close(fresh);
    own.close();
    listener.close();
  }
});

Deno.test("vuelo repair: wrong requests end it with status 1 and a line", async () => {
  const udp = openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
  const listening = newTcpSocket();
  listenSocket(listening, 1);
  await withSockets(4, async (fds) => {
    const cases: [bytes: number[], fds: number[], line: RegExp][] = [
      [[2], fds, /request 2, expected 1 \(on\), 0 or -1 \(off\)/],
      [[0x80], fds, /request -128, expected/],
      [[1], [], /request 1 came without sockets, expected 1 to 253/],
      [[1], [...fds, udp], /descriptor 5 of 5 refused \(ENOPROTOOPT: it is no TCP/],
      [[1], [fds[0], listening, fds[1]], /descriptor 2 of 3 refused \(EPERM: it listens/],
      [[1], [0], /descriptor 1 of 1 refused \(.*: it is no TCP socket\)/],
    ];
    for (const [bytes, sent, line] of cases) {
      await withHelper(async (client, helper) => {
        // What was in repair mode before stays so, when the others are put back.
        assertEquals(await client.ask(ON, fds.slice(0, 1)), [1]);
        client.send(bytes, sent);
        assertEquals(await client.answer(), []);
        assertEquals((await helper.status).code, 1);
        assertMatch(helper.output, line);
        // What is in force, and that it has connected, were the first.
        assertEquals(helper.output.trim().split("\n").length, 3);
        assertEquals(modes(fds), [1, 0, 0, 0]);
      });
    }
  });
  close(listening);
  close(udp);
});

Deno.test("vuelo repair: wrong usage, help, and nobody there", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "");
    const stale = new RepairClient(`${folder}/stale`);
    stale.close();
    const cases: [args: string[], code: number, line: RegExp][] = [
      [[], 2, /^vuelo: repair with 0 arguments: expected one/],
      [["a", "b"], 2, /^vuelo: repair with 2 arguments: expected one/],
      [["--sandbox", "some", "a"], 2, /^vuelo: repair --sandbox 'some': expected 'st/],
      [["--sandbox"], 2, /^vuelo: repair --sandbox '': expected 'strict', 'default'/],
      [["--nonsense"], 2, /^vuelo: repair --nonsense: unknown option/],
      [[`${folder}/file`], 2, /file': expected a socket or a folder$/m],
      [[`${folder}/none`], 1, /^vuelo: .*none: .*[Nn]o such file/],
      [["--", `${folder}/stale`], 1, /^vuelo: .*stale: nobody listens there/],
    ];
    for (const [args, code, line] of cases) {
      const result = await runVuelo(["repair", ...args]);
      assertEquals([result.code, result.stdout], [code, ""], result.stderr);
      assertMatch(result.stderr, line);
      assertEquals(result.stderr.trim().split("\n").length, 1);
    }
    for (const flag of ["--help", "-h"]) {
      const help = await runVuelo(["repair", flag]);
      assertEquals([help.code, help.stderr], [0, ""]);
      assertMatch(help.stdout, /^Usage: vuelo repair \[--sandbox MODE\] PATH\n/);
      const lines = help.stdout.split("\n");
      assert(lines.length <= 25 && lines.every((line) => line.length <= 90));
    }
  });
});

Deno.test("vuelo repair: says what is missing without CAP_NET_ADMIN", async () => {
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    const helper = startHelper([client.path], ["setpriv", "--bounding-set=-net_admin"]);
    assertEquals((await helper.status).code, 1);
    assertMatch(helper.output, /^vuelo: CAP_NET_ADMIN is missing: start .* as root/);
    client.close();
  });
});

interface Rights {
  readonly uid: string;
  readonly held: bigint;
  readonly bounding: bigint;
}

/** User and capabilities of every thread of a process. */
async function rightsOf(pid: number): Promise<Rights[]> {
  const rights: Rights[] = [];
  for await (const { name } of Deno.readDir(`/proc/${pid}/task`)) {
    const status = await Deno.readTextFile(`/proc/${pid}/task/${name}/status`);
    const word = (key: string) => new RegExp(`^${key}:\\s*(\\S+)`, "m").exec(status)![1];
    const [inherited, permitted, effective, ambient, bounding] = [
      "CapInh",
      "CapPrm",
      "CapEff",
      "CapAmb",
      "CapBnd",
    ].map((key) => BigInt(`0x${word(key)}`));
    const held = inherited | permitted | effective | ambient;
    rights.push({ uid: word("Uid"), held, bounding });
  }
  return rights;
}

const NET_ADMIN = 1n << 12n;

Deno.test("vuelo repair: has CAP_NET_ADMIN and nothing else", async () => {
  await withHelper(async (client, helper) => {
    await withSockets(1, async (fds) => {
      assertEquals(await client.ask(ON, fds), [1]);
    });
    const rights = await rightsOf(helper.pid);
    assert(rights.length > 0);
    for (const thread of rights) {
      assertEquals(thread, { uid: "0", held: NET_ADMIN, bounding: NET_ADMIN });
    }
    const status = await Deno.readTextFile(`/proc/${helper.pid}/status`);
    assertMatch(status, /^NoNewPrivs:\s*1$/m);
    // Its memory is closed even to a process that has all the rights it has.
    const peer = ["setpriv", "--bounding-set=-all,+net_admin", "--", "cat"];
    await run([...peer, "/proc/self/environ"]);
    await assertRejects(() => run([...peer, `/proc/${helper.pid}/environ`]));
  });
});

Deno.test("vuelo repair: becomes the user whose socket it is", async () => {
  const nobody = await hasManyUsers() ? 65534 : 0;
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    await Deno.chown(client.path, nobody, nobody);
    const helper = startHelper([client.path]);
    await client.accept();
    await withSockets(1, async (fds) => {
      assertEquals(await client.ask(ON, fds), [1]);
    });
    const rights = await rightsOf(helper.pid);
    for (const { uid, held } of rights) {
      assertEquals([uid, held & ~NET_ADMIN], [String(nobody), 0n]);
    }
    assert(rights.some(({ held, bounding }) => held === bounding), "the one that acts");
    client.close();
    assertEquals((await helper.status).code, 0);
  });
});

if (await hasManyUsers()) {
  Deno.test("vuelo repair: strangers are not served, wherever they listen", async () => {
    await inFolder(async (folder) => {
      await Deno.chmod(folder, 0o777);
      const stranger = asUser(
        STRANGER,
        STRANGER,
        [],
        () => new RepairClient(`${folder}/stranger.repair`),
      );
      await Deno.chmod(stranger.path, 0o666);
      const service = new RepairClient(`${folder}/service.repair`);
      const helper = startHelper([folder]);
      await service.accept();
      await until(
        "it is said",
        () =>
          helper.output.includes(`user ${STRANGER} (process ${Deno.pid}) listens there`),
      );
      await stranger.accept();
      await stranger.hungUp();
      await helper.stop();
      // Nor by a helper that is named a socket of another's.
      await Deno.chown(stranger.path, 65534, 65534);
      const single = startHelper([stranger.path]);
      assertEquals((await single.status).code, 1);
      assertMatch(
        single.output,
        /listens there, expected user 65534, whose it is, or root/,
      );
      stranger.close();
      service.close();
    });
  });
}

Deno.test("vuelo repair: a folder's sockets, whenever they come", async () => {
  await inFolder(async (folder) => {
    const before = new RepairClient(`${folder}/before.repair`);
    const other = new RepairClient(`${folder}/other.sock`);
    const helper = startHelper([folder]);
    await before.accept();

    const after = new RepairClient(`${folder}/after.repair`);
    await after.accept();
    const moved = new RepairClient(`${folder}/moved`);
    await Deno.rename(moved.path, `${folder}/moved.repair`);
    await moved.accept();
    await withSockets(2, async (fds) => {
      for (const [i, client] of [before, after, moved].entries()) {
        assertEquals(await client.ask(i % 2 === 0 ? ON : OFF, fds), [
          i % 2 === 0 ? 1 : 0,
        ]);
      }
      assertEquals(modes(fds), [1, 1]);

      // It comes back when the connection ends, and when it had to end it.
      before.hangUp();
      await before.accept();
      after.send([7], fds);
      assertEquals(await after.answer(), []);
      after.hangUp();
      await after.accept();
      assertEquals(await after.ask(OFF, fds), [0]);
      assertMatch(
        helper.output,
        /after\.repair: request 7, expected .*connection closed/,
      );
    });
    assertEquals(other.tryAccept(), false);

    // A socket that is gone is forgotten, one of the same name is new.
    moved.close();
    await Deno.remove(`${folder}/moved.repair`);
    const again = new RepairClient(`${folder}/moved.repair`);
    await again.accept();

    for (const client of [before, after, again, other]) client.close();
    assertEquals(helper.ended, false);
    await Deno.rename(folder, `${folder}.away`);
    assertEquals((await helper.status).code, 1);
    assertMatch(helper.output, /the folder was removed or moved/);
    await Deno.rename(`${folder}.away`, folder);
  });
});

/** Has a link switch more and fewer sockets, and checks every one. */
async function exercise(link: RepairLink): Promise<void> {
  await withSockets(600, (fds) => {
    for (const count of [1, 5, 600, 2, 253, 600]) {
      const some = fds.slice(0, count);
      assertEquals(link.switchSockets(some, true), 0);
      assertEquals(modes(some), Array(count).fill(1));
      assertEquals(link.switchSockets(some, false), 0);
      assertEquals(modes(some), Array(count).fill(0));
    }
  });
}

/** Runs a helper program for a link. */
async function withLink(
  start: (path: string) => Process,
  body: (link: RepairLink, helper: Process) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const link = new RepairLink(`${folder}/vm.sock.repair`);
    const helper = start(link.path);
    try {
      await until("the helper is connected", () => link.available);
      await body(link, helper);
    } finally {
      link.close();
      await helper.stop();
    }
  });
}

Deno.test("vuelo with vuelo repair", async () => {
  await withLink((path) => startHelper([path]), async (link, helper) => {
    await exercise(link);
    await withSockets(300, (fds) => {
      assertEquals(link.switchSockets([...fds, 1_000_000], true), Errno.EBADF);
      assert(link.connected, "which is not the helper's fault");
      assertEquals(link.switchSockets(fds, true), 0);
    });
    link.close();
    assertEquals((await helper.status).code, 0);
  });
});

for (const suite of ["trixie", "sid"] as const) {
  Deno.test(`vuelo with passt-repair of Debian ${suite}`, async () => {
    const { repair } = await passt(suite);
    await withLink(
      (path) => new Process([repair.path, ...repair.args, path], { env: repair.env }),
      async (link, helper) => {
        await exercise(link);
        link.close();
        assertEquals((await helper.status).code, 0);
      },
    );
  });
}

Deno.test("a helper that was killed is told from one that answers", async () => {
  await withLink((path) => startHelper([path]), async (link, helper) => {
    await withSockets(3, async (fds) => {
      assertEquals(link.switchSockets(fds, true), 0);
      await helper.stop("SIGKILL");
      assert(link.switchSockets(fds, false) !== 0);
      assertEquals(modes(fds), [1, 1, 1]);
      assertEquals(link.available, false);

      const next = startHelper([link.path]);
      await until("the next one is connected", () => link.available);
      assertEquals(link.switchSockets(fds, false), 0);
      assertEquals(modes(fds), [0, 0, 0]);
      await next.stop();
    });
  });
});

Deno.test("helpers that leave sockets out are asked again", async () => {
  await inFolder(async (folder) => {
    const link = new RepairLink(`${folder}/vm.sock.repair`);
    // As passt-repair: no message can have more than the smallest before it.
    let helper = await ScriptedHelper.connected(link, { behaviours: [{ growth: true }] });
    await exercise(link);
    link.close();
    let { batches } = await helper.end();
    const first = batches.indexOf(Math.min(...batches));
    assert(batches.slice(first).every((count) => count === batches[first]));
    assert(batches.length < 100, `${batches.length} messages`);

    const few = new RepairLink(`${folder}/vm.sock.repair`);
    helper = await ScriptedHelper.connected(few, { behaviours: [{ first: 3 }] });
    await withSockets(300, (fds) => {
      assertEquals(few.switchSockets(fds, true), 0);
      assertEquals(modes(fds), Array(300).fill(1));
    });
    few.close();
    ({ batches } = await helper.end());
    assertEquals(batches.slice(0, 4), [150, 150, 3, 3]);
    assertEquals(batches.length, 2 + 98);
  });
});

Deno.test("sockets are switched by the process's own right: all or none", async () => {
  const own = new OwnRepair();
  assertEquals([probeRepair(), own.available], [0, true]);
  assertMatch(own.describe(), /own CAP_NET_ADMIN/);
  await withSockets(300, (fds) => {
    assertEquals(own.switchSockets(fds, true), 0);
    assertEquals(modes(fds), Array(300).fill(1));
    assert(own.switchSockets([...fds, 1_000_000], false) !== 0);
    assertEquals(modes(fds), Array(300).fill(1));
    assertEquals(own.switchSockets(fds, false), 0);
    assert(own.switchSockets([...fds, 1_000_000], true) !== 0);
    assertEquals(modes(fds), Array(300).fill(0));
  });
});
