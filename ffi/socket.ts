/**
 * Sockets: the calls of the hot path as they are (integers and constant pointers in, -1
 * and {@link errno} out), and typed functions that throw for everything else.
 */
import { Arena } from "./arena.ts";
import { Errno, errno } from "./errno.ts";
import { libc, rare } from "./libc.ts";

const sys = libc({
  /** int socket(int domain, int type, int protocol) */
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int bind(int sockfd, const struct sockaddr *addr, socklen_t addrlen) */
  bind: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen) */
  connect: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int accept4(int sockfd, struct sockaddr *addr, socklen_t *addrlen, int flags) */
  accept4: { parameters: ["i32", "pointer", "pointer", "i32"], result: "i32" },
  /** int getsockname(int sockfd, struct sockaddr *addr, socklen_t *addrlen) */
  getsockname: { parameters: ["i32", "pointer", "pointer"], result: "i32" },
  /** int setsockopt(int sockfd, int level, int optname, const void *val, socklen_t len) */
  setsockopt: { parameters: ["i32", "i32", "i32", "pointer", "u32"], result: "i32" },
  /** int getsockopt(int sockfd, int level, int optname, void *val, socklen_t *len) */
  getsockopt: { parameters: ["i32", "i32", "i32", "pointer", "pointer"], result: "i32" },
  /** int shutdown(int sockfd, int how) */
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  /** int close(int fd) */
  close: { parameters: ["i32"], result: "i32" },
  /** ssize_t sendmsg(int sockfd, const struct msghdr *msg, int flags) */
  sendmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  /** ssize_t recvmsg(int sockfd, struct msghdr *msg, int flags) */
  recvmsg: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  /** int sendmmsg(int sockfd, struct mmsghdr *msgvec, unsigned int vlen, int flags) */
  sendmmsg: { parameters: ["i32", "pointer", "u32", "i32"], result: "i32" },
  /** int recvmmsg(int fd, struct mmsghdr *v, unsigned vlen, int flags, struct timespec *t) */
  recvmmsg: { parameters: ["i32", "pointer", "u32", "i32", "pointer"], result: "i32" },
  /** ssize_t recv(int sockfd, void *buf, size_t len, int flags) */
  recv: { parameters: ["i32", "pointer", "u32", "i32"], result: "i32" },
  /** int ioctl(int fd, unsigned long request, void *argument); the variadic third in a register */
  ioctl: { parameters: ["i32", "u32", "pointer"], result: "i32" },
});

const setup = rare({
  /** int listen(int sockfd, int backlog) */
  listen: { parameters: ["i32", "i32"], result: "i32" },
  /** unsigned int if_nametoindex(const char *ifname) */
  if_nametoindex: { parameters: ["buffer"], result: "u32" },
});

/** Hot path: result as the kernel gives it, -1 with errno() on failure. */
export const sendmsg = sys.sendmsg;
export const recvmsg = sys.recvmsg;
export const sendmmsg = sys.sendmmsg;
export const recvmmsg = sys.recvmmsg;
export const recv = sys.recv;
export const closeFd = sys.close;
export const shutdownSocket = sys.shutdown;

export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const IPPROTO_ICMP = 1;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_ICMPV6 = 58;

export const MSG_PEEK = 0x2;
export const MSG_TRUNC = 0x20;
export const MSG_DONTWAIT = 0x40;
export const MSG_ERRQUEUE = 0x2000;
export const MSG_NOSIGNAL = 0x4000;

export const SHUT_RD = 0;
export const SHUT_WR = 1;

export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_ERROR = 4;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_KEEPALIVE = 9;
export const SO_OOBINLINE = 10;
export const SO_LINGER = 13;
export const SO_RCVLOWAT = 18;
export const SO_BINDTODEVICE = 25;
export const SO_SNDBUFFORCE = 32;
/** As SO_RCVBUF, beyond net.core.rmem_max: CAP_NET_ADMIN. */
export const SO_RCVBUFFORCE = 33;
export const SO_PEEK_OFF = 42;
/** Linux 5.14: whether buffer sizes stay as they were set. */
export const SO_BUF_LOCK = 72;

export const SOL_IP = 0;
export const IP_TTL = 2;
export const IP_PKTINFO = 8;
export const IP_MTU_DISCOVER = 10;
export const IP_RECVERR = 11;
export const IP_BIND_ADDRESS_NO_PORT = 24;
export const SOL_IPV6 = 41;
export const IPV6_UNICAST_HOPS = 16;
export const IPV6_MTU_DISCOVER = 23;
export const IPV6_RECVERR = 25;
export const IPV6_V6ONLY = 26;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
export const SOL_UDP = 17;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;
export const PMTUDISC_DONT = 0;
export const PMTUDISC_DO = 2;

