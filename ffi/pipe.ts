/** Pipes, and reading and writing of any descriptor straight from a caller's array. */
import { checked } from "./errno.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** int pipe2(int pipefd[2], int flags) */
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  /** ssize_t read(int fd, void *buf, size_t count) */
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** ssize_t write(int fd, const void *buf, size_t count) */
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** int fcntl(int fd, int op, int arg) */
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int poll(struct pollfd *fds, nfds_t nfds, int timeout) */
  poll: { parameters: ["buffer", "u32", "i32"], result: "i32" },
});

const O_CLOEXEC = 0o2000000;
const F_GETFL = 3;
const O_ACCMODE = 3;
const O_RDONLY = 0;
const O_WRONLY = 1;
const F_SETPIPE_SZ = 1031;
/** What one call moves at most: results are 32 bits. */
const MAX_PIECE = 1 << 30;

export const POLLIN = 0x1;
export const POLLOUT = 0x4;

/** A pipe's reading and writing end. @throws {SyscallError} if no descriptor is left. */
export function createPipe(): [number, number] {
  const fds = new Int32Array(2);
  checked(sys.pipe2(new Uint8Array(fds.buffer), O_CLOEXEC), "pipe2");
  return [fds[0], fds[1]];
}

/** Whether a descriptor was opened for reading. */
export function isReadable(fd: number): boolean {
  return (sys.fcntl(fd, F_GETFL, 0) & O_ACCMODE) !== O_WRONLY;
}

/** Whether a descriptor was opened for writing. */
export function isWritable(fd: number): boolean {
  return (sys.fcntl(fd, F_GETFL, 0) & O_ACCMODE) !== O_RDONLY;
}

/** Asks for a pipe buffer of `size` bytes; what is no pipe stays as it is. */
export function growPipe(fd: number, size: number): void {
  sys.fcntl(fd, F_SETPIPE_SZ, size);
}

/** read(2) into `into`: bytes, 0 at the end, -1 with errno(). */
export function readSome(fd: number, into: Uint8Array<ArrayBuffer>): number {
  return sys.read(fd, into, Math.min(into.length, MAX_PIECE));
}

/** write(2) of `bytes`: bytes taken, perhaps fewer, or -1 with errno(). */
export function writeSome(fd: number, bytes: Uint8Array<ArrayBuffer>): number {
  return sys.write(fd, bytes, Math.min(bytes.length, MAX_PIECE));
}

/** struct pollfd of {@link takesNow}. */
const takes = new DataView(new ArrayBuffer(8));
const takesBytes = new Uint8Array(takes.buffer);

/** Whether a write of a few bytes to `fd` would not wait, as things are now. */
export function takesNow(fd: number): boolean {
  takes.setInt32(0, fd, true);
  takes.setInt32(4, POLLOUT, true); // with no event that came
  sys.poll(takesBytes, 1, 0);
  return (takes.getInt16(6, true) & POLLOUT) !== 0;
}

/**
 * Waits until `fd` is ready for `events` ({@link POLLIN}, {@link POLLOUT}), broken, or
 * `timeoutMs` are over; false then.
 */
export function awaitReady(fd: number, events: number, timeoutMs: number): boolean {
  const entry = new DataView(new ArrayBuffer(8));
  entry.setInt32(0, fd, true);
  entry.setInt16(4, events, true);
  return sys.poll(new Uint8Array(entry.buffer), 1, Math.max(0, Math.ceil(timeoutMs))) ===
    1;
}
