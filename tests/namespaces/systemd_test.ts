/**
 * The units in contrib: as systemd reads them, and as it runs them, where the tests may
 * start a systemd of their own in namespaces.
 */
import { assert, assertEquals } from "@std/assert";
import { close } from "../../ffi/event.ts";
import { openFolder } from "../../ffi/folder.ts";
import { program } from "../../scripts/lab/packages.ts";
import { parseOptions } from "../../src/cli/parse_options.ts";
import { inFolder, IS_ROOT, sandboxReport } from "../support/cli.ts";
import { descendants } from "../support/find_process.ts";
import { askArp, Dispatcher } from "../support/good_flow.ts";
import { Process, run, until } from "../support/lab_process.ts";
import { asUser } from "../support/other_user.ts";
import { RawGuest } from "../support/raw_guest.ts";

const CONTRIB = new URL("../../contrib/", import.meta.url);
const UNITS = ["vuelo@.service", "vuelo-repair@.service"];
const SYSTEMD = "/usr/lib/systemd/systemd";
/** Of the machines that the tests run on; kvm need not be. */
const GROUP = { name: "daemon", number: 1 };
const FRONTEND = 54321;
const NET_ADMIN = "0000000000001000";
const NONE = "0000000000000000";
const START_LIMIT = 30_000;

function unit(name: string): Promise<string> {
  return Deno.readTextFile(new URL(name, CONTRIB));
}

function commandOf(text: string): string[] {
  return /^ExecStart=(.*)$/m.exec(text)?.[1].split(" ") ?? [];
}

Deno.test("the units give options that there are", async () => {
  const service = await unit("vuelo@.service");
  const [, ...words] = commandOf(service);
  const options = parseOptions(words);
  assertEquals(options.last("sandbox")?.text, "strict");
  assert(options.has("foreground"));
  assertEquals(options.last("socket-path")?.text, "/run/vuelo-%i/socket");
  const values = (key: string, text: string) =>
    [...text.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value]) => value);
  // What can be seen in its user namespace are its user and its first group.
  assertEquals(values("Group", service), [options.last("socket-group")?.text]);
  assertEquals(values("RuntimeDirectory", service), ["vuelo-%i"]);
  const helper = await unit("vuelo-repair@.service");
  assertEquals(commandOf(helper).slice(1), [
    "repair",
    "--sandbox",
    "strict",
    "/run/vuelo-%i",
  ]);
  for (const key of ["User", "Group", "DynamicUser"]) {
    assertEquals(values(key, helper), values(key, service), key);
  }
  for (const key of ["CapabilityBoundingSet", "AmbientCapabilities"]) {
    assertEquals([values(key, service), values(key, helper)], [[""], ["CAP_NET_ADMIN"]]);
  }
});

/** What systemd-analyze has to say about a unit. */
async function verify(folder: string, name: string, text: string): Promise<string> {
  await Deno.writeTextFile(
    `${folder}/${name}`,
    text.replaceAll("/usr/bin/vuelo", "/bin/sh"),
  );
  const { path, args } = await program("systemd-analyze");
  const { stdout, stderr } = await new Deno.Command(path, {
    args: [...args, "verify", "--man=no", `${folder}/${name}`],
    env: { SYSTEMD_UNIT_PATH: folder, SYSTEMD_COLORS: "0" },
  }).output();
  const decoder = new TextDecoder();
  return decoder.decode(stdout) + decoder.decode(stderr);
}

Deno.test("systemd understands every line of the units", async () => {
  await inFolder(async (folder) => {
    for (const name of ["sysinit", "basic", "shutdown", "network-online"]) {
      await Deno.writeTextFile(`${folder}/${name}.target`, "[Unit]\n");
    }
    for (const name of UNITS) {
      assertEquals(await verify(folder, name, await unit(name)), "");
    }
    const wrong = (await unit(UNITS[0])).replace("PrivateUsers=", "PrivateUser=");
    assert((await verify(folder, "wrong@.service", wrong)).includes("PrivateUser"));
  });
});

/**
 * Starts systemd in namespaces, where nothing of the machine can be changed; $1: a folder
 * with units and the executable.
 */
const INIT = `set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var
mkdir /run/units /run/bin
cp "$1"/units/* /run/units
cp "$1"/vuelo /run/bin
mount -t tmpfs tmpfs /tmp
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
for path in / /proc/sys; do mount -o remount,bind,ro $path; done
export container=unshare SYSTEMD_UNIT_PATH=/run/units SYSTEMD_LOG_TARGET=console
exec ${SYSTEMD} --system --unit=test.target --show-status=no`;

/** Puts itself into a cgroup of its own, so that systemd touches no other. */
const START = `set -e
mkdir "$1/cgroup"
mount -t cgroup2 cgroup2 "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ > "$1/cgroup/$2/cgroup.procs"
exec unshare --cgroup --net --ipc --uts --pid --fork --mount-proc --kill-child=KILL \\
  sh -c "$3" sh "$1"`;

const TARGET = `[Unit]
DefaultDependencies=no
Wants=control@test.service vuelo@test.service vuelo-repair@test.service
`;

