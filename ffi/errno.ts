/** Access to errno, its numbers and names (errno(3), Linux x86-64 and arm64 values). */
import { libc } from "./libc.ts";

const sys = libc({
  /** int *__errno_location(void) */
  __errno_location: { parameters: [], result: "pointer" },
});

const location = sys.__errno_location();
if (location === null) throw new Error("libc gives no address of errno");
/** errno of this thread: a module is loaded once per isolate, an isolate is a thread. */
const cell = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(location, 4));

/** The error number of this thread's last failed call; read it right after the call. */
export function errno(): number {
  return cell[0];
}

/** Error numbers that vuelo names (uapi/asm-generic/errno.h). */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  EFBIG: 27,
  ENOSPC: 28,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EMSGSIZE: 90,
  ENOPROTOOPT: 92,
  EPROTONOSUPPORT: 93,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTDOWN: 112,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  EINPROGRESS: 115,
  ECANCELED: 125,
} as const;

const names = new Map<number, string>(
  Object.entries(Errno).map(([name, number]) => [number, name]),
);

/** "ECONNREFUSED" for 111; "errno 999" for a number without a name here. */
export function errnoName(number: number): string {
  return names.get(number) ?? `errno ${number}`;
}

/** Control path: a libc call failed. EAGAIN and EINTR are results, not errors. */
export class SyscallError extends Error {
  override readonly name = "SyscallError";
  /**
   * @param call name of the libc function, with what it was asked for
   * @param number errno as the call left it
   */
  constructor(readonly call: string, readonly number: number = errno()) {
    super(`${call}: ${errnoName(number)}`);
  }
}

/** Returns `result` unless it is -1, for which it throws {@link SyscallError}. */
export function checked(result: number, call: string): number {
  if (result === -1) throw new SyscallError(call);
  return result;
}
