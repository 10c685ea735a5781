/** The process itself: user and group, standard descriptors, limits. Control path only. */
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** uid_t geteuid(void) */
  geteuid: { parameters: [], result: "u32" },
  /** int setresuid(uid_t ruid, uid_t euid, uid_t suid); libc does so for all threads */
  setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  /** int setresgid(gid_t rgid, gid_t egid, gid_t sgid); libc does so for all threads */
  setresgid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  /** int setgroups(size_t size, const gid_t *list); libc does so for all threads */
  setgroups: { parameters: ["usize", "pointer"], result: "i32" },
  /** int prctl(int option, unsigned long arg2, ...) */
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
  /** struct passwd *getpwnam(const char *name) */
  getpwnam: { parameters: ["buffer"], result: "pointer" },
  /** struct passwd *getpwuid(uid_t uid) */
  getpwuid: { parameters: ["u32"], result: "pointer" },
  /** struct group *getgrnam(const char *name) */
  getgrnam: { parameters: ["buffer"], result: "pointer" },
  /** int open(const char *path, int flags) */
  open: { parameters: ["buffer", "i32"], result: "i32" },
  /** int dup2(int oldfd, int newfd) */
  dup2: { parameters: ["i32", "i32"], result: "i32" },
  /** int close(int fd) */
  close: { parameters: ["i32"], result: "i32" },
  /** int fcntl(int fd, int cmd, long argument) */
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int getrlimit(int resource, struct rlimit *limit) */
  getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  /** int setrlimit(int resource, const struct rlimit *limit) */
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  /** int getsockopt(int fd, int level, int option, void *value, socklen_t *length) */
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
});

const PR_SET_NO_NEW_PRIVS = 38;
const O_RDWR_CLOEXEC = 0o2000002;
const RLIMIT_NOFILE = 7;
const F_GETFD = 1;
const FD_CLOEXEC = 1;
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SOCK_STREAM = 1;

const encoder = new TextEncoder();

/** The user that the process acts as; 0 is root. */
export function effectiveUser(): number {
  return sys.geteuid();
}

/** A user of the host, as passwd(5) has it. */
export interface UserEntry {
  readonly uid: number;
  readonly gid: number;
}

/** struct passwd { char *name, *passwd; uid_t uid; gid_t gid; … } */
function readUser(entry: Deno.PointerValue): UserEntry | undefined {
  if (entry === null) return undefined;
  const view = new Deno.UnsafePointerView(entry);
  return { uid: view.getUint32(16), gid: view.getUint32(20) };
}

/** User and main group of a login name; undefined if the system has no such user. */
export function findUser(name: string): UserEntry | undefined {
  return readUser(sys.getpwnam(encoder.encode(name + "\0")));
}

/** User and main group of a user number; undefined if the system has no such user. */
export function findUserByNumber(uid: number): UserEntry | undefined {
  return readUser(sys.getpwuid(uid));
}

/** Number of a group name; undefined if the system has no such group. */
export function findGroup(name: string): number | undefined {
  const entry = sys.getgrnam(encoder.encode(name + "\0"));
  // struct group { char *name, *passwd; gid_t gid; … }
  return entry === null ? undefined : new Deno.UnsafePointerView(entry).getUint32(16);
}

/**
 * Becomes another user for good, on all threads: supplementary groups are given up, and
 * with root's number go its capabilities.
 *
 * @throws {SyscallError} if the kernel refuses
 */
export function becomeUser(uid: number, gid: number): void {
  checked(sys.setgroups(0n, null), "setgroups()");
  checked(sys.setresgid(gid, gid, gid), `setresgid(${gid})`);
  checked(sys.setresuid(uid, uid, uid), `setresuid(${uid})`);
}

/** No program that is executed from here gains rights (this thread and those it makes). */
export function forbidNewPrivileges(): void {
  checked(sys.prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), "prctl(PR_SET_NO_NEW_PRIVS)");
}

/**
 * Lets the process have as many descriptors as it may, if it may change that.
 *
 * @return that number
 */
export function raiseDescriptorLimit(): number {
  // struct rlimit { rlim_t soft, hard; }
  const limit = new BigUint64Array(2);
  checked(sys.getrlimit(RLIMIT_NOFILE, limit), "getrlimit(RLIMIT_NOFILE)");
  const [soft, hard] = limit;
  limit[0] = hard;
  return Number(sys.setrlimit(RLIMIT_NOFILE, limit) === 0 ? hard : soft);
}

/** How many descriptors this process may have. */
export function descriptorLimit(): number {
  const limit = new BigUint64Array(2);
  checked(sys.getrlimit(RLIMIT_NOFILE, limit), "getrlimit(RLIMIT_NOFILE)");
  return Number(limit[0]);
}

/** /dev/null, open for reading and writing. */
export function openNull(): number {
  return checked(sys.open(encoder.encode("/dev/null\0"), O_RDWR_CLOEXEC), "open()");
}

/**
 * Makes these descriptors refer to what `target` does, which is closed.
 *
 * @returns 0, or the error number of the last that stays what it was
 */
export function replaceBy(target: number, fds: readonly number[]): number {
  let error = 0;
  for (const fd of fds) {
    let result = sys.dup2(target, fd);
    while (result === -1 && errno() === Errno.EINTR) result = sys.dup2(target, fd);
    if (result === -1) error = errno();
  }
  if (!fds.includes(target)) sys.close(target);
  return error;
}

/** Whether a program that is executed would have this descriptor, too. */
export function isInherited(fd: number): boolean {
  const flags = sys.fcntl(fd, F_GETFD, 0);
  return flags !== -1 && (flags & FD_CLOEXEC) === 0;
}

/** What a descriptor that was passed in is. */
export function describeFd(fd: number): "closed" | "stream socket" | "other" {
  if (sys.fcntl(fd, F_GETFD, 0) === -1) {
    if (errno() === Errno.EBADF) return "closed";
    throw new SyscallError(`fcntl(${fd})`);
  }
  const value = new Int32Array(1);
  const length = new Int32Array([4]);
  const failed = sys.getsockopt(fd, SOL_SOCKET, SO_TYPE, value, length) === -1;
  return !failed && value[0] === SOCK_STREAM ? "stream socket" : "other";
}
