/** UNIX stream sockets that pass descriptors (unix(7), cmsg(3)); control path only. */
import { Arena } from "./arena.ts";
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { close } from "./event.ts";
import { libc, rare } from "./libc.ts";

/** Bound beforehand: no time shall pass between the two, once the path is there. */
const paths = libc({
  /** int bind(int sockfd, const struct sockaddr *addr, socklen_t addrlen) */
  bind: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int listen(int sockfd, int backlog) */
  listen: { parameters: ["i32", "i32"], result: "i32" },
});

const sys = rare({
  /** int socket(int domain, int type, int protocol) */
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int socketpair(int domain, int type, int protocol, int sv[2]) */
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  /** int fchmod(int fd, mode_t mode) */
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  /** int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen) */
  connect: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int accept4(int sockfd, struct sockaddr *addr, socklen_t *addrlen, int flags) */
  accept4: { parameters: ["i32", "pointer", "pointer", "i32"], result: "i32" },
  /** ssize_t sendmsg(int sockfd, const struct msghdr *msg, int flags) */
  sendmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  /** ssize_t recvmsg(int sockfd, struct msghdr *msg, int flags) */
  recvmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  /** ssize_t write(int fd, const void *buf, size_t count) */
  write: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int getsockopt(int sockfd, int level, int optname, void *val, socklen_t *len) */
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  /** int poll(struct pollfd *fds, nfds_t nfds, int timeout) */
  poll: { parameters: ["pointer", "u32", "i32"], result: "i32" },
});

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK_CLOEXEC = 0o2004000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_PEERCRED = 17;
const SO_PEERGROUPS = 59;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const POLLIN = 0x1;
const POLLHUP = 0x10;
const POLLRDHUP = 0x2000;

/** Longest path of a socket: sun_path less its final zero byte. */
export const MAX_SOCKET_PATH = 107;
/** Bytes that one send or receive moves at most. */
export const MAX_TRANSFER = 16384;
/** Descriptors that {@link receive} takes with one piece of data, unless told otherwise. */
export const MAX_RECEIVED_FDS = 8;
/** Descriptors that one message carries at most (SCM_MAX_FD of net/scm.h). */
export const MAX_MESSAGE_FDS = 253;

/** Results of {@link receive} that are not a number of bytes. */
export const RECEIVE_FAILED = -1;
export const RECEIVE_TOO_MANY_FDS = -2;

const CMSG_HEADER = 16;

const scratch = new Arena(2 * MAX_TRANSFER);
const view = scratch.view;
const DATA_AT = scratch.take(MAX_TRANSFER);
const data = scratch.bytes(DATA_AT, MAX_TRANSFER);
const CONTROL_AT = scratch.take(CMSG_HEADER + 4 * (MAX_MESSAGE_FDS + 1));
const ADDRESS_AT = scratch.take(2 + MAX_SOCKET_PATH + 1);
const POLL_AT = scratch.take(8);
const IOVEC_AT = scratch.take(16);
/** struct msghdr: name, namelen, iov, iovlen, control, controllen, flags; 8 bytes each. */
const MSGHDR_AT = scratch.take(56);
const CONTROL_POINTER_AT = MSGHDR_AT + 32;
const CONTROL_LENGTH_AT = MSGHDR_AT + 40;
const FLAGS_AT = MSGHDR_AT + 48;
const address = scratch.pointer(ADDRESS_AT);
const message = scratch.pointer(MSGHDR_AT);
const pollfd = scratch.pointer(POLL_AT);
const dataPointer = scratch.pointer(DATA_AT);
view.setBigUint64(IOVEC_AT, BigInt(scratch.base + DATA_AT), true);
view.setBigUint64(MSGHDR_AT + 16, BigInt(scratch.base + IOVEC_AT), true);
view.setUint32(MSGHDR_AT + 24, 1, true);