export const TCP_NODELAY = 1;
export const TCP_MAXSEG = 2;
export const TCP_KEEPIDLE = 4;
export const TCP_KEEPINTVL = 5;
export const TCP_KEEPCNT = 6;
export const TCP_LINGER2 = 8;
export const TCP_INFO = 11;

export const SIOCINQ = 0x541b;
export const SIOCOUTQ = 0x5411;

/** struct sockaddr_in6; sockaddr_in is 16. */
export const SOCKADDR_SIZE = 28;

/** A block for small arguments; every call below is done with it when it returns. */
const arena = new Arena(4096);
const addressAt = arena.take(128);
const addressPointer = arena.pointer(addressAt);
const lengthAt = arena.take(8);
const lengthPointer = arena.pointer(lengthAt);
const valueAt = arena.take(512);
const valuePointer = arena.pointer(valueAt);
const view = arena.view;

/** True if the 16 bytes at `at` are an IPv4-mapped address (RFC 4291, 2.5.5.2). */
function mapped(bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < 10; i++) if (bytes[at + i] !== 0) return false;
  return bytes[at + 10] === 0xff && bytes[at + 11] === 0xff;
}

/** Writes a sockaddr for 16 address bytes; returns its length. Port in host order. */
function putAddress(bytes: Uint8Array, at: number, port: number, scope: number): number {
  if (mapped(bytes, at)) {
    view.setUint16(addressAt, AF_INET, true);
    view.setUint16(addressAt + 2, port);
    for (let i = 0; i < 4; i++) view.setUint8(addressAt + 4 + i, bytes[at + 12 + i]);
    view.setUint32(addressAt + 8, 0);
    view.setUint32(addressAt + 12, 0);
    return 16;
  }
  view.setUint16(addressAt, AF_INET6, true);
  view.setUint16(addressAt + 2, port);
  view.setUint32(addressAt + 4, 0);
  for (let i = 0; i < 16; i++) view.setUint8(addressAt + 8 + i, bytes[at + i]);
  view.setUint32(addressAt + 24, scope, true);
  return SOCKADDR_SIZE;
}

/** An address as the kernel returned it last: see {@link acceptSocket}, {@link localAddress}. */
export const lastAddress = {
  /** 16 bytes, IPv4 mapped. */
  bytes: new Uint8Array(16),
  port: 0,
  scope: 0,
};

/** Reads a sockaddr at `at` of `from` into {@link lastAddress}; false if neither IP family. */
export function readAddress(from: DataView, at: number): boolean {
  const family = from.getUint16(at, true);
  const bytes = lastAddress.bytes;
  lastAddress.port = from.getUint16(at + 2);
  lastAddress.scope = 0;
  if (family === AF_INET) {
    bytes.fill(0, 0, 10);
    bytes[10] = bytes[11] = 0xff;
    for (let i = 0; i < 4; i++) bytes[12 + i] = from.getUint8(at + 4 + i);
    return true;
  }
  if (family !== AF_INET6) return false;
  for (let i = 0; i < 16; i++) bytes[i] = from.getUint8(at + 8 + i);
  lastAddress.scope = from.getUint32(at + 24, true);
  return true;
}

/**
 * Writes the sockaddr of 16 address bytes at `at` of `to`, for msg_name.
 *
 * @returns its length, 16 for IPv4 and 28 for IPv6
 */
export function writeAddress(
  to: DataView,
  at: number,
  bytes: Uint8Array,
  from: number,
  port: number,
  scope = 0,
): number {
  const length = putAddress(bytes, from, port, scope);
  for (let i = 0; i < length; i++) to.setUint8(at + i, view.getUint8(addressAt + i));
  return length;
}

/**
 * A new non-blocking, close-on-exec socket; -1 with errno() on failure, since running out
 * of descriptors is an outcome that flows handle.
 *
 * @param type SOCK_STREAM or SOCK_DGRAM
 */
export function openSocket(family: number, type: number, protocol: number): number {
  return sys.socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
}

/** bind() to 16 address bytes at `at`, port in host order; 0, or -1 with errno(). */
export function bindSocket(
  fd: number,
  bytes: Uint8Array,
  at: number,
  port: number,
  scope = 0,
): number {
  return sys.bind(fd, addressPointer, putAddress(bytes, at, port, scope));
}

