import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { libc } from "../../ffi/libc.ts";
import { close } from "../../ffi/event.ts";
import { acceptUnix, connectUnix, isHungUp, listenUnix } from "../../ffi/unix_socket.ts";
import { GROUPS, OPTIONS } from "../../src/cli/options.ts";
import {
  background,
  end,
  inFolder,
  IS_ROOT,
  isAlive,
  run,
  vuelo,
} from "../support/cli.ts";
import { freePorts } from "../support/free_ports.ts";
import { until } from "../support/lab_process.ts";

/** Options that keep host facts out of what is tested. */
const FIXED = [
  "-a",
  "192.0.2.5/24",
  "-g",
  "192.0.2.1",
  "-a",
  "2001:db8::5",
  "-g",
  "fe80::1",
];

Deno.test("--help shows every option, in groups", async () => {
  for (const flag of ["--help", "-h"]) {
    const { code, stdout, stderr } = await run([flag]);
    assertEquals([code, stderr], [0, ""]);
    for (const group of GROUPS) assertStringIncludes(stdout, `\n${group}:\n`);
    for (const { name } of OPTIONS) assertStringIncludes(stdout, `--${name}`);
  }
});

Deno.test("--version and --print-capabilities", async () => {
  assertEquals(await run(["--version"]), {
    code: 0,
    stdout: `vuelo ${manifest.version}\n`,
    stderr: "",
  });
  const { code, stdout } = await run(["--print-capabilities", "--vhost-user"]);
  assertEquals(code, 0);
  assertEquals(JSON.parse(stdout), { type: "net", features: [] });
});

Deno.test("migrate-check answers line by line, and with its exit status", async () => {
  const without = await run(["migrate-check"]);
  assertEquals([without.code, without.stdout], [2, ""]);
  assertStringIncludes(without.stderr, "--socket");
  const { code, stdout } = await run([
    ...["migrate-check", "--socket", "/nonexistent/vm.sock"],
    ...FIXED,
  ]);
  assertEquals(code, 1);
  assertStringIncludes(stdout, "NO   the host has the guest's address 192.0.2.5");
  assertStringIncludes(stdout, "yes  formats and versions");
});

// Arguments, and what the one line must name.
const WRONG: [args: string[], names: string[]][] = [
  [["--nonsense"], ["--nonsense"]],
  [["-Z"], ["-Z"]],
  [["guest"], ["'guest'"]],
  [["-m"], ["-m"]],
  [["-m", "abc"], ["-m", "'abc'"]],
  [["--mtu=65522"], ["--mtu", "'65522'"]],
  [["-a", "192.0.2.300"], ["-a", "'192.0.2.300'"]],
  [["-a", "127.0.0.1"], ["-a", "'127.0.0.1'"]],
  [["-a", "192.0.2.1/33"], ["-a", "'192.0.2.1/33'"]],
  [["-a", "2001:db8::/129"], ["-a", "'2001:db8::/129'"]],
  [["-n", "255.0.255.0"], ["-n", "'255.0.255.0'"]],
  [["-a", "192.0.2.1/24", "-n", "24"], ["-n '24'", "-a '192.0.2.1/24'"]],
  [["-g", "0.0.0.0"], ["-g", "'0.0.0.0'"]],
  [["-M", "01:00:5e:00:00:01"], ["-M", "'01:00:5e:00:00:01'"]],
  [["-i", "nosuch0"], ["-i", "'nosuch0'"]],
  [["--outbound-if6", "nosuch0"], ["--outbound-if6", "'nosuch0'"]],
  [["-o", "::1"], ["-o", "'::1'"]],
  [["-D", "resolver"], ["-D", "'resolver'"]],
  [["--dns-forward", "::"], ["--dns-forward", "'::'"]],
  [["-S", "a..b"], ["-S", "'a..b'"]],
  [["-H", "a b"], ["-H", "'a b'"]],
  [["--map-host-loopback", "224.0.0.1"], ["--map-host-loopback", "'224.0.0.1'"]],
  [["-4", "-6"], ["-4", "-6"]],
  [["-4", "-a", "2001:db8::1"], ["-a", "'2001:db8::1'", "--ipv4-only"]],
  [["-6", "-t", "127.0.0.1/22"], ["-t", "'127.0.0.1/22'", "--ipv6-only"]],
  [["-q", "-d"], ["-q", "-d"]],
  [["-F", "99", "-s", "/tmp/x"], ["-F '99'", "-s '/tmp/x'"]],
  [["-F", "99"], ["-F", "'99'"]],
  [["-F", "0"], ["-F", "'0'"]],
  [["--log-size", "10"], ["--log-size", "'10'"]],
  [["--runas", "no-such-user"], ["--runas", "'no-such-user'"]],
  [["-s", ""], ["-s", "''"]],
  [["-s", "x".repeat(108)], ["-s", "107 bytes"]],
  [["-t", "22,22"], ["-t", "'22,22'", "22"]],
  [["-t", "80-22"], ["-t", "'80-22'"]],
  [["-u", "22", "-u", "none"], ["-u 'none'"]],
  [["--no-tcp", "-t", "22"], ["-t '22'", "--no-tcp"]],
  [["-t", "%nosuch0/22"], ["-t", "nosuch0"]],
];

