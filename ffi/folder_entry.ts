/**
 * Entries of folders that others may write to as well, such as /tmp: opened without going
 * where a symbolic link leads, and renamed without replacing anything.
 */
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** int open(const char *path, int flags, mode_t mode); the variadic third in a register */
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  /** int renameat2(int olddirfd, const char *oldpath, int newdirfd, const char *newpath,
   *   unsigned int flags) */
  renameat2: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
  /** int fchownat(int dirfd, const char *path, uid_t owner, gid_t group, int flags) */
  fchownat: { parameters: ["i32", "buffer", "u32", "u32", "i32"], result: "i32" },
});

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const RENAME_NOREPLACE = 1;
const O_RDWR = 0o2;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_NOFOLLOW = 0o400000;
const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;
const NOBODY_SAID = 0xffff_ffff;

const encoder = new TextEncoder();
const text = (path: string) => encoder.encode(path + "\0");

/**
 * A descriptor that stands for the file at `path`, a symbolic link included, and can do
 * no more: /proc/self/fd leads from it to the very file.
 *
 * @returns -1 with errno() if there is none
 */
export function pointTo(path: string): number {
  return sys.open(text(path), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
}

/** Makes a file where nothing is; -1 with errno() (EEXIST: something is). */
export function createNew(path: string, mode: number): number {
  return sys.open(text(path), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

/**
 * Renames a file to where nothing is.
 *
 * @returns false if the file system cannot do that
 * @throws {SyscallError} ENOENT, EEXIST, EACCES, EPERM
 */
export function renameToNew(from: string, to: string): boolean {
  const flags = RENAME_NOREPLACE;
  if (sys.renameat2(AT_FDCWD, text(from), AT_FDCWD, text(to), flags) === 0) return true;
  const number = errno();
  if (number === Errno.EINVAL || number === Errno.ENOSYS) return false;
  throw new SyscallError(`renaming ${from}`, number);
}

/** Gives the file that a descriptor of {@link pointTo} stands for to a user and group. */
export function giveTo(fd: number, uid = NOBODY_SAID, gid = NOBODY_SAID): void {
  checked(sys.fchownat(fd, text(""), uid, gid, AT_EMPTY_PATH), `chown ${uid}:${gid}`);
}
