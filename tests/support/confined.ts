/**
 * A process that confines itself as the service or the repair helper does and then makes a
 * system call, or all of those that are to be refused; prints what came of it, as JSON.
 *
 * Arguments: `refused MAKERS FOLDER` (in which are `own/socket`, to be removed at the end,
 * and `other/file`), `deadly MAKERS NAME` (whose calls are allowed: `service`, `repair`,
 * `repair,folder`), or `files`.
 */
import { Arena } from "../../ffi/arena.ts";
import { forbidFiles } from "../../ffi/confinement.ts";
import { dropCapabilities } from "../../ffi/capabilities.ts";
import { landlockVersion } from "../../ffi/landlock.ts";
import { rawCall } from "../../ffi/raw_call.ts";
import { DEADLY, type Maker } from "../../src/sandbox/calls.ts";
import { confine } from "../../src/sandbox/confine.ts";

const COLUMN = Deno.build.arch === "x86_64" ? 0 : 1;

/** Calls with numbers for x86-64 and arm64, and their arguments. */
const CALLS: Record<string, readonly [number, number, ...(number | bigint)[]]> = {
  openat: [257, 56, -100, 0, 0],
  keyctl: [250, 219, 0, 0],
  io_uring_setup: [425, 425, 1, 0],
  bpf: [321, 280, 0, 0, 0],
  perf_event_open: [298, 241, 0, 0, 0],
  userfaultfd: [323, 282, 0],
  "socket(AF_UNIX)": [41, 198, 1, 1, 0],
  "socket(AF_NETLINK)": [41, 198, 16, 3, 0],
  "socket(SOCK_RAW)": [41, 198, 2, 3, 1],
  "socket(IPPROTO_MPTCP)": [41, 198, 2, 1, 262],
  "socket(IPPROTO_SCTP)": [41, 198, 10, 1, 132],
  "socket(IPPROTO_UDPLITE)": [41, 198, 2, 2, 136],
  "socketpair(SOCK_DGRAM)": [53, 199, 1, 2, 0, 0],
  "clone without threads": [56, 220, 17, 0],
  "kill the parent": [62, 129, Deno.ppid, 0],
  "tgkill the parent": [234, 131, Deno.ppid, Deno.ppid, 0],
  "prctl(PR_SET_DUMPABLE)": [157, 167, 4, 1],
  setuid: [105, 146, 0],
  "fcntl(F_SETOWN)": [72, 25, 0, 8, Deno.ppid],
  "ioctl(TIOCSTI)": [16, 29, 0, 0x5412, 0],
  "mmap of code from a file": [9, 222, 0, 4096, 5, 2, 0],
  clone3: [435, 435, 0, 0],
  "a call to come": [1000, 1000],
};

/** What the service may and the repair helper may not. */
const CALLS_OF_SERVICE: typeof CALLS = {
  "socket(AF_INET)": [41, 198, 2, 1, 0],
  bind: [49, 200, 0, 0, 0],
  accept4: [288, 242, 0, 0, 0, 0],
  "setsockopt(SO_RCVBUF)": [54, 208, 0, 1, 8, 0, 0],
  "setsockopt(IPT_SO_SET_REPLACE)": [54, 208, 0, 0, 64, 0, 0],
  "getsockopt(SO_ERROR)": [55, 209, 0, 1, 4, 0, 0],
  "ioctl(SIOCGIFINDEX)": [16, 29, 0, 0x8933, 0],
  "fcntl(F_DUPFD_CLOEXEC)": [72, 25, 0, 1030, 3],
  pipe2: [293, 59, 0, 0],
  memfd_create: [319, 279, 0, 0],
  eventfd2: [290, 19, 0, 0],
  unlinkat: [263, 35, -100, 0, 0],
};

/** What the repair helper of one socket may not, and that of a folder may. */
const CALLS_OF_FOLDER: typeof CALLS = {
  connect: [42, 203, 0, 0, 0],
  "getsockopt(SO_PEERCRED)": [55, 209, 0, 1, 17, 0, 0],
  statx: [332, 291, -100, 0, 0, 0, 0],
  getdents64: [217, 61, 0, 0, 0],
};