Deno.test("a wrong command line is one line that names it, and status 2", async () => {
  // A few at a time: each is a process of its own.
  const pending = [...WRONG];
  const worker = async () => {
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) {
      const [args, names] = next;
      const { code, stdout, stderr } = await run(["-f", ...args]);
      assertEquals([code, stdout], [2, ""], `${args.join(" ")}: ${stderr}`);
      assertMatch(stderr, /^vuelo: [^\n]+\n$/, args.join(" "));
      for (const name of names) assertStringIncludes(stderr, name);
    }
  };
  await Promise.all([worker(), worker(), worker()]);
});

Deno.test("errors on the way to the background come back, with their status", async () => {
  const wrong = await run(["-t", "22,22"]);
  assertEquals([wrong.code, wrong.stderr.split("\n").length], [2, 2], wrong.stderr);
  await inFolder(async (folder) => {
    const path = `${folder}/file`;
    await Deno.writeTextFile(path, "precious");
    const taken = await run([...FIXED, "-s", path]);
    assertEquals(taken.code, 1);
    assertMatch(taken.stderr, /^vuelo: [^\n]+\n$/);
    assertStringIncludes(taken.stderr, path);
    assertEquals(await Deno.readTextFile(path), "precious");
  });
});

Deno.test("in the background: output ends, the PID file names who listens", async () => {
  await inFolder((folder) =>
    background(folder, [...FIXED, "-s", `${folder}/socket`], (pid, printed) => {
      assert(isAlive(pid));
      // Field 6 is the session: a leader has no terminal of others.
      const stat = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ")[1].split(" ");
      assertEquals(Number(stat[3]), pid);
      const limits = Deno.readTextFileSync(`/proc/${pid}/limits`);
      const [, soft, hard] = /^Max open files +(\d+) +(\d+)/m.exec(limits) ?? [];
      assertEquals(soft, hard);
      close(connectUnix(`${folder}/socket`));
      assertStringIncludes(printed, `path=${folder}/socket`);
    })
  );
});

Deno.test("what is printed at start: addresses, ports, options for QEMU", async () => {
  const port = freePorts(3);
  const [first, last] = [port + 1, port + 2];
  const forwards = ["-t", `127.0.0.1/${port}:22`, "-u", `${first}-${last}`];
  const args = [...FIXED, ...forwards, "-D", "192.0.2.53"];
  await inFolder((folder) =>
    background(folder, [...args, "-s", `${folder}/a,b`], (_pid, printed) => {
      const expected = [
        "address: 192.0.2.5/24 by DHCP",
        "gateway: 192.0.2.1",
        "resolvers: 192.0.2.53",
        "address: 2001:db8::5/64 by DHCPv6 and NDP",
        "gateway: fe80::1",
        `TCP [127.0.0.1]:${port} => 22`,
        `UDP [*]:${first}-${last} => ${first}-${last}`,
        `-chardev socket,id=vuelo,path=${folder}/a,,b `,
        "-netdev vhost-user,id=net,chardev=vuelo",
        "share=on",
      ];
      for (const text of expected) assertStringIncludes(printed, text);
    })
  );
});

Deno.test("--quiet prints nothing, and a log file takes what would be printed", async () => {
  await inFolder((folder) =>
    background(folder, ["-q", ...FIXED, "-s", `${folder}/socket`], (_pid, printed) => {
      assertEquals(printed, "");
    })
  );
  await inFolder((folder) => {
    const args = [...FIXED, "-s", `${folder}/socket`, "-l", `${folder}/log`];
    return background(folder, args, async (_pid, printed) => {
      assertEquals(printed, "");
      const log = await Deno.readTextFile(`${folder}/log`);
      assertMatch(log, /^\d{4}-\d\d-\d\dT[^ ]+ info: Listening at /);
    });
  });
});

Deno.test("what the parent left open is closed, and its numbers are free for use", async () => {
  await inFolder(async (folder) => {
    const files = ["-s", `${folder}/socket`, "-l", `${folder}/log`, "--pid"];
    const [program, args] = vuelo([...FIXED, ...files, `${folder}/pid`]);
    // All are copies of the standard streams, as those of a script may be.
    const script = 'exec "$@" 6</dev/null 7</dev/null 8</dev/null 9</dev/null';
    const { code } = await new Deno.Command("sh", {
      args: ["-c", script, "sh", program, ...args],
      stdin: "null",
      stdout: "null",
    }).output();
    assertEquals(code, 0);
    await end(Number(await Deno.readTextFile(`${folder}/pid`)));
    const log = await Deno.readTextFile(`${folder}/log`);
    assertStringIncludes(log, "frames from the guest");
  });
});

