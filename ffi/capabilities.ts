/**
 * Capabilities (capabilities(7)) and starting again with fewer of them; control path only.
 * All sets are of a thread, not of the process, and new threads have those of their maker.
 */
import { Arena } from "./arena.ts";
import { checked, Errno, SyscallError } from "./errno.ts";
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
/** May take capabilities out of its bounding set. */
const CAP_SETPCAP = 8;

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

/**
 * The calling thread cannot gain a capability by executing a file, whoever it becomes: to
 * be called while the process still is root. Other threads keep their bounding sets, which
 * give nothing to who can gain no privileges and may execute nothing. Without CAP_SETPCAP,
 * nothing is done.
 *
 * @throws {SyscallError} if the kernel refuses what it has to allow
 */
export function boundToNothing({ effective }: OwnCapabilities): void {
  const may = (effective >> BigInt(CAP_SETPCAP) & 1n) === 1n;
  for (let capability = 0; capability <= MAX_CAPABILITY; capability++) {
    const known = rawCall(Call.prctl, PR_CAPBSET_READ, capability);
    if (known === -Errno.EINVAL) return; // There are no more of them.
    if (known < 0) throw new SyscallError("prctl(PR_CAPBSET_READ)", -known);
    if (known === 0) continue;
    const result = rawCall(Call.prctl, PR_CAPBSET_DROP, capability);
    if (result === 0) continue;
    if (result === -Errno.EPERM && !may) return;
    throw new SyscallError("prctl(PR_CAPBSET_DROP)", -result);
  }
}

/** For capset(): its header, and two structures of sets. */
const HEADER_SIZE = 8;
const SETS_SIZE = 24;

/**
 * The calling thread has no capability, nor can gain privileges by executing a file.
 *
 * @param kept it keeps this one, effective and permitted
 * @throws {SyscallError} if the kernel refuses
 */
export function dropCapabilities(kept?: number): void {
  const arena = new Arena(HEADER_SIZE + SETS_SIZE);
  const sets = arena.base + HEADER_SIZE;
  arena.view.setUint32(0, VERSION_3, true);
  if (kept !== undefined) {
    const at = HEADER_SIZE + (kept < 32 ? 0 : 12);
    for (const set of [0, 4]) arena.view.setUint32(at + set, 2 ** (kept % 32), true);
  }
  const calls: readonly (readonly [number, ...number[]])[] = [
    [Call.prctl, PR_SET_NO_NEW_PRIVS, 1],
    [Call.prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL],
    [Call.capset, arena.base, sets],
  ];
  for (const [call, ...args] of calls) {
    const result = rawCall(call, ...args);
    if (result < 0) throw new SyscallError("capset()", -result);
  }
}

/** Sets of the calling thread, as bits. */
export interface OwnCapabilities {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
}

/**
 * What the calling thread has: before the first change, what all have.
 *
 * @throws {SyscallError} if the kernel does not tell
 */
export function ownCapabilities(): OwnCapabilities {
  const arena = new Arena(HEADER_SIZE + SETS_SIZE);
  arena.view.setUint32(0, VERSION_3, true);
  const result = rawCall(Call.capget, arena.base, arena.base + HEADER_SIZE);
  if (result < 0) throw new SyscallError("capget()", -result);
  const set = (at: number) =>
    BigInt(arena.view.getUint32(HEADER_SIZE + at, true)) +
    (BigInt(arena.view.getUint32(HEADER_SIZE + 12 + at, true)) << 32n);
  return { effective: set(0), permitted: set(4), inheritable: set(8) };
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
