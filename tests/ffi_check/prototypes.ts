/**
 * What each function of libc that vuelo calls does with its arguments: which of them are
 * addresses, of how many bytes, and what further addresses lie there. Written from the
 * manual pages, independently of the code that calls them.
 */
import type { Argument, Checker } from "./checker.ts";

/**
 * Checks the arguments of a call; may return what is to be done with its result.
 *
 * Of an argument that is not an address, nothing is checked.
 */
export type Rule = (
  check: Checker,
  args: readonly Argument[],
) => ((result: unknown) => void) | void;

const IOVEC = 16;
const MSGHDR = 56;
const MMSGHDR = 64;
const POLLFD = 8;
const EPOLL_EVENT = Deno.build.arch === "x86_64" ? 12 : 16;
const TIMESPEC = 16;
const STAT = Deno.build.arch === "x86_64" ? 144 : 128;
const RLIMIT = 16;
const PASSWD = 48;
const GROUP = 32;
const IFREQ = 40;
const SOCK_FPROG = 16;
const SOCK_FILTER = 8;
const BPF_INSN = 8;

const MAP_FIXED = 0x10;
const EPOLL_CTL_DEL = 2;
const MSG_TRUNC = 0x20;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const PR_SET_SECCOMP = 22;
const BPF_PROG_LOAD = 5;
const MAX_IOVECS = 1024;
const MAX_ARGUMENTS = 4096;

/** Numbers of system calls (asm/unistd.h). */
const SYSCALL = Deno.build.arch === "x86_64"
  ? {
    ...{ bpf: 321, seccomp: 317, capset: 126, capget: 125, openat: 257 },
    ...{ getdents64: 217, prlimit64: 302, close: 3 },
    ...{ lseek: 8, prctl: 157 },
    ...{ setgroups: 116, setresuid: 117, setresgid: 119 },
  }
  : {
    ...{ bpf: 280, seccomp: 277, capset: 91, capget: 90, openat: 56 },
    ...{ getdents64: 61, prlimit64: 261, close: 57 },
    ...{ lseek: 62, prctl: 167 },
    ...{ setgroups: 159, setresuid: 147, setresgid: 149 },
  };
const LANDLOCK = { createRuleset: 444, addRule: 445, restrictSelf: 446 } as const;
const LANDLOCK_PATH_BENEATH = { type: 1, size: 12 } as const;
const SECCOMP_SET_MODE_FILTER = 1;

/** ioctl() requests, with the bytes at their argument; 0 for one that is no address. */
const IOCTLS: Readonly<Record<number, number>> = {
  0x541b: 4, // SIOCINQ
  0x5411: 4, // SIOCOUTQ
  0x894b: 4, // SIOCOUTQNSD
  0x400454ca: IFREQ, // TUNSETIFF
  0x400454d0: 0, // TUNSETOFFLOAD
  0x400454d8: 4, // TUNSETVNETHDRSZ
};

/** An argument that is a number, of 64 bits or fewer. */
const num = (argument: Argument) => Number(argument);

const none: Rule = () => {};

/** struct iovec[] at an address. */
function iovecs(check: Checker, address: number, count: number): void {
  if (count > MAX_IOVECS) check.wrong(`${count} iovecs`);
  if (count === 0) return;
  check.rangeAt(address, count * IOVEC, "iovecs");
  const view = check.view(address);
  for (let i = 0; i < count; i++) {
    const base = Number(view.getBigUint64(i * IOVEC));
    check.rangeAt(base, Number(view.getBigUint64(i * IOVEC + 8)), `iovec ${i}`);
  }
}

/** struct msghdr at an address that has been checked. */
function msghdr(check: Checker, address: number): void {
  const view = check.view(address);
  const name = Number(view.getBigUint64(0));
  if (name !== 0) check.rangeAt(name, view.getUint32(8), "msg_name");
  iovecs(check, Number(view.getBigUint64(16)), Number(view.getBigUint64(24)));
  const control = Number(view.getBigUint64(32));
  if (control !== 0) {
    check.rangeAt(control, Number(view.getBigUint64(40)), "msg_control");
  }
}

const message: Rule = (check, [, header]) => {
  check.range(header, MSGHDR, "msghdr");
  msghdr(check, check.address(header));
};