Deno.test("a stale socket is replaced, a live one is not", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const stale = listenUnix(path);
    const taken = await run([...FIXED, "-s", path]);
    assertEquals(taken.code, 1);
    assertStringIncludes(taken.stderr, path);
    close(stale);
    await background(folder, [...FIXED, "-s", path], () => close(connectUnix(path)));
  });
});

Deno.test("without --socket-path each instance has one of its own in /tmp", async () => {
  const path = (printed: string) => /Listening at (\S+)/.exec(printed)?.[1] ?? "";
  await inFolder((folder) =>
    background(folder, FIXED, async (_pid, first) => {
      assertMatch(path(first), /^\/tmp\/vuelo_[0-9]+\.socket$/);
      await inFolder((other) =>
        background(other, FIXED, (_pid, second) => {
          assertMatch(path(second), /^\/tmp\/vuelo_[0-9]+\.socket$/);
          assert(path(first) !== path(second));
        })
      );
    })
  );
});

const sys = libc({
  /** int dup(int oldfd); the copy is inherited */
  dup: { parameters: ["i32"], result: "i32" },
});

Deno.test("--fd is handed on to the background, and its end ends the process", async () => {
  await inFolder(async (folder) => {
    const listener = listenUnix(`${folder}/pair`);
    const near = connectUnix(`${folder}/pair`);
    const far = acceptUnix(listener);
    const inherited = sys.dup(far);
    close(far);
    await background(folder, [...FIXED, "--fd", String(inherited)], async (pid) => {
      close(inherited);
      assert(!isHungUp(near));
      assert(isAlive(pid));
      close(near);
      await until("vuelo ends with its only connection", () => !isAlive(pid));
    });
    close(listener);
  });
});

Deno.test("--one-off ends with the first frontend, others with SIGTERM", async () => {
  await inFolder((folder) =>
    background(folder, ["-1", ...FIXED, "-s", `${folder}/socket`], async (pid) => {
      close(connectUnix(`${folder}/socket`));
      await until("vuelo ends after one frontend", () => !isAlive(pid));
    })
  );
  await inFolder((folder) =>
    background(folder, [...FIXED, "-s", `${folder}/socket`], async (pid) => {
      close(connectUnix(`${folder}/socket`));
      await end(pid);
    })
  );
});

Deno.test("--foreground stays, and ends with status 0 on SIGTERM", async () => {
  await inFolder(async (folder) => {
    const args = ["-f", ...FIXED, "-s", `${folder}/socket`, "-P", `${folder}/pid`];
    const [program, all] = vuelo(args);
    const command = new Deno.Command(program, {
      args: all,
      stdout: "null",
      stderr: "null",
    });
    const child = command.spawn();
    await until("the PID file is written", async () => {
      const text = await Deno.readTextFile(`${folder}/pid`).catch(() => "");
      return text.endsWith("\n");
    });
    assertEquals(Number(await Deno.readTextFile(`${folder}/pid`)), child.pid);
    child.kill("SIGTERM");
    assertEquals((await child.status).code, 0);
  });
});

/** Real, effective, saved and file system user of every thread. */
function users(pid: number): Set<string> {
  const found = new Set<string>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const status = Deno.readTextFileSync(`/proc/${pid}/task/${name}/status`);
    const line = (key: string) =>
      new RegExp(`^${key}:[ \\t]*(.*?) *$`, "m").exec(status)?.[1];
    found.add(`${line("Uid")}|${line("Gid")}|${line("Groups")}|${line("CapEff")}`);
  }
  return found;
}

if (IS_ROOT) {
  Deno.test("root becomes nobody or --runas, on every thread", async () => {
    const ids = (id: number) => Array(4).fill(id).join("\t");
    const expected = (id: number) => new Set([`${ids(id)}|${ids(id)}||0000000000000000`]);
    await inFolder((folder) =>
      background(folder, [...FIXED, "-s", `${folder}/s`, "--runas", "54321"], (pid) => {
        assertEquals(users(pid), expected(54321));
      })
    );
    await inFolder((folder) =>
      background(folder, [...FIXED, "-s", `${folder}/s`], (pid) => {
        assertEquals(users(pid), expected(65534));
      })
    );
  });
} else {
  Deno.test("an ordinary user cannot become another", async () => {
    await inFolder(async (folder) => {
      const args = [...FIXED, "-s", `${folder}/s`, "--runas", "54321"];
      const { code, stderr } = await run(args);
      assertEquals(code, 1);
      assertMatch(stderr, /^vuelo: [^\n]*54321[^\n]*\n$/);
    });
  });
}
