/**
 * A process that confines itself as the service does and then makes a system call, or
 * all of those that are to be refused; prints what came of it, as JSON.
 *
 * Arguments: `refused`, `deadly NAME`, or `files`.
 */
import { Arena } from "../../ffi/arena.ts";
import { forbidFiles } from "../../ffi/confinement.ts";
import { dropCapabilities } from "../../ffi/capabilities.ts";
import { landlockVersion } from "../../ffi/landlock.ts";
import { rawCall } from "../../ffi/raw_call.ts";
import { DEADLY } from "../../src/sandbox/calls.ts";
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

function make(name: string): number {
  const [x86, arm, ...args] = CALLS[name];
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

function confineAll(): boolean {
  dropCapabilities();
  const inForce = confine({
    mode: "default",
    makers: ["service"],
    sockets: [],
    capabilities: true,
    repairs: false,
  });
  return inForce.lacking.length === 0;
}

const [what, name = ""] = Deno.args;
const results: Record<string, unknown> = {};
rawCall(39); // binds the function while files may be read
if (what === "refused") {
  const read = otherThread();
  await read("");
  await talk();
  results.whole = confineAll();
  for (const call of Object.keys(CALLS)) results[call] = make(call);
  results.thread = await read("/etc/hostname");
  results.talk = await talk();
} else if (what === "files") {
  const read = otherThread();
  await read("");
  results.before = await read("/proc/self/status");
  dropCapabilities();
  const folder = Deno.makeTempDirSync();
  Deno.writeTextFileSync(`${folder}/socket`, "");
  results.version = landlockVersion();
  results.reached = forbidFiles(landlockVersion(), [folder]);
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
  if (call === undefined || !confineAll()) Deno.exit(3);
  results.survived = rawCall(call, new Arena(64).base, 0, 0, 0, 0);
}
Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(results) + "\n"));
Deno.exit(0);