/** What is to be refused. */
function forbidden(makers: readonly string[]): typeof CALLS {
  if (makers.includes("service")) return CALLS;
  const calls = { ...CALLS, ...CALLS_OF_SERVICE };
  if (!makers.includes("folder")) return { ...calls, ...CALLS_OF_FOLDER };
  delete calls["socket(AF_UNIX)"];
  return calls;
}

/** setsockopt(TCP_REPAIR) on what is no socket. */
const REPAIR: typeof CALLS[string] = [54, 208, 0, 6, 19, 0, 0];

function make([x86, arm, ...args]: typeof CALLS[string]): number {
  return rawCall([x86, arm][COLUMN], ...args);
}

/** A thread that is there before; it opens a file when it is told. */
function otherThread(): (path: string) => Promise<string> {
  const code = `onmessage = ({ data }) => {
    try {
      Deno.readTextFileSync(data);
      postMessage("read");
    } catch (error) {
      postMessage(error.name);
    }
  };
  postMessage("there");`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(code)}`, {
    type: "module",
  });
  const answer = () =>
    new Promise<string>((resolve) => worker.onmessage = ({ data }) => resolve(data));
  const there = answer();
  return async (path) => {
    if (path === "") return await there;
    worker.postMessage(path);
    return await answer();
  };
}

/** A TCP connection of the process with itself, which says a word. */
async function talk(): Promise<string> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const [near, far] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port }),
    listener.accept(),
  ]);
  await near.write(new TextEncoder().encode("word"));
  const bytes = new Uint8Array(16);
  const text = new TextDecoder().decode(bytes.subarray(0, await far.read(bytes) ?? 0));
  for (const end of [near, far, listener]) end.close();
  return text;
}

function remove(path: string): string {
  try {
    Deno.removeSync(path);
    return "removed";
  } catch (error) {
    return (error as Error).name;
  }
}

function confineAll(makers: readonly string[], sockets: readonly string[] = []): boolean {
  dropCapabilities();
  const inForce = confine({
    mode: "default",
    makers: makers as Maker[],
    sockets,
    capabilities: true,
    repairs: false,
  });
  return inForce.lacking.length === 0;
}

const [what, whose = "", name = ""] = Deno.args;
const makers = whose.split(",");
const results: Record<string, unknown> = {};
rawCall(39); // binds the function while files may be read
if (what === "refused") {
  const read = otherThread();
  await read("");
  await talk();
  const socket = `${name}/own/socket`;
  results.whole = confineAll(makers, [socket]);
  for (const [call, how] of Object.entries(forbidden(makers))) results[call] = make(how);
  results.thread = await read("/etc/hostname");
  if (makers.includes("service")) {
    results.talk = await talk();
    results.removed = [socket, `${name}/other/file`].map(remove);
  } else results.repair = make(REPAIR);
} else if (what === "files") {
  const read = otherThread();
  await read("");
  results.before = await read("/proc/self/status");
  dropCapabilities();
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/socket`, "");
  results.version = landlockVersion();
  results.reached = forbidFiles(landlockVersion(), [folder]);
  results.signal = rawCall([62, 129][COLUMN], Deno.ppid, 0);
  results.thread = await read("/proc/self/status");
  results.own = ((): string => {
    try {
      return Deno.readTextFileSync("/proc/self/status") && "read";
    } catch (error) {
      return (error as Error).name;
    }
  })();
  try {
    Deno.writeTextFileSync(`${folder}/other`, "");
    results.made = "made";
  } catch (error) {
    results.made = (error as Error).name;
  }
  Deno.removeSync(`${folder}/socket`);
  results.removed = true;
} else {
  const call = DEADLY.find((entry) => entry.name === name)?.numbers[COLUMN];
  if (call === undefined || !confineAll(makers)) Deno.exit(3);
  results.survived = rawCall(call, new Arena(64).base, 0, 0, 0, 0);
}
Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(results) + "\n"));
Deno.exit(0);
