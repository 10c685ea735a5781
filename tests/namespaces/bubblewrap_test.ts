/**
 * The line for bubblewrap in docs/security/sandbox.md, as it is written there: run by an
 * ordinary user and by root, looked at in /proc, and asked for a network.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { landlockVersion } from "../../ffi/landlock.ts";
import { program } from "../../scripts/lab/packages.ts";
import { inFolder, IS_ROOT, sandboxReport } from "../support/cli.ts";
import { descendants } from "../support/find_process.ts";
import { askArp, Dispatcher } from "../support/good_flow.ts";
import { Process, run, until } from "../support/lab_process.ts";
import { asUser } from "../support/other_user.ts";
import { RawGuest } from "../support/raw_guest.ts";

const DOCUMENT = new URL("../../docs/security/sandbox.md", import.meta.url);
const ORDINARY = 54321;
const NAMESPACES = ["user", "mnt", "pid", "ipc", "uts"];
/** What there is to be seen inside, and no more. */
const MOUNTS =
  /^\/(?:$|usr$|vuelo$|run\/vuelo$|etc\/resolv\.conf$|(?:proc|dev|tmp)(?:\/|$))/;

/** The command of the document, to the last of its lines. */
async function documented(): Promise<string> {
  const text = await Deno.readTextFile(DOCUMENT);
  const line = /^ {4}bwrap (?:.*\\\n)*.*$/m.exec(text)?.[0];
  assert(line !== undefined, "the document has no line for bubblewrap");
  // A kernel without Landlock lacks something, and strict would refuse.
  return landlockVersion() > 0 ? line : line.replace("strict", "default");
}

/** Lays out what the line names: bwrap on PATH, dist/vuelo, and a folder for the socket. */
async function prepare(folder: string, uid: number): Promise<void> {
  for (const name of ["bin", "dist", "run"]) await Deno.mkdir(`${folder}/${name}`);
  const executable = Deno.env.get("VUELO_BIN");
  assert(executable !== undefined, "VUELO_BIN does not name an executable");
  await Deno.symlink(executable, `${folder}/dist/vuelo`);
  await Deno.chown(`${folder}/run`, uid, uid);
  const { path, args } = await program("bwrap");
  let words = [path, ...args];
  if (args.length > 0) {
    // Unpacked where only this user may look.
    const [, libraries, bwrap] = args;
    await run(["cp", "-rL", libraries.split(":")[0], `${folder}/lib`]);
    await run(["cp", "-L", bwrap, `${folder}/bwrap`]);
    const linker = path.slice(path.lastIndexOf("/"));
    words = [
      folder + "/lib" + linker,
      "--library-path",
      `${folder}/lib`,
      `${folder}/bwrap`,
    ];
  }
  const script = `#!/bin/sh\nexec ${words.join(" ")} "$@"\n`;
  await Deno.writeTextFile(`${folder}/bin/bwrap`, script, { mode: 0o755 });
}

/** Looks at where a process is: in other namespaces, where little can be seen. */
async function checkView(pid: number, uid: number): Promise<void> {
  const of = async (name: string) => await Deno.readTextFile(`/proc/${pid}/${name}`);
  const ids = /^NSpid:\s*(.*)$/m.exec(await of("status"))?.[1].split(/\s+/);
  assertEquals(ids?.length, 2, "a PID namespace of its own");
  assertEquals((await of("uid_map")).trim().split(/\s+/), [`${uid}`, `${uid}`, "1"]);
  const mounts = (await of("mountinfo")).trim().split("\n").map((line) =>
    line.split(" ")
  );
  for (const [, , , , path] of mounts) assertMatch(path, MOUNTS);
  for (const path of ["/usr", "/vuelo", "/etc/resolv.conf"]) {
    const options = mounts.find((fields) => fields[4] === path)?.[5];
    assertMatch(options ?? "", /^ro,/, path);
  }
  if (!IS_ROOT) return; // Others may not look at what cannot be traced.
  for (const name of NAMESPACES) {
    const [theirs, ours] = [pid, "self"]
      .map((whose) => Deno.readLinkSync(`/proc/${whose}/ns/${name}`));
    assert(theirs !== ours, `${name}: ${ours}`);
  }
}

/** A frontend connects and gets a network. */
async function checkServes(path: string, uid: number): Promise<void> {
  const connect = () => new RawGuest(path);
  const guest = uid === Deno.uid() ? connect() : asUser(uid, uid, [], connect);
  try {
    await guest.start();
    await askArp(new Dispatcher(guest));
  } finally {
    guest.close();
  }
}

async function check(uid: number): Promise<void> {
  const line = await documented();
  await inFolder(async (folder) => {
    await prepare(folder, uid);
    const path = Deno.env.get("PATH") ?? "";
    const process = new Process(["sh", "-c", line], {
      cwd: folder,
      env: { PATH: `${folder}/bin:${path}`, XDG_RUNTIME_DIR: `${folder}/run` },
      uid: uid === Deno.uid() ? undefined : uid,
    });
    try {
      await process.says(/^.*Sandbox: no capabilities, .*seccomp/m);
      const [pid] = descendants(process.pid, "vuelo");
      assert(pid !== undefined, "no process below bwrap is called vuelo");
      await checkView(pid, uid);
      const { report } = await sandboxReport(pid);
      // Whoever is root outside is so inside, where that is worth little.
      const rest = report.lacking.filter((what) =>
        uid !== 0 || !/ordinary user/.test(what)
      );
      assertEquals(rest, []);
      for (const { users } of report.threads) assertEquals(users, Array(4).fill(uid));
      await checkServes(`${folder}/run/vm.sock`, uid);
      Deno.kill(pid, "SIGTERM");
      await until("bwrap ends with vuelo", () => process.ended);
      assertEquals([...Deno.readDirSync(`${folder}/run`)], [], "sockets are removed");
    } finally {
      await process.stop();
    }
  });
}

/** Whether a user may make user namespaces here. In CI users must. */
async function mayUnshare(uid: number): Promise<boolean> {
  const asOther = uid === Deno.uid() ? {} : { uid };
  try {
    await run(["unshare", "-U", "true"], asOther);
    return true;
  } catch (error) {
    const inCI = ["true", "1"].includes(Deno.env.get("CI") ?? "");
    if (!inCI) console.error(`not run, user namespaces are forbidden: ${error}`);
    return inCI;
  }
}

for (const uid of IS_ROOT ? [ORDINARY, 0] : [Deno.uid() ?? 0]) {
  Deno.test({
    name: `the documented line for bubblewrap, run by user ${uid}`,
    ignore: !await mayUnshare(uid),
    fn: () => check(uid),
  });
}
