/**
 * System calls by number (syscall(2)), for those that libc has no function for. Control
 * path only. Numbers are those of x86-64 and arm64.
 */
import { errno } from "./errno.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** long syscall(long number, ...); its variadic arguments are in registers */
  syscall: {
    parameters: ["i64", "usize", "usize", "usize", "usize", "usize"],
    result: "i64",
  },
});

const number = Deno.build.arch === "x86_64"
  ? (x86: number, _arm: number) => x86
  : (_x86: number, arm: number) => arm;

/** Numbers of the calls that this folder makes without libc. */
export const Call = {
  capget: number(125, 90),
  capset: number(126, 91),
  prctl: number(157, 167),
  openat: number(257, 56),
  close: number(3, 57),
  getdents64: number(217, 61),
  lseek: number(8, 62),
  prlimit64: number(302, 261),
  seccomp: number(317, 277),
  landlock_create_ruleset: 444,
  landlock_add_rule: 445,
  landlock_restrict_self: 446,
} as const;

/**
 * Makes a system call.
 *
 * @param args numbers, or addresses of memory that does not move
 * @returns what it returned, or an error number below 0
 */
export function rawCall(call: number, ...args: readonly (number | bigint)[]): number {
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = args;
  const result = sys.syscall(
    BigInt(call),
    BigInt(a),
    BigInt(b),
    BigInt(c),
    BigInt(d),
    BigInt(e),
  );
  return Number(result) === -1 ? -errno() : Number(result);
}