/** Writes the units, as they are but for paths, group and where they log to. */
async function writeUnits(folder: string): Promise<void> {
  await Deno.mkdir(folder);
  const adapted = (text: string, log: string) =>
    text.replaceAll("/usr/bin/vuelo", "/run/bin/vuelo")
      .replace(/\bkvm$/gm, GROUP.name)
      .replace("[Service]\n", `[Service]\nStandardError=append:/run/${log}\n`);
  for (const name of UNITS) {
    await Deno.writeTextFile(`${folder}/${name}`, adapted(await unit(name), name));
  }
  const same = adapted(await unit(UNITS[0]), "control")
    .replace(/^ExecStart=.*$/m, "ExecStart=/bin/sh -c 'echo there >&2; exec sleep 1000'")
    .replaceAll("vuelo-%i", "vuelo-control");
  await Deno.writeTextFile(`${folder}/control@.service`, same);
  await Deno.writeTextFile(`${folder}/test.target`, TARGET);
}

/** Removes what systemd made below a cgroup; its processes are gone or going. */
async function removeCgroup(name: string): Promise<void> {
  const mounted = await Deno.makeTempDir({ prefix: "vuelo-cgroup-" });
  try {
    await run(["mount", "-t", "cgroup2", "cgroup2", mounted]);
  } catch {
    return await Deno.remove(mounted); // Then there is none to be removed.
  }
  const remove = (path: string): boolean => {
    try {
      for (const entry of Deno.readDirSync(path)) {
        if (entry.isDirectory) remove(`${path}/${entry.name}`);
      }
      Deno.removeSync(path);
      return true;
    } catch (error) {
      return error instanceof Deno.errors.NotFound;
    }
  };
  try {
    await until("the cgroup is removed", () => remove(`${mounted}/${name}`));
  } finally {
    await run(["umount", mounted]);
    await Deno.remove(mounted);
  }
}

/** Waits for `found`; false if it does not come, or systemd has ended. */
async function comes(systemd: Process, found: () => boolean): Promise<boolean> {
  try {
    await until("it comes", () => {
      if (systemd.ended) throw new Error("systemd has ended");
      return found();
    }, START_LIMIT);
    return true;
  } catch {
    return false;
  }
}

async function checkRunning(root: string, pids: readonly number[]): Promise<void> {
  const reports = await Promise.all(pids.map(sandboxReport));
  const helper = reports.find(({ report }) => report.command.includes(" repair "));
  const service = reports.find((one) => one !== helper);
  assert(helper !== undefined && service !== undefined);
  const user = service.report.threads[0].users[0];
  for (const [{ code, report }, set] of [[service, NONE], [helper, NET_ADMIN]] as const) {
    assertEquals([code, report.lacking], [0, []]);
    for (const { users, groups, capabilities } of report.threads) {
      assertEquals([users, groups], [Array(4).fill(user), Array(4).fill(GROUP.number)]);
      assertEquals([capabilities.effective, capabilities.bounding], [set, set]);
    }
  }
  const map = await Deno.readTextFile(`/proc/${service.report.pid}/uid_map`);
  assertEquals(map.trim().split(/\s+/), ["0", "0", "1", `${user}`, `${user}`, "1"]);
  const { mode, uid, gid } = Deno.lstatSync(`${root}/run/vuelo-test/socket`);
  assertEquals([(mode ?? 0) & 0o777, uid, gid], [0o660, user, GROUP.number]);
  await checkServes(`${root}/run/vuelo-test`);
}

/** A frontend of a user that is in the group, as QEMU's is, is served. */
async function checkServes(folder: string): Promise<void> {
  // Ordinary users cannot follow the path, but may use what is open.
  const fd = openFolder(folder);
  const connect = () => new RawGuest(`/proc/self/fd/${fd}/socket`);
  const guest = asUser(FRONTEND, FRONTEND, [GROUP.number], connect);
  try {
    await guest.start();
    await askArp(new Dispatcher(guest));
  } finally {
    guest.close();
    close(fd);
  }
}

const mayRun = IS_ROOT &&
  await run(["test", "-x", SYSTEMD]).then(() => true, () => false);

/** Not where there is no systemd, or nobody may start one: it says so then. */
Deno.test("systemd starts both units, and they serve", async () => {
  if (!mayRun) return console.error(`not run: it takes root, and ${SYSTEMD}`);
  await inFolder(async (folder) => {
    await writeUnits(`${folder}/units`);
    await Deno.copyFile(Deno.env.get("VUELO_BIN") ?? "", `${folder}/vuelo`);
    await Deno.chmod(`${folder}/vuelo`, 0o755);
    const cgroup = folder.slice(folder.lastIndexOf("/") + 1);
    const start = ["unshare", "--mount", "sh", "-c", START, "sh", folder, cgroup, INIT];
    const systemd = new Process(start);
    try {
      const log = (name: string): string => {
        try {
          const [pid] = descendants(systemd.pid, "systemd");
          return Deno.readTextFileSync(`/proc/${pid}/root/run/${name}`);
        } catch {
          return "";
        }
      };
      // Like the service, but that it is none of ours: what it takes is there.
      if (!await comes(systemd, () => log("control") !== "")) {
        return console.error(`not run: no unit can be started here: ${systemd.output}`);
      }
      await comes(systemd, () => /helper .* connected/.test(log(UNITS[0])));
      const said = UNITS.map(log).join("");
      assert(/: connected to .*socket\.repair/.test(said), said);
      const [first] = descendants(systemd.pid, "systemd");
      await checkRunning(`/proc/${first}/root`, descendants(systemd.pid, "vuelo"));
    } finally {
      await systemd.stop("SIGKILL");
      await removeCgroup(cgroup);
    }
  });
});
