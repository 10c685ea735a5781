/**
 * Capabilities (capabilities(7)) and starting again with fewer of them; control path only.
 * All sets are of a thread, not of the process, and new threads have those of their maker.
 */
import { Arena } from "./arena.ts";
import { checked, Errno, SyscallError } from "./errno.ts";
import { callOnOtherThreads, type CallToMake } from "./every_thread.ts";
import { rare } from "./libc.ts";
import { Call, rawCall } from "./raw_call.ts";

const sys = rare({
  /** int capset(cap_user_header_t header, const cap_user_data_t data) */
  capset: { parameters: ["buffer", "buffer"], result: "i32" },
  /** int prctl(int option, unsigned long arg2, ...) */
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
  /** int execv(const char *path, char *const argv[]) */
  execv: { parameters: ["buffer", "buffer"], result: "i32" },
});

/** May configure networks: this is what TCP_REPAIR asks for. */
export const CAP_NET_ADMIN = 12;

/** _LINUX_CAPABILITY_VERSION_3: 64 bits in two structures. */
const VERSION_3 = 0x2008_0522;
const PR_SET_DUMPABLE = 4;
const PR_SET_KEEPCAPS = 8;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_CAPBSET_READ = 23;
const PR_CAPBSET_DROP = 24;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_RAISE = 2n;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
/** Highest number that a kernel may know one day; sets have 64 bits. */
const MAX_CAPABILITY = 63;

const encoder = new TextEncoder();

function prctl(option: number, second: bigint, third = 0n): number {
  return sys.prctl(option, second, third, 0n, 0n);
}

/** Other processes of this user can neither trace this one nor read its memory. */
export function forbidTracing(): void {
  checked(prctl(PR_SET_DUMPABLE, 0n), "prctl(PR_SET_DUMPABLE)");
}

/** The calling thread keeps its permitted capabilities when it becomes another user. */
export function keepCapabilitiesOfUser(): void {
  checked(prctl(PR_SET_KEEPCAPS, 1n), "prctl(PR_SET_KEEPCAPS)");
}

/**
 * The calling thread can never gain another capability than this one.
 *
 * @returns false if it may not decide that (it lacks CAP_SETPCAP)
 */
export function boundTo(capability: number): boolean {
  for (let other = 0; prctl(PR_CAPBSET_READ, BigInt(other)) !== -1; other++) {
    if (other !== capability && prctl(PR_CAPBSET_DROP, BigInt(other)) === -1) {
      return false;
    }
  }
  return true;
}

/**
 * The calling thread keeps one capability, in its effective, permitted, inheritable and
 * ambient sets, and so hands it on to what it executes.
 *
 * @throws {SyscallError} EPERM if it does not have that capability
 */
export function keepOnly(capability: number): void {
  const low = capability < 32 ? 1 << capability : 0;
  const high = capability < 32 ? 0 : 1 << (capability - 32);
  // struct { u32 version; int pid; }, and twice struct { u32 effective, permitted,
  // inheritable; }
  const header = new Uint32Array([VERSION_3, 0]);
  const sets = new Uint32Array([low, low, low, high, high, high]);
  checked(sys.capset(header, sets), "capset()");
  const raised = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, BigInt(capability));
  checked(raised, "prctl(PR_CAP_AMBIENT_RAISE)");
}

/** @throws {SyscallError} if a call fails */
function onThisThread(calls: readonly CallToMake[], name: string): void {
  for (const [call, ...args] of calls) {
    const result = rawCall(Number(call), ...args);
    if (result < 0) throw new SyscallError(name, -result);
  }
}

/** Makes the calls on all other threads; whether all of them succeeded. */
function onOthers(calls: readonly CallToMake[]): boolean {
  return callOnOtherThreads(calls)?.every((failed) => failed === 0) ?? false;
}

/**
 * No thread can gain a capability by executing a file, whoever it becomes: to be called
 * while the process still is root.
 *
 * @returns false if that is not so: without CAP_SETPCAP it may not be decided, and threads
 *   may be out of reach
 */
export function boundAllToNothing(): boolean {
  const drops: CallToMake[] = [];
  for (let capability = 0; capability <= MAX_CAPABILITY; capability++) {
    const known = rawCall(Call.prctl, PR_CAPBSET_READ, capability);
    if (known < 0) break;
    if (known === 1) drops.push([Call.prctl, PR_CAPBSET_DROP, capability]);
  }
  try {
    onThisThread(drops, "prctl(PR_CAPBSET_DROP)");
  } catch (error) {
    if (error instanceof SyscallError && error.number === Errno.EPERM) return false;
    throw error;
  }
  return onOthers(drops);
}

/** For capset(): its header, no capabilities, and those that the calling thread keeps. */
const SETS_SIZE = 32;

/**
 * No thread has a capability, nor can gain privileges by executing a file.
 *
 * @param kept the calling thread alone keeps this one, effective and permitted
 * @returns false if that is so for the calling thread only
 * @throws {SyscallError} if the kernel refuses
 */
export function dropCapabilities(kept?: number): boolean {
  const arena = new Arena(3 * SETS_SIZE);
  const header = arena.base;
  const none = header + SETS_SIZE;
  const own = none + SETS_SIZE;
  arena.view.setUint32(0, VERSION_3, true);
  if (kept !== undefined) {
    const at = 2 * SETS_SIZE + (kept < 32 ? 0 : 12);
    for (const set of [0, 4]) arena.view.setUint32(at + set, 2 ** (kept % 32), true);
  }
  const calls = (sets: number): CallToMake[] => [
    [Call.prctl, PR_SET_NO_NEW_PRIVS, 1],
    [Call.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL],
    [Call.capset, header, sets],
  ];
  onThisThread(calls(own), "capset()");
  return onOthers(calls(none));
}

/** What /proc tells about the rights of one thread. */
export interface ThreadRights {
  /** Union of its inheritable, permitted, effective and ambient capabilities, as bits. */
  readonly capabilities: bigint;
  readonly bounding: bigint;
  /** What it executes cannot have more rights than it has. */
  readonly noNewPrivileges: boolean;
}

/** Reads /proc/self/task/…/status: the rights of each thread of this process. */
export function rightsOfThreads(): ThreadRights[] {
  const rights: ThreadRights[] = [];
  for (const { name } of Deno.readDirSync("/proc/self/task")) {
    let status: string;
    try {
      status = Deno.readTextFileSync(`/proc/self/task/${name}/status`);
    } catch {
      continue; // The thread has ended.
    }
    const field = (key: string) =>
      BigInt("0x" + (new RegExp(`^${key}:\\s*([0-9a-f]+)$`, "m").exec(status)?.[1] ?? 0));
    rights.push({
      capabilities: field("CapInh") | field("CapPrm") | field("CapEff") | field("CapAmb"),
      bounding: field("CapBnd"),
      noNewPrivileges: field("NoNewPrivs") === 1n,
    });
  }
  return rights;
}

/**
 * Puts another program in the place of this one: same process number, one thread, the
 * environment of now. Does not return.
 *
 * @throws {SyscallError} if it cannot be executed
 */
export function execute(path: string, args: readonly string[]): never {
  const strings = args.map((arg) => encoder.encode(arg + "\0"));
  const pointers = strings.map((text) =>
    Deno.UnsafePointer.value(Deno.UnsafePointer.of(text))
  );
  sys.execv(encoder.encode(path + "\0"), new BigUint64Array([...pointers, 0n]));
  throw new SyscallError(`executing ${path}`);
}