/** Fills in struct sockaddr_un; returns its length. */
function setAddress(path: string): number {
  const bytes = new TextEncoder().encode(path);
  if (bytes.length === 0 || bytes.length > MAX_SOCKET_PATH || bytes.includes(0)) {
    throw new SyscallError(`socket path of ${bytes.length} bytes`, Errno.EINVAL);
  }
  view.setUint16(ADDRESS_AT, AF_UNIX, true);
  scratch.bytes(ADDRESS_AT + 2, MAX_SOCKET_PATH + 1).fill(0);
  scratch.bytes(ADDRESS_AT + 2, bytes.length).set(bytes);
  return 2 + bytes.length + 1;
}

function open(): number {
  return checked(sys.socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK_CLOEXEC, 0), "socket");
}

/** Two non-blocking sockets that are connected to each other. */
export function socketPair(): [number, number] {
  const pair = new Int32Array(2);
  const type = SOCK_STREAM | SOCK_NONBLOCK_CLOEXEC;
  checked(sys.socketpair(AF_UNIX, type, 0, pair), "socketpair");
  return [pair[0], pair[1]];
}

/**
 * A non-blocking socket that listens at `path`, made with mode 0600.
 *
 * @throws {SyscallError} EADDRINUSE if there is a file of any kind, EINVAL for a path
 *   that is too long.
 */
export function listenUnix(path: string): number {
  const length = setAddress(path);
  const fd = open();
  // The mode of the socket is that of the file which bind() makes (net/unix/af_unix.c).
  if (
    sys.fchmod(fd, 0o600) === -1 || paths.bind(fd, address, length) === -1 ||
    paths.listen(fd, 8) === -1
  ) {
    const error = new SyscallError(`listening at ${path}`);
    close(fd);
    throw error;
  }
  return fd;
}

/**
 * A non-blocking socket connected to `path`.
 *
 * @throws {SyscallError} ENOENT, ECONNREFUSED if nothing listens there any more, EAGAIN
 *   if too many others wait.
 */
export function connectUnix(path: string): number {
  const length = setAddress(path);
  const fd = open();
  if (sys.connect(fd, address, length) === -1) {
    const error = new SyscallError(`connecting to ${path}`);
    close(fd);
    throw error;
  }
  return fd;
}

/** The next connection of a listening socket, non-blocking; -1 if there is none. */
export function acceptUnix(fd: number): number {
  return sys.accept4(fd, null, null, SOCK_NONBLOCK_CLOEXEC);
}

/** Who made a connection, as the kernel knows it: unix(7), SO_PEERCRED. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** The process at the other end; undefined if the kernel does not tell. */
export function peerOf(fd: number): Peer | undefined {
  const value = new Int32Array(3);
  const length = new Int32Array([value.byteLength]);
  if (sys.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length) === -1) return undefined;
  if (length[0] !== value.byteLength) return undefined;
  return { pid: value[0], uid: value[1] >>> 0, gid: value[2] >>> 0 };
}

/** Supplementary groups of the process at the other end, at the time it connected. */
export function peerGroupsOf(fd: number): number[] {
  let groups = new Uint32Array(32);
  const length = new Int32Array([groups.byteLength]);
  while (sys.getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, length) === -1) {
    if (errno() !== Errno.ERANGE || length[0] <= groups.byteLength) return [];
    groups = new Uint32Array(length[0] / 4);
  }
  return [...groups.subarray(0, length[0] / 4)];
}

/** Whether the other side has closed the connection, read or not what it sent before. */
export function isHungUp(fd: number): boolean {
  view.setInt32(POLL_AT, fd, true);
  view.setUint32(POLL_AT + 4, POLLRDHUP, true);
  let count: number;
  do {
    count = sys.poll(pollfd, 1, 0);
  } while (count === -1 && errno() === Errno.EINTR);
  if (count !== 1) return false;
  return (view.getUint16(POLL_AT + 6, true) & (POLLHUP | POLLRDHUP)) !== 0;
}

/**
 * Waits until there is something to receive or the other side has gone; false if neither
 * came within `timeoutMs`, or a signal did.
 */
export function awaitInput(fd: number, timeoutMs: number): boolean {
  view.setInt32(POLL_AT, fd, true);
  view.setUint32(POLL_AT + 4, POLLIN | POLLRDHUP, true);
  return sys.poll(pollfd, 1, Math.max(0, Math.ceil(timeoutMs))) === 1;
}

