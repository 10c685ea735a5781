/** seccomp(2): a program of the kernel's that decides on each system call of a process. */
import { Arena } from "./arena.ts";
import { Call, rawCall } from "./raw_call.ts";

const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_GET_ACTION_AVAIL = 2;
const TSYNC = 1;
const LOG = 2;
/**
 * Old kernels would else switch off a way of running code ahead for the whole process,
 * which costs much and protects from code that it runs for others; it runs none.
 */
const SPEC_ALLOW = 4;

/** What is to become of a call (seccomp(2), "RETURN VALUE" of the filter). */
export const Action = {
  killProcess: 0x8000_0000,
  /** To be added to an error number. */
  error: 0x0005_0000,
  log: 0x7ffc_0000,
  allow: 0x7fff_0000,
} as const;

/** Bytes of a struct sock_filter { u16 code; u8 jt, jf; u32 k; }. */
export const INSTRUCTION_SIZE = 8;

/** Whether the kernel has filters that can end the process; so since Linux 4.14. */
export function hasSeccomp(): boolean {
  const arena = new Arena(8);
  arena.view.setUint32(0, Action.killProcess, true);
  return rawCall(Call.seccomp, SECCOMP_GET_ACTION_AVAIL, 0, arena.base) === 0;
}

/**
 * Has the program decide on the calls of every thread, those to come included, for good.
 * What it refuses or kills for goes to the kernel's audit log. No thread can gain
 * privileges by executing a file from now on.
 *
 * @param program its instructions, {@link INSTRUCTION_SIZE} bytes each
 * @returns 0, or an error number
 */
export function installFilter(program: Uint8Array): number {
  const arena = new Arena(16 + program.length);
  const at = arena.take(program.length);
  arena.bytes(at, program.length).set(program);
  // struct sock_fprog { u16 len; struct sock_filter *filter; }
  const header = arena.take(16);
  arena.view.setUint16(header, program.length / INSTRUCTION_SIZE, true);
  arena.view.setBigUint64(header + 8, BigInt(arena.base + at), true);
  const flags = TSYNC + LOG + SPEC_ALLOW;
  const address = arena.base + header;
  const result = rawCall(Call.seccomp, SECCOMP_SET_MODE_FILTER, flags, address);
  // With TSYNC, a positive result is the number of a thread that cannot follow.
  return result > 0 ? ESRCH : -result;
}

const ESRCH = 3;
