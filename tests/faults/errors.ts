/**
 * With what each function of libc may fail by its manual page, as far as that can happen
 * to vuelo; and results that are short of what was asked for.
 */
import { Errno } from "../../ffi/errno.ts";
import { type Fault, SHORT } from "./injector.ts";

const {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  EAGAIN,
  ECONNABORTED,
  ECONNREFUSED,
  ECONNRESET,
  EHOSTUNREACH,
  EINTR,
  EINVAL,
  EIO,
  EMFILE,
  EMSGSIZE,
  ENETUNREACH,
  ENFILE,
  ENOBUFS,
  ENOENT,
  ENOMEM,
  ENOPROTOOPT,
  ENOSPC,
  ENOSYS,
  ENOTCONN,
  EPERM,
  EPIPE,
} = Errno;

const SENDING = [SHORT, EAGAIN, EINTR, ENOBUFS, ENOMEM, EPERM, ECONNRESET, EPIPE];
const ROUTED = [ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, EMSGSIZE];
const RECEIVING = [SHORT, EAGAIN, EINTR, ENOMEM, ECONNRESET];
const DESCRIPTORS = [EMFILE, ENFILE, ENOMEM];

export const FAULTS: Readonly<Record<string, readonly Fault[]>> = {
  accept4: [EAGAIN, EINTR, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM],
  bind: [EADDRINUSE, EADDRNOTAVAIL, EACCES, ENOMEM],
  capset: [EPERM],
  close: [EINTR, EIO],
  connect: [
    EAGAIN,
    ENETUNREACH,
    EADDRNOTAVAIL,
    ECONNREFUSED,
    EPERM,
    ENOBUFS,
    EHOSTUNREACH,
  ],
  epoll_create1: DESCRIPTORS,
  epoll_ctl: [ENOMEM, ENOSPC],
  epoll_pwait2: [EINTR, ENOSYS],
  epoll_wait: [EINTR],
  eventfd: DESCRIPTORS,
  dup2: [EMFILE, EINTR],
  execv: [ENOMEM, EACCES],
  fchmod: [EPERM, EIO],
  fchownat: [EPERM, EIO],
  fcntl: [EPERM, EINVAL],
  fstat: [ENOMEM, EIO],
  ftruncate: [EINTR, EIO, EINVAL],
  getgrnam: [ENOMEM, EMFILE],
  getpwnam: [ENOMEM, EMFILE],
  getpwuid: [ENOMEM, EMFILE],
  getsockname: [ENOBUFS],
  getsockopt: [ENOPROTOOPT, ENOBUFS],
  inotify_add_watch: [ENOSPC, ENOMEM, EACCES],
  inotify_init1: DESCRIPTORS,
  ioctl: [EINVAL],
  listen: [EADDRINUSE],
  memfd_create: DESCRIPTORS,
  mmap: [ENOMEM, EAGAIN, EACCES],
  open: [EMFILE, ENFILE, ENOENT],
  pipe2: [EMFILE, ENFILE],
  poll: [EINTR, ENOMEM],
  prctl: [EPERM, EINVAL],
  read: [SHORT, EAGAIN, EINTR, EIO],
  recv: RECEIVING,
  recvmmsg: RECEIVING,
  recvmsg: RECEIVING,
  renameat2: [EACCES, EINVAL, ENOSPC],
  send: SENDING,
  sendmmsg: [...SENDING, ...ROUTED],
  sendmsg: [...SENDING, ...ROUTED],
  setgroups: [EPERM, ENOMEM],
  setresgid: [EPERM, EAGAIN],
  setresuid: [EPERM, EAGAIN],
  setrlimit: [EPERM],
  setsockopt: [ENOPROTOOPT, ENOMEM, ENOBUFS, EPERM, EINVAL],
  shutdown: [ENOTCONN],
  socket: [EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES],
  socketpair: [EMFILE, ENFILE],
  syscall: [EPERM, ENOSYS, ENOMEM],
  write: [SHORT, EAGAIN, EINTR, EIO, ENOSPC, EPIPE],
};

/** What cannot fail, or only by a mistake of the caller; and what vuelo does not call. */
export const UNFAILING = [
  "__errno_location",
  "clock_gettime",
  "dup",
  "geteuid",
  "getpagesize",
  "getrlimit",
  "if_nametoindex",
  "munmap",
  "openlog",
  "readv",
  "syslog",
  "tzset",
  "writev",
];

/** How a call may fail, by its name; a number or option may follow that. */
export function faultsOf(name: string): readonly Fault[] {
  return FAULTS[name.split(" ")[0]] ?? [];
}

/** "short" or the name of an error. */
export function faultName(fault: Fault): string {
  if (fault === SHORT) return "short";
  return Object.entries(Errno).find(([, number]) => number === fault)?.[0] ?? `${fault}`;
}