/**
 * Receives into `into` and appends descriptors that came along to `fds`, which are the
 * caller's then.
 *
 * @param maxFds descriptors to take at most, an even number up to 254
 * @returns bytes; 0 at the end; {@link RECEIVE_FAILED} with errno() (EAGAIN: nothing
 *   there); {@link RECEIVE_TOO_MANY_FDS} if more than `maxFds` came or the process cannot
 *   have so many: all that came are closed
 */
export function receive(
  fd: number,
  into: Uint8Array,
  fds: number[],
  maxFds = MAX_RECEIVED_FDS,
): number {
  const wanted = Math.min(into.length, MAX_TRANSFER);
  view.setUint32(IOVEC_AT + 8, wanted, true);
  view.setBigUint64(CONTROL_POINTER_AT, BigInt(scratch.base + CONTROL_AT), true);
  // All of CMSG_SPACE(): the kernel leaves here how much of it the last message took. The
  // space is of whole words, so that one more than an odd number would fit in.
  view.setUint32(CONTROL_LENGTH_AT, CMSG_HEADER + 4 * maxFds, true);
  let count: number;
  do {
    count = sys.recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (count === -1 && errno() === Errno.EINTR);
  if (count < 0) return RECEIVE_FAILED;
  const before = fds.length;
  takeDescriptors(fds);
  if ((view.getUint32(FLAGS_AT, true) & MSG_CTRUNC) !== 0) {
    for (const extra of fds.splice(before)) close(extra);
    return RECEIVE_TOO_MANY_FDS;
  }
  into.set(data.subarray(0, count));
  return count;
}

/** Reads struct cmsghdr (length, level, type) after struct cmsghdr. */
function takeDescriptors(fds: number[]): void {
  const end = view.getUint32(CONTROL_LENGTH_AT, true);
  let at = 0;
  while (at + CMSG_HEADER <= end) {
    const length = view.getUint32(CONTROL_AT + at, true);
    if (length < CMSG_HEADER || at + length > end) return;
    const level = view.getInt32(CONTROL_AT + at + 8, true);
    const type = view.getInt32(CONTROL_AT + at + 12, true);
    if (level === SOL_SOCKET && type === SCM_RIGHTS) {
      for (let i = CMSG_HEADER; i + 4 <= length; i += 4) {
        fds.push(view.getInt32(CONTROL_AT + at + i, true));
      }
    }
    at += (length + 7) & -8;
  }
}

/**
 * Sends `bytes` and copies of `fds` with them, which stay the caller's.
 *
 * @returns bytes sent, perhaps fewer; -1 with errno()
 */
export function send(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
  if (fds.length > MAX_MESSAGE_FDS) throw new RangeError("too many descriptors to send");
  const length = Math.min(bytes.length, MAX_TRANSFER);
  data.set(bytes.subarray(0, length));
  view.setUint32(IOVEC_AT + 8, length, true);
  const controlLength = fds.length === 0 ? 0 : CMSG_HEADER + 4 * fds.length;
  const control = fds.length === 0 ? 0 : scratch.base + CONTROL_AT;
  view.setBigUint64(CONTROL_POINTER_AT, BigInt(control), true);
  view.setUint32(CONTROL_LENGTH_AT, controlLength, true);
  view.setBigUint64(CONTROL_AT, BigInt(controlLength), true);
  view.setInt32(CONTROL_AT + 8, SOL_SOCKET, true);
  view.setInt32(CONTROL_AT + 12, SCM_RIGHTS, true);
  fds.forEach((sent, i) => view.setInt32(CONTROL_AT + CMSG_HEADER + 4 * i, sent, true));
  let count: number;
  do {
    count = sys.sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (count === -1 && errno() === Errno.EINTR);
  return count;
}

/** Writes to a socket or pipe; returns bytes written, -1 with errno(). */
export function writeBytes(fd: number, bytes: Uint8Array): number {
  const length = Math.min(bytes.length, MAX_TRANSFER);
  data.set(bytes.subarray(0, length));
  return sys.write(fd, dataPointer, length);
}
