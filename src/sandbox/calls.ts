/**
 * The system calls that vuelo may make once it serves: one table, each with its reason.
 * What the runtime (V8, tokio, libc) needs was found by measurement: every test, with a
 * filter that logs what it refuses. What is not listed fails with EPERM; what came into
 * the kernel after this table was made, with ENOSYS.
 */

/** Numbers on x86-64 and arm64; undefined where an architecture has no such call. */
export type Numbers = readonly [x86: number | undefined, arm: number | undefined];

/** A condition on one argument: its low (or high) 32 bits, of these those in `mask`. */
export interface Condition {
  readonly argument: number;
  readonly high?: boolean;
  readonly mask?: number;
  /** A number, or that of the process itself. */
  readonly equals: number | "this process";
}

/**
 * Whose calls: the service's, and what it makes besides to log to syslog; the repair
 * helper's, and what it makes besides to serve a folder.
 */
export type Maker = "service" | "syslog" | "repair" | "folder";

/** A system call that is allowed, and why. */
export interface AllowedCall {
  readonly name: string;
  readonly numbers: Numbers;
  /**
   * It is allowed if all conditions of one of these hold; without, always. Entries of one
   * call add up.
   */
  readonly when?: readonly (readonly Condition[])[];
  readonly reason: string;
}

/** One of these values in an argument. */
function oneOf(argument: number, ...values: number[]): Condition[][] {
  return values.map((equals) => [{ argument, equals }]);
}

/** An option of a socket, at this level. */
function option(level: number, name: number): Condition[] {
  return [{ argument: 1, equals: level }, { argument: 2, equals: name }];
}

/** A socket of this domain and type, whatever its flags, and of one of these protocols. */
function socketOf(domain: number, type: number, ...protocols: number[]): Condition[][] {
  return protocols.map((protocol) => [
    { argument: 0, equals: domain },
    { argument: 1, mask: 0xf, equals: type },
    { argument: 2, equals: protocol },
  ]);
}

const [AF_UNIX, AF_INET, AF_INET6] = [1, 2, 10];
const [SOCK_STREAM, SOCK_DGRAM] = [1, 2];
const [IPPROTO_ICMP, IPPROTO_UDP, IPPROTO_ICMPV6] = [1, 17, 58];
const [SOL_SOCKET, IPPROTO_TCP, TCP_INFO, TCP_REPAIR] = [1, 6, 11, 19];
const [SO_PEERCRED, SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_BUF_LOCK] = [17, 32, 33, 72];
const PROT_EXEC = 4;
const MAP_ANONYMOUS = 0x20;
/** CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS | PARENT_SETTID | … */
const THREAD = 0x003d_0f00;
const PR_SET_NAME = 15;
const PR_SET_VMA = 0x5356_4d41;
const [SIOCOUTQ, SIOCINQ, SIOCOUTQNSD, SIOCGIFINDEX] = [0x5411, 0x541b, 0x894b, 0x8933];
/** F_GETFD, F_SETFD, F_GETFL, F_SETFL; F_DUPFD_CLOEXEC, pipe's size, seals of a memfd. */
const FCNTL = [1, 2, 3, 4, 1030, 1031, 1032, 1033, 1034];

/** Of everyone: per packet, or per turn of the loop. */
const LOOP: readonly AllowedCall[] = [
  {
    name: "recvmsg",
    numbers: [47, 212],
    reason: "payload; messages of frontends and services",
  },
  { name: "sendmsg", numbers: [46, 211], reason: "payload; datagrams; replies" },
  { name: "epoll_wait", numbers: [232, undefined], reason: "the loop" },
  { name: "epoll_pwait2", numbers: [441, 441], reason: "the loop, below a millisecond" },
  { name: "epoll_ctl", numbers: [233, 21], reason: "sockets to be watched" },
  { name: "read", numbers: [0, 63], reason: "kicks; state of a move; names in a folder" },
  { name: "write", numbers: [1, 64], reason: "calls to the guest; log lines" },
  { name: "close", numbers: [3, 57], reason: "descriptors" },
  { name: "futex", numbers: [202, 98], reason: "threads wait for each other" },
  {
    name: "epoll_pwait",
    numbers: [281, 22],
    reason: "the loop, where arm64 has no other",
  },
];

