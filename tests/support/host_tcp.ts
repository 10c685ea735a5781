/** TCP sockets of the host for tests: synchronous, so that a test is one list of steps. */
import { Arena } from "../../ffi/arena.ts";
import { Errno, errno } from "../../ffi/errno.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import {
  acceptSocket,
  AF_INET,
  AF_INET6,
  bindSocket,
  closeFd,
  connectSocket,
  getOption,
  IPPROTO_TCP,
  lastAddress,
  listenSocket,
  localAddress,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  openSocket,
  recv,
  resetOnClose,
  sendmsg,
  setOption,
  SHUT_WR,
  shutdownSocket,
  SO_ERROR,
  SO_RCVBUF,
  SO_REUSEADDR,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../ffi/socket.ts";
import { isIPv4, parseAddress } from "../../src/wire/address.ts";

const DATA = 1 << 20;
const arena = new Arena(DATA + 4096);
const iovecs = new IovecArray(arena, 1);
const message = new MessageArray(arena, 1);
const dataAt = arena.take(DATA);
const dataPointer = arena.pointer(dataAt);

export const LOOPBACK4 = parseAddress("127.0.0.1") as Uint8Array;
export const LOOPBACK6 = parseAddress("::1") as Uint8Array;
const MSG_OOB = 1;

function open(address: Uint8Array): number {
  const fd = openSocket(isIPv4(address) ? AF_INET : AF_INET6, SOCK_STREAM, IPPROTO_TCP);
  if (fd === -1) throw new Error(`socket: ${errno()}`);
  return fd;
}

/** One end of a connection. */
export class HostTcp {
  readonly fd: number;
  readonly port: number;
  closed = false;

  constructor(fd: number) {
    this.fd = fd;
    localAddress(fd);
    this.port = lastAddress.port;
  }

  /** Starts connecting to a listening socket, whose queue it is in on return. */
  static connect(address: Uint8Array, port: number): HostTcp {
    const fd = open(address);
    if (connectSocket(fd, address, 0, port) === -1 && errno() !== Errno.EINPROGRESS) {
      throw new Error(`connect: ${errno()}`);
    }
    return new HostTcp(fd);
  }

  /** As {@link connect}, from a given address and port. */
  static connectFrom(
    from: Uint8Array,
    fromPort: number,
    address: Uint8Array,
    port: number,
  ): HostTcp {
    const fd = open(address);
    setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bindSocket(fd, from, 0, fromPort) !== 0) throw new Error(`bind: ${errno()}`);
    connectSocket(fd, address, 0, port);
    return new HostTcp(fd);
  }

  /** Bytes that the socket took; -1 if it failed. */
  send(bytes: Uint8Array, flags = 0): number {
    const length = Math.min(bytes.length, DATA);
    arena.bytes(dataAt, length).set(bytes.subarray(0, length));
    iovecs.count = 0;
    iovecs.add(arena.base + dataAt, length);
    message.setIovecs(0, iovecs.address, 1);
    return sendmsg(this.fd, message.pointer, MSG_DONTWAIT | MSG_NOSIGNAL | flags);
  }
  sendUrgent(bytes: Uint8Array): number {
    return this.send(bytes, MSG_OOB);
  }

  /** What has come, "end" after FIN, an errno where the socket failed. */
  receive(most = DATA): Uint8Array | "end" | number {
    const length = recv(this.fd, dataPointer, Math.min(most, DATA), MSG_DONTWAIT);
    if (length > 0) return arena.bytes(dataAt, length).slice();
    if (length === 0) return "end";
    return errno() === Errno.EAGAIN ? new Uint8Array(0) : errno();
  }

  /** SO_ERROR, which is cleared. */
  get error(): number {
    return getOption(this.fd, SOL_SOCKET, SO_ERROR);
  }
  set receiveBuffer(size: number) {
    setOption(this.fd, SOL_SOCKET, SO_RCVBUF, size);
  }

  /** FIN. */
  shutdown(): void {
    shutdownSocket(this.fd, SHUT_WR);
  }
  /** RST. */
  reset(): void {
    resetOnClose(this.fd);
    this.close();
  }
  close(): void {
    if (!this.closed) closeFd(this.fd);
    this.closed = true;
  }
}

/** A listening socket on loopback. */
export class HostListener {
  readonly fd: number;
  readonly port: number;

  /** @param receiveBuffer SO_RCVBUF of what is accepted; 0 for the kernel's choice */
  constructor(readonly address = LOOPBACK4, receiveBuffer = 0) {
    this.fd = open(address);
    if (receiveBuffer > 0) setOption(this.fd, SOL_SOCKET, SO_RCVBUF, receiveBuffer);
    if (bindSocket(this.fd, address, 0, 0) !== 0 || listenSocket(this.fd, 64) !== 0) {
      throw new Error(`listen: ${errno()}`);
    }
    localAddress(this.fd);
    this.port = lastAddress.port;
  }

  accept(): HostTcp | undefined {
    const fd = acceptSocket(this.fd);
    return fd === -1 ? undefined : new HostTcp(fd);
  }
  close(): void {
    closeFd(this.fd);
  }
}
