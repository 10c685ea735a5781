/** The program is run here, instruction by instruction, as the kernel would for each call. */
import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { Action, INSTRUCTION_SIZE } from "../../ffi/seccomp.ts";
import { allowedFor, DEADLY, type Maker, MISSING, NEWEST_CALL } from "./calls.ts";
import { type Architecture, makeProgram, REFUSED } from "./program.ts";

const PID = 4711;
const UNKNOWN = Action.error + Errno.ENOSYS;
const MAKERS: readonly (readonly Maker[])[] = [
  ["service"],
  ["service", "syslog"],
  ["repair"],
  ["repair", "folder"],
];
/** AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64 (linux/audit.h); AUDIT_ARCH_I386. */
const AUDIT: Record<Architecture, number> = { x86_64: 0xc000003e, aarch64: 0xc00000b7 };
const I386 = 0x40000003;

/**
 * What has to be refused, by the kernel's own tables: asm/unistd_64.h of x86, and
 * asm-generic/unistd.h, which arm64 has. -1: there is none.
 */
const REFUSED_CALLS: Record<string, readonly [number, number]> = {
  open: [2, -1],
  openat: [257, 56],
  openat2: [437, 437],
  creat: [85, -1],
  execve: [59, 221],
  execveat: [322, 281],
  fork: [57, -1],
  vfork: [58, -1],
  ptrace: [101, 117],
  kill: [62, 129],
  mount: [165, 40],
  mount_setattr: [442, 442],
  fsmount: [432, 432],
  setns: [308, 268],
  unshare: [272, 97],
  init_module: [175, 105],
  finit_module: [313, 273],
  delete_module: [176, 106],
  add_key: [248, 217],
  request_key: [249, 218],
  keyctl: [250, 219],
  io_uring_setup: [425, 425],
  io_uring_enter: [426, 426],
  io_uring_register: [427, 427],
  bpf: [321, 280],
  perf_event_open: [298, 241],
  userfaultfd: [323, 282],
  setuid: [105, 146],
  capset: [126, 91],
  chmod: [90, -1],
  fchmodat: [268, 53],
  rename: [82, -1],
  renameat2: [316, 276],
  truncate: [76, 45],
  symlinkat: [266, 36],
};

/** Runs a program on struct seccomp_data; the action that it returns. */
function decide(
  program: Uint8Array<ArrayBuffer>,
  architecture: number,
  call: number,
  args: readonly number[] = [],
): number {
  const data = new DataView(new ArrayBuffer(64));
  data.setUint32(0, call, true);
  data.setUint32(4, architecture, true);
  args.forEach((value, i) => {
    data.setBigUint64(16 + 8 * i, BigInt(value), true);
  });
  const view = new DataView(program.buffer);
  let accumulator = 0;
  for (let at = 0; at < program.length; at += INSTRUCTION_SIZE) {
    const code = view.getUint16(at, true);
    const k = view.getUint32(at + 4, true);
    const jump = (holds: boolean) =>
      at += INSTRUCTION_SIZE * view.getUint8(at + (holds ? 2 : 3));
    if (code === 0x20) accumulator = data.getUint32(k, true);
    else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
    else if (code === 0x15) jump(accumulator === k);
    else if (code === 0x25) jump(accumulator > k);
    else if (code === 0x35) jump(accumulator >= k);
    else if (code === 0x06) return k;
    else throw new Error(`instruction ${code}`);
  }
  throw new Error("the program has no end");
}

for (const architecture of ["x86_64", "aarch64"] as const) {
  const column = architecture === "x86_64" ? 0 : 1;
  for (const makers of MAKERS) {
    const name = `${architecture}, ${makers.join(" and ")}`;
    const program = makeProgram(makers, PID, architecture);
    const run = (call: number, ...args: number[]) =>
      decide(program, AUDIT[architecture], call, args);

    Deno.test(`what must be refused is, whatever its arguments: ${name}`, () => {
      for (const [call, numbers] of Object.entries(REFUSED_CALLS)) {
        const number = numbers[column];
        if (number < 0) continue;
        for (const args of [[], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0x20]]) {
          assert(run(number, ...args) !== Action.allow, call);
        }
      }
      for (const { name, numbers } of DEADLY) {
        const number = numbers[column];
        if (number !== undefined) assertEquals(run(number), Action.killProcess, name);
      }
      for (const { name, numbers } of MISSING) {
        assertEquals(run(numbers[column]!), UNKNOWN, name);
      }
    });

    Deno.test(`what is in the table is allowed as it says, nothing else: ${name}`, () => {
      const left = new Set(Array.from({ length: NEWEST_CALL + 1 }, (_, i) => i));
      for (const { name, numbers, when = [[]] } of allowedFor(makers)) {
        const number = numbers[column];
        if (number === undefined) continue;
        left.delete(number);
        for (const conditions of when) {
          const args = [0, 0, 0, 0, 0, 0];
          for (const { argument, high, equals } of conditions) {
            const value = equals === "this process" ? PID : equals;
            args[argument] += high === true ? value * 2 ** 32 : value;
          }
          assertEquals(run(number, ...args), Action.allow, name);
        }
      }
      for (const { numbers } of [...MISSING, ...DEADLY]) {
        left.delete(numbers[column] ?? 0);
      }
      for (const number of left) assertEquals(run(number), REFUSED, `call ${number}`);
      assert(left.size > NEWEST_CALL / 2);
    });

    Deno.test(`calls of other interfaces end it, those to come are not there: ${name}`, () => {
      const other = architecture === "x86_64" ? AUDIT.aarch64 : AUDIT.x86_64;
      for (const wrong of [other, I386, 0]) {
        assertEquals(decide(program, wrong, 0), Action.killProcess);
      }
      assertEquals(run(NEWEST_CALL + 1), UNKNOWN);
      const x32 = architecture === "x86_64" ? Action.killProcess : UNKNOWN;
      assertEquals(run(0x4000_0000), x32);
      assertEquals(run(0xffff_ffff), x32);
    });
  }
}

Deno.test("a condition that does not hold refuses the call", () => {
  const program = makeProgram(["service"], PID, "x86_64");
  const cases: readonly (readonly [string, number, ...number[]])[] = [
    ["clone() of a process", 56, 17],
    ["clone() of a user namespace", 56, 0x3d0f00 + 0x10000000],
    ["prctl(PR_SET_SECCOMP)", 157, 22],
    ["prlimit64() of another process", 302, 1, 7, 0],
    ["prlimit64() that sets", 302, 0, 7, 1],
    ["prlimit64() that sets, far away", 302, 0, 7, 2 ** 32],
    ["tgkill() of another process", 234, PID + 1, 1, 9],
    ["mmap() of a file's code", 9, 0, 4096, 4, 2],
    ["socket(AF_PACKET)", 41, 17, 3, 0],
    ["socket(AF_INET, SOCK_RAW)", 41, 2, 3, 1],
    ["ioctl(TUNSETIFF)", 16, 0, 0x400454ca],
    ["fcntl(F_SETOWN)", 72, 0, 8],
  ];
  for (const [what, call, ...args] of cases) {
    assertEquals(decide(program, AUDIT.x86_64, call, args), REFUSED, what);
  }
});