/** What the runtime does by itself. */
const RUNTIME: readonly AllowedCall[] = [
  // Memory.
  {
    name: "mmap",
    numbers: [9, 222],
    when: [
      [{ argument: 2, mask: PROT_EXEC, equals: 0 }],
      [{ argument: 3, mask: MAP_ANONYMOUS, equals: MAP_ANONYMOUS }],
    ],
    reason: "guest memory, V8's heap and machine code; no code from files",
  },
  { name: "munmap", numbers: [11, 215], reason: "the same" },
  { name: "mremap", numbers: [25, 216], reason: "blocks of memory that grow" },
  { name: "mprotect", numbers: [10, 226], reason: "V8's heap and machine code" },
  { name: "pkey_mprotect", numbers: [329, 288], reason: "V8, on processors with keys" },
  { name: "madvise", numbers: [28, 233], reason: "memory given back" },
  { name: "brk", numbers: [12, 214], reason: "libc's heap" },
  // Threads, signals and time.
  {
    name: "clone",
    numbers: [56, 220],
    when: oneOf(0, THREAD),
    reason: "threads of the runtime; no processes",
  },
  { name: "set_robust_list", numbers: [273, 99], reason: "a thread that starts" },
  { name: "rseq", numbers: [334, 293], reason: "a thread that starts" },
  { name: "gettid", numbers: [186, 178], reason: "a thread that starts" },
  { name: "getpid", numbers: [39, 172], reason: "libraries ask" },
  { name: "sched_getparam", numbers: [143, 121], reason: "a thread looks for its stack" },
  { name: "sched_getscheduler", numbers: [145, 120], reason: "the same" },
  { name: "sched_getaffinity", numbers: [204, 123], reason: "a thread that starts" },
  { name: "sched_yield", numbers: [24, 124], reason: "threads wait for each other" },
  { name: "membarrier", numbers: [324, 283], reason: "V8's machine code that changes" },
  {
    name: "prctl",
    numbers: [157, 167],
    when: oneOf(0, PR_SET_NAME, PR_SET_VMA),
    reason: "names of threads and of memory",
  },
  { name: "sigaltstack", numbers: [131, 132], reason: "a thread that starts or ends" },
  {
    name: "rt_sigaction",
    numbers: [13, 134],
    reason: "signals at the end of the process",
  },
  { name: "rt_sigprocmask", numbers: [14, 135], reason: "threads; ends of signals" },
  { name: "rt_sigreturn", numbers: [15, 139], reason: "end of a signal's handler" },
  { name: "restart_syscall", numbers: [219, 128], reason: "calls that were interrupted" },
  {
    name: "tgkill",
    numbers: [234, 131],
    when: [[{ argument: 0, equals: "this process" }]],
    reason: "signals between threads, and abort(); to no other process",
  },
  { name: "clock_gettime", numbers: [228, 113], reason: "time, where the vDSO has none" },
  { name: "clock_nanosleep", numbers: [230, 115], reason: "threads that wait" },
  { name: "nanosleep", numbers: [35, 101], reason: "threads that wait" },
  { name: "getrandom", numbers: [318, 278], reason: "keys of hash tables" },
  {
    name: "prlimit64",
    numbers: [302, 261],
    when: [[
      { argument: 0, equals: 0 },
      { argument: 2, equals: 0 },
      { argument: 2, high: true, equals: 0 },
    ]],
    reason: "how many descriptors there may be; asks, never sets",
  },
  { name: "exit", numbers: [60, 93], reason: "a thread ends" },
  { name: "exit_group", numbers: [231, 94], reason: "the process ends" },
];