/** connect(); 0, or -1 with errno() (EINPROGRESS is the usual answer for TCP). */
export function connectSocket(
  fd: number,
  bytes: Uint8Array,
  at: number,
  port: number,
  scope = 0,
): number {
  return sys.connect(fd, addressPointer, putAddress(bytes, at, port, scope));
}

/** listen(); 0, or -1 with errno(). */
export function listenSocket(fd: number, backlog: number): number {
  return setup.listen(fd, backlog);
}

/** accept4(); the new descriptor with its peer in {@link lastAddress}, or -1. */
export function acceptSocket(fd: number): number {
  view.setUint32(lengthAt, SOCKADDR_SIZE, true);
  const accepted = sys.accept4(
    fd,
    addressPointer,
    lengthPointer,
    SOCK_NONBLOCK | SOCK_CLOEXEC,
  );
  if (accepted !== -1) readAddress(view, addressAt);
  return accepted;
}

/** Fills {@link lastAddress} with the socket's own address and port; false on failure. */
export function localAddress(fd: number): boolean {
  view.setUint32(lengthAt, SOCKADDR_SIZE, true);
  if (sys.getsockname(fd, addressPointer, lengthPointer) === -1) return false;
  return readAddress(view, addressAt);
}

/** setsockopt() with an int; 0, or -1 with errno(). */
export function setOption(
  fd: number,
  level: number,
  name: number,
  value: number,
): number {
  view.setInt32(valueAt, value, true);
  return sys.setsockopt(fd, level, name, valuePointer, 4);
}

/** getsockopt() of an int; `absent` on failure. */
export function getOption(fd: number, level: number, name: number, absent = -1): number {
  view.setUint32(lengthAt, 4, true);
  if (sys.getsockopt(fd, level, name, valuePointer, lengthPointer) === -1) return absent;
  return view.getInt32(valueAt, true);
}

/** SO_BINDTODEVICE; 0, or -1 with errno(). */
export function bindToDevice(fd: number, name: string): number {
  const bytes = new TextEncoder().encode(name);
  arena.bytes(valueAt, bytes.length).set(bytes);
  return sys.setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, valuePointer, bytes.length);
}

/** The index of a network interface, 0 if there is none of that name. */
export function interfaceIndex(name: string): number {
  return setup.if_nametoindex(new TextEncoder().encode(name + "\0"));
}

/** Makes close() send RST instead of FIN (SO_LINGER of zero seconds). */
export function resetOnClose(fd: number): void {
  view.setInt32(valueAt, 1, true);
  view.setInt32(valueAt + 4, 0, true);
  sys.setsockopt(fd, SOL_SOCKET, SO_LINGER, valuePointer, 8);
}

/** ioctl() that yields an int (SIOCINQ, SIOCOUTQ); -1 on failure. */
export function queueLength(fd: number, request: number): number {
  if (sys.ioctl(fd, request, valuePointer) === -1) return -1;
  return view.getInt32(valueAt, true);
}

/** What {@link getStructure} got, valid until the next call of this module. */
export const optionWords: Uint32Array = arena.words(valueAt, 128);

/**
 * getsockopt() of a structure into {@link optionWords} (up to 512 bytes).
 *
 * @returns bytes that the kernel filled in, or -1 with errno()
 */
export function getStructure(fd: number, level: number, name: number): number {
  view.setUint32(lengthAt, 512, true);
  if (sys.getsockopt(fd, level, name, valuePointer, lengthPointer) === -1) return -1;
  return view.getUint32(lengthAt, true);
}

/** Whether MSG_PEEK on TCP follows SO_PEEK_OFF here (Linux 6.9 for IPv4, 6.11 for IPv6). */
export function supportsPeekOffset(family: number): boolean {
  const fd = openSocket(family, SOCK_STREAM, IPPROTO_TCP);
  if (fd === -1) return false;
  const supported = setOption(fd, SOL_SOCKET, SO_PEEK_OFF, 0) === 0;
  closeFd(fd);
  return supported;
}

/** Whether a buffer that was set can be left to the kernel's tuning again. */
export function supportsBufferLock(): boolean {
  const fd = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  const supported = fd !== -1 && setOption(fd, SOL_SOCKET, SO_BUF_LOCK, 0) === 0;
  if (fd !== -1) closeFd(fd);
  return supported;
}

/** Whether an address family can be used at all on this host. */
export function supportsFamily(family: number): boolean {
  const fd = openSocket(family, SOCK_DGRAM, 0);
  if (fd === -1) return errno() !== Errno.EAFNOSUPPORT;
  closeFd(fd);
  return true;
}