const messages: Rule = (check, [, headers, count, , timeout]) => {
  check.range(headers, num(count) * MMSGHDR, "mmsghdr");
  const address = check.address(headers);
  for (let i = 0; i < num(count); i++) msghdr(check, address + i * MMSGHDR);
  check.optional(timeout, TIMESPEC, "timeout");
};

/** (fd, buffer, length, …) */
const transfer: Rule = (check, [, buffer, length]) =>
  check.range(buffer, length, "buffer");

/** (fd, iovecs, count) */
const vectors: Rule = (check, [, vector, count]) =>
  iovecs(check, check.address(vector), num(count));

/** (fd, address, length) */
const addressIn: Rule = (check, [, address, length]) =>
  check.range(address, length, "address");

/** (fd, address, length of its room) */
const addressOut: Rule = (check, [, address, length]) => {
  check.optional(length, 4, "length");
  check.optional(address, length === null ? 0 : read32(check, length), "address");
};

const path: Rule = (check, [name]) => check.string(name, "name");
const secondPath: Rule = (check, [, name]) => check.string(name, "path");

function read32(check: Checker, at: Argument): number {
  if (ArrayBuffer.isView(at)) {
    return new DataView(at.buffer, at.byteOffset).getUint32(0, true);
  }
  return check.view(check.address(at)).getUint32(0);
}

/** struct sock_fprog: the length of a classic BPF program, and its address. */
function program(check: Checker, address: number): void {
  check.rangeAt(address, SOCK_FPROG, "sock_fprog");
  const view = check.view(address);
  const length = view.getUint16(0) * SOCK_FILTER;
  check.rangeAt(Number(view.getBigUint64(8)), length, "filter");
}

/** union bpf_attr of BPF_PROG_LOAD. */
const bpf: Rule = (check, [, command, attributes, size]) => {
  check.range(attributes, size, "bpf_attr");
  if (command !== BPF_PROG_LOAD) check.wrong(`unknown bpf command ${command}`);
  const view = check.view(check.address(attributes));
  const length = view.getUint32(4) * BPF_INSN;
  check.rangeAt(Number(view.getBigUint64(8)), length, "insns");
  check.stringAt(Number(view.getBigUint64(16)), "licence");
};

/** syscall(number, …): those that libc has no function for; addresses are numbers. */
const syscall: Rule = (check, args) => {
  const call = num(args[0]);
  if (call === SYSCALL.bpf) return bpf(check, args);
  const memory = (i: number, size: number, what: string) => {
    if (num(args[i]) !== 0) check.rangeAt(num(args[i]), size, what);
  };
  switch (call) {
    case SYSCALL.seccomp:
      if (num(args[1]) === SECCOMP_SET_MODE_FILTER) return program(check, num(args[3]));
      return memory(3, 4, "action");
    case LANDLOCK.createRuleset:
      return memory(1, num(args[2]), "ruleset");
    case LANDLOCK.addRule:
      if (num(args[2]) !== LANDLOCK_PATH_BENEATH.type) check.wrong("unknown rule");
      return memory(3, LANDLOCK_PATH_BENEATH.size, "rule");
    case SYSCALL.capget:
    case SYSCALL.capset:
      memory(1, 8, "header");
      return memory(2, 24, "sets");
    case SYSCALL.openat:
      return check.stringAt(num(args[2]), "path");
    case SYSCALL.getdents64:
      return memory(2, num(args[3]), "entries");
    case SYSCALL.prlimit64:
      return memory(3, 16, "limit");
    case SYSCALL.setgroups:
      return check.range(args[2], num(args[1]) * 4, "groups");
  }
  if (!NO_MEMORY.includes(call)) check.wrong(`unknown system call ${args[0]}`);
};

/** Calls of which no argument is an address. */
const NO_MEMORY: readonly number[] = [
  SYSCALL.close,
  LANDLOCK.restrictSelf,
  SYSCALL.lseek,
  SYSCALL.prctl,
  SYSCALL.setresgid,
  SYSCALL.setresuid,
];