const SERVICE: readonly AllowedCall[] = [
  { name: "sendmmsg", numbers: [307, 269], reason: "datagrams in batches" },
  { name: "recvmmsg", numbers: [299, 243], reason: "datagrams in batches" },
  { name: "writev", numbers: [20, 66], reason: "payload; the capture file" },
  { name: "readv", numbers: [19, 65], reason: "payload" },
  {
    name: "recvfrom",
    numbers: [45, 207],
    reason: "peeks at sockets; the runtime's pipe",
  },
  {
    name: "sendto",
    numbers: [44, 206],
    reason: "replies; syslog; the runtime's signals",
  },
  // Connections and datagrams come and go.
  { name: "accept4", numbers: [288, 242], reason: "forwarded ports; frontends; helpers" },
  {
    name: "socket",
    numbers: [41, 198],
    when: [
      ...socketOf(AF_INET, SOCK_STREAM, IPPROTO_TCP, 0),
      ...socketOf(AF_INET, SOCK_DGRAM, IPPROTO_UDP, IPPROTO_ICMP, 0),
      ...socketOf(AF_INET6, SOCK_STREAM, IPPROTO_TCP, 0),
      ...socketOf(AF_INET6, SOCK_DGRAM, IPPROTO_UDP, IPPROTO_ICMPV6, 0),
    ],
    reason: "connections, datagrams and pings of the guest; no other protocol",
  },
  { name: "connect", numbers: [42, 203], reason: "connections of the guest" },
  { name: "bind", numbers: [49, 200], reason: "the guest's ports" },
  { name: "listen", numbers: [50, 201], reason: "ports of a moved guest" },
  { name: "setsockopt", numbers: [54, 208], reason: "sockets" },
  { name: "getsockopt", numbers: [55, 209], reason: "sockets; TCP_INFO" },
  { name: "getsockname", numbers: [51, 204], reason: "the port a socket was given" },
  { name: "getpeername", numbers: [52, 205], reason: "who connected" },
  { name: "shutdown", numbers: [48, 210], reason: "half-closed connections" },
  {
    name: "ioctl",
    numbers: [16, 29],
    when: oneOf(1, SIOCOUTQ, SIOCINQ, SIOCOUTQNSD, SIOCGIFINDEX),
    reason: "bytes in queues of a moved connection; number of an interface",
  },
  {
    name: "fcntl",
    numbers: [72, 25],
    when: oneOf(1, ...FCNTL),
    reason:
      "descriptors that a frontend hands over; seals. Not F_SETOWN: it sends signals",
  },
  { name: "dup2", numbers: [33, undefined], reason: "the terminal that is left" },
  { name: "dup3", numbers: [292, 24], reason: "the same" },
  // A move, and its rehearsal.
  { name: "pipe2", numbers: [293, 59], reason: "rehearsal of a move" },
  {
    name: "socketpair",
    numbers: [53, 199],
    when: socketOf(AF_UNIX, SOCK_STREAM, 0),
    reason: "rehearsal of a move. Not of datagrams: such a socket can send to others",
  },
  { name: "memfd_create", numbers: [319, 279], reason: "memory of the rehearsed guest" },
  { name: "ftruncate", numbers: [77, 46], reason: "the same; a log file that is full" },
  { name: "eventfd2", numbers: [290, 19], reason: "kicks of the rehearsed guest" },
  { name: "epoll_create1", numbers: [291, 20], reason: "whether a descriptor can wait" },
  { name: "timerfd_create", numbers: [283, 85], reason: "waits below a millisecond" },
  { name: "timerfd_settime", numbers: [286, 86], reason: "the same" },
  { name: "readlink", numbers: [89, undefined], reason: "what a kick's descriptor is" },
  { name: "readlinkat", numbers: [267, 78], reason: "the same" },
  { name: "poll", numbers: [7, undefined], reason: "whether the other end has gone" },
  { name: "ppoll", numbers: [271, 73], reason: "the same" },
  // Files: none can be opened.
  {
    name: "lseek",
    numbers: [8, 62],
    reason: "the log file's end; reading a folder again",
  },
  { name: "fstat", numbers: [5, 80], reason: "size of a memory region" },
  { name: "newfstatat", numbers: [262, 79], reason: "the same, by newer libraries" },
  { name: "statx", numbers: [332, 291], reason: "whether the socket is still ours" },
  { name: "getcwd", numbers: [79, 17], reason: "the same, if its path is relative" },
  { name: "unlink", numbers: [87, undefined], reason: "removes the socket at the end" },
  { name: "unlinkat", numbers: [263, 35], reason: "the same" },
  {
    name: "getdents64",
    numbers: [217, 61],
    reason: "counts descriptors before Linux 6.2",
  },
];

const SYSLOG: readonly AllowedCall[] = [
  {
    name: "socket",
    numbers: [41, 198],
    when: socketOf(AF_UNIX, SOCK_DGRAM, 0),
    reason: "libc connects to a logger that was started anew",
  },
];

/** What is open when it begins is all that the helper has; see also FOLDER. */
const REPAIR: readonly AllowedCall[] = [
  {
    name: "setsockopt",
    numbers: [54, 208],
    when: [
      option(IPPROTO_TCP, TCP_REPAIR),
      option(SOL_SOCKET, SO_SNDBUFFORCE),
      option(SOL_SOCKET, SO_RCVBUFFORCE),
      option(SOL_SOCKET, SO_BUF_LOCK),
    ],
    reason: "repair mode; buffers of new sockets. Nothing else that CAP_NET_ADMIN may",
  },
  {
    name: "getsockopt",
    numbers: [55, 209],
    when: [option(IPPROTO_TCP, TCP_REPAIR), option(IPPROTO_TCP, TCP_INFO)],
    reason: "the mode and the state that a socket is in",
  },
];

