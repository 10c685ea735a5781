/** What is in force for `vuelo repair`, of a socket and of a folder, whoever starts it. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { landlockVersion } from "../../ffi/landlock.ts";
import { close } from "../../ffi/event.ts";
import { newTcpSocket } from "../../src/repair/switch.ts";
import { inFolder, sandboxReport } from "../support/cli.ts";
import { Process } from "../support/lab_process.ts";
import { type OrdinaryUser, ordinaryUser, vueloOf } from "../support/lab_user.ts";
import { modes, RepairClient, startHelper } from "../support/repair_client.ts";

const NET_ADMIN = "0000000000001000";
const FORMS = ["socket", "folder"] as const;
const IN_FORCE = /Sandbox: no capabilities but CAP_NET_ADMIN, .*seccomp/;

/** All that there is, where the kernel has it. */
const MODE = `--sandbox=${landlockVersion() > 0 ? "strict" : "default"}`;

/** Whether there are users to become: in a user namespace there is but one. */
const MANY_USERS =
  (await Deno.readTextFile("/proc/self/uid_map")).trim().split(/\s+/)[2] !== "1";

interface Case {
  readonly form: typeof FORMS[number];
  /** Whose the socket and its folder are, and who the helper must be. */
  readonly user: number;
  readonly start: (path: string) => Process;
}

/** Has a helper serve, before and after it is looked at. */
async function check({ form, user, start }: Case): Promise<void> {
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    for (const path of [folder, client.path]) await Deno.chown(path, user, user);
    const helper = start(form === "folder" ? folder : client.path);
    const fd = newTcpSocket();
    try {
      await client.accept();
      assertEquals([await client.ask(1, [fd]), modes([fd])], [[1], [1]]);
      await helper.says(IN_FORCE);
      const { code, report } = await sandboxReport(helper.pid);
      // Root of a user namespace is an ordinary user elsewhere, which is not seen inside.
      const lacking = user === 0 ? [/^an ordinary user: not so on/] : [];
      assertEquals([code, report.lacking.length], [lacking.length, lacking.length]);
      lacking.forEach((line, i) => assertMatch(report.lacking[i], line));
      assertEquals(report.coreLimit, "0");
      assert(report.threads.length > 1);
      for (const thread of report.threads) {
        assertEquals(thread.users, Array(4).fill(user), thread.name);
        assertEquals([thread.noNewPrivileges, thread.seccomp], [true, "filter"]);
      }
      const main = report.threads.find(({ id }) => id === helper.pid);
      assertEquals(main?.capabilities.effective, NET_ADMIN);
      if (form === "folder") {
        // Another one that comes: nothing of it was open before.
        const other = new RepairClient(`${folder}/other.repair`);
        await Deno.chown(other.path, user, user);
        await other.accept();
        assertEquals([await other.ask(0, [fd]), modes([fd])], [[0], [0]]);
        other.close();
      }
      assertEquals([await client.ask(255, [fd]), modes([fd])], [[255], [0]]);
    } finally {
      close(fd);
      client.close();
      await helper.stop();
    }
  });
}

for (const form of FORMS) {
  Deno.test(`the helper of a ${form} is confined: root's`, () =>
    check({ form, user: 0, start: (path) => startHelper([MODE, path]) }));
}

if (MANY_USERS) {
  for (const form of FORMS) {
    Deno.test(`the helper of a ${form} is confined: it becomes the owner`, () =>
      check({ form, user: 65534, start: (path) => startHelper([path]) }));
  }

  /** A user who has the capability, and no other, on all threads. */
  const asUser = (user: OrdinaryUser) => (path: string) => {
    const id = user.backend.uid;
    const change = [`--reuid=${id}`, `--regid=${id}`, "--clear-groups"];
    const give = ["--inh-caps=+net_admin", "--ambient-caps=+net_admin"];
    const command = vueloOf(user, ["repair", MODE, path]);
    const { cwd, env } = user.backend;
    return new Process(["setpriv", ...change, ...give, "--", ...command], { cwd, env });
  };

  Deno.test("the helper is confined: of a user with ambient CAP_NET_ADMIN", async () => {
    await using user = await ordinaryUser();
    for (const form of FORMS) {
      await check({ form, user: user.backend.uid ?? 0, start: asUser(user) });
    }
  });
}

Deno.test("vuelo repair --sandbox none says what it lacks", async () => {
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    const helper = startHelper(["--sandbox", "none", client.path]);
    try {
      await client.accept();
      await helper.says(/Sandbox: no capabilities but CAP_NET_ADMIN; lacking: --sand/);
      const { report } = await sandboxReport(helper.pid);
      assert(report.threads.every(({ seccomp }) => seccomp === "off"));
    } finally {
      client.close();
      await helper.stop();
    }
  });
});

Deno.test("vuelo repair closes what was open before", async () => {
  await inFolder(async (folder) => {
    const client = new RepairClient(`${folder}/vm.repair`);
    const file = `${folder}/file`;
    const open = ["sh", "-c", 'exec "$@" 6>>"$0"', file];
    const helper = startHelper([client.path], open);
    try {
      await client.accept();
      await helper.says(/Sandbox: /);
      const { report } = await sandboxReport(helper.pid);
      assert(!report.writable?.includes(file), report.writable?.join(" "));
    } finally {
      client.close();
      await helper.stop();
    }
  });
});