/** The functions by name; one that is missing here fails the check. */
export const RULES: Readonly<Record<string, Rule>> = {
  __errno_location: (check) => (result) => check.returned(result, 4),
  accept4: addressOut,
  bind: addressIn,
  capset: (check, [header, data]) => {
    check.range(header, 8, "header");
    check.range(data, 24, "data");
  },
  clock_gettime: (check, [, time]) => check.range(time, TIMESPEC, "timespec"),
  close: none,
  connect: addressIn,
  dup: none,
  dup2: none,
  epoll_create1: none,
  epoll_ctl: (check, [, op, , event]) => {
    if (op !== EPOLL_CTL_DEL) check.range(event, EPOLL_EVENT, "event");
  },
  epoll_pwait2: (check, [, events, count, timeout, mask]) => {
    check.range(events, num(count) * EPOLL_EVENT, "events");
    check.optional(timeout, TIMESPEC, "timeout");
    check.optional(mask, 128, "sigmask");
  },
  epoll_wait: (check, [, events, count]) =>
    check.range(events, num(count) * EPOLL_EVENT, "events"),
  eventfd: none,
  execv: (check, [program, argv]) => {
    check.string(program, "path");
    const view = argv as BigUint64Array;
    const end = view.indexOf(0n);
    if (end === -1 || end > MAX_ARGUMENTS) check.wrong("arguments have no end");
    for (const argument of view.slice(0, end)) {
      check.stringAt(Number(argument), "argument");
    }
  },
  fchmod: none,
  fchownat: secondPath,
  fcntl: none,
  fstat: (check, [, stat]) => check.range(stat, STAT, "stat"),
  ftruncate: none,
  geteuid: none,
  getgrnam: (check, [name]) => {
    check.string(name, "name");
    return (result) => check.returned(result, GROUP);
  },
  getpagesize: none,
  getpwnam: (check, [name]) => {
    check.string(name, "name");
    return (result) => check.returned(result, PASSWD);
  },
  getpwuid: (check) => (result) => check.returned(result, PASSWD),
  getrlimit: (check, [, limit]) => check.range(limit, RLIMIT, "rlimit"),
  getsockname: addressOut,
  getsockopt: (check, [, , , value, length]) => {
    check.range(length, 4, "length");
    check.range(value, read32(check, length), "value");
  },
  if_nametoindex: path,
  inotify_add_watch: secondPath,
  inotify_init1: none,
  ioctl: (check, [, request, argument]) => {
    const size = IOCTLS[num(request)];
    if (size === undefined) check.wrong(`unknown request ${request}`);
    else check.range(argument, size, "argument");
  },
  listen: none,
  memfd_create: path,
  mmap: (check, [hint, length, protection, flags]) => {
    if ((num(flags) & MAP_FIXED) !== 0) check.replaced(hint, num(length));
    return (result) => check.mapped(result, num(length), protection !== 0);
  },
  munmap: (check, [start, length]) => {
    check.replaced(start, num(length));
    return (result) => check.unmapped(result, start, num(length));
  },
  open: path,
  openlog: path,
  pipe2: (check, [fds]) => check.range(fds, 8, "pair"),
  poll: (check, [fds, count]) => check.range(fds, num(count) * POLLFD, "pollfds"),
  prctl: (check, [option, second, third]) => {
    if (option !== PR_SET_SECCOMP) return;
    if (num(second) === 2) program(check, num(third));
  },
  read: transfer,
  readv: vectors,
  recv: (check, [, buffer, length, flags]) => {
    if (buffer !== null || (num(flags) & MSG_TRUNC) === 0) {
      check.range(buffer, length, "buffer");
    }
  },
  recvmmsg: messages,
  recvmsg: message,
  send: transfer,
  sendmmsg: (check, args) => messages(check, args.slice(0, 4)),
  renameat2: (check, [, from, , to]) => {
    check.string(from, "old path");
    check.string(to, "new path");
  },
  sendmsg: message,
  setgroups: (check, [count, list]) => check.range(list, num(count) * 4, "list"),
  setresgid: none,
  setresuid: none,
  setrlimit: (check, [, limit]) => check.range(limit, RLIMIT, "rlimit"),
  setsockopt: (check, [, level, name, value, length]) => {
    check.range(value, length, "value");
    if (level === SOL_SOCKET && name === SO_ATTACH_FILTER) {
      program(check, check.address(value));
    }
  },
  shutdown: none,
  socket: none,
  socketpair: (check, [, , , pair]) => check.range(pair, 8, "pair"),
  syscall,
  tzset: none,
  syslog: secondPath,
  write: transfer,
  writev: vectors,
};