const FOLDER: readonly AllowedCall[] = [
  {
    name: "socket",
    numbers: [41, 198],
    when: socketOf(AF_UNIX, SOCK_STREAM, 0),
    reason: "connections to services that come",
  },
  { name: "connect", numbers: [42, 203], reason: "the same" },
  {
    name: "getsockopt",
    numbers: [55, 209],
    when: [option(SOL_SOCKET, SO_PEERCRED)],
    reason: "who listens at a socket",
  },
  { name: "statx", numbers: [332, 291], reason: "what a name is, and whose" },
  { name: "getcwd", numbers: [79, 17], reason: "the same, if its path is relative" },
  { name: "lseek", numbers: [8, 62], reason: "reads the folder again" },
  { name: "getdents64", numbers: [217, 61], reason: "the same" },
];

const OWN: Readonly<Record<Maker, readonly AllowedCall[]>> = {
  service: SERVICE,
  syslog: SYSLOG,
  repair: REPAIR,
  folder: FOLDER,
};

/** In the order in which the filter asks: first what is called for each packet. */
export function allowedFor(makers: readonly Maker[]): readonly AllowedCall[] {
  return [...LOOP, ...makers.flatMap((maker) => OWN[maker]), ...RUNTIME];
}

/** A call that is not merely refused. */
export interface SpecialCall {
  readonly name: string;
  readonly numbers: Numbers;
  readonly reason: string;
}

/** The runtime tries something else where the kernel seems to be older. */
export const MISSING: readonly SpecialCall[] = [
  {
    name: "clone3",
    numbers: [435, 435],
    reason: "its flags cannot be seen; clone's can",
  },
];

/**
 * No part of the runtime ever makes these: whoever does has taken the process over, and it
 * ends at once. What libraries are known to try is merely refused: keyctl, bpf, io_uring,
 * perf_event_open, userfaultfd.
 */
export const DEADLY: readonly SpecialCall[] = [
  { name: "execve", numbers: [59, 221], reason: "another program" },
  { name: "execveat", numbers: [322, 281], reason: "another program" },
  { name: "fork", numbers: [57, undefined], reason: "another process" },
  { name: "vfork", numbers: [58, undefined], reason: "another process" },
  { name: "ptrace", numbers: [101, 117], reason: "other processes' memory" },
  { name: "process_vm_readv", numbers: [310, 270], reason: "other processes' memory" },
  { name: "process_vm_writev", numbers: [311, 271], reason: "other processes' memory" },
  { name: "pidfd_getfd", numbers: [438, 438], reason: "other processes' descriptors" },
  { name: "mount", numbers: [165, 40], reason: "another file system" },
  { name: "umount2", numbers: [166, 39], reason: "another file system" },
  { name: "move_mount", numbers: [429, 429], reason: "another file system" },
  { name: "open_tree", numbers: [428, 428], reason: "another file system" },
  { name: "fsopen", numbers: [430, 430], reason: "another file system" },
  { name: "pivot_root", numbers: [155, 41], reason: "another file system" },
  { name: "chroot", numbers: [161, 51], reason: "another file system" },
  { name: "open_by_handle_at", numbers: [304, 265], reason: "files past all paths" },
  { name: "setns", numbers: [308, 268], reason: "another namespace" },
  { name: "unshare", numbers: [272, 97], reason: "a namespace with rights in it" },
  { name: "init_module", numbers: [175, 105], reason: "code of the kernel" },
  { name: "finit_module", numbers: [313, 273], reason: "code of the kernel" },
  { name: "delete_module", numbers: [176, 106], reason: "code of the kernel" },
  { name: "kexec_load", numbers: [246, 104], reason: "another kernel" },
  { name: "kexec_file_load", numbers: [320, 294], reason: "another kernel" },
  { name: "add_key", numbers: [248, 217], reason: "keys that the kernel holds" },
  { name: "request_key", numbers: [249, 218], reason: "keys that the kernel holds" },
  { name: "reboot", numbers: [169, 142], reason: "the machine" },
];

/** The highest number of a call that was known when the table was made (Linux 6.18). */
export const NEWEST_CALL = 469;
