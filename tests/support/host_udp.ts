/** A UDP socket of the host for tests: synchronous, since loopback delivers at once. */
import { Arena } from "../../ffi/arena.ts";
import { errno } from "../../ffi/errno.ts";
import { IovecArray, MessageArray } from "../../ffi/iovec.ts";
import {
  AF_INET,
  AF_INET6,
  bindSocket,
  closeFd,
  IPPROTO_UDP,
  lastAddress,
  localAddress,
  MSG_DONTWAIT,
  openSocket,
  readAddress,
  recvmsg,
  sendmsg,
  setOption,
  SO_RCVBUF,
  SOCK_DGRAM,
  SOL_SOCKET,
  writeAddress,
} from "../../ffi/socket.ts";
import { isIPv4 } from "../../src/wire/address.ts";

const DATA = 65536;
const arena = new Arena(DATA + 4096);
const iovecs = new IovecArray(arena, 1);
const message = new MessageArray(arena, 1);
const nameAt = arena.take(32);
const dataAt = arena.take(DATA);

export interface Datagram {
  readonly bytes: Uint8Array;
  readonly from: Uint8Array;
  readonly port: number;
}

export class HostUdp {
  readonly fd: number;
  readonly port: number;

  /** Binds to any port of an address, 16 bytes; `prepare` sets options before. */
  constructor(address: Uint8Array, prepare: (fd: number) => void = () => {}) {
    const family = isIPv4(address) ? AF_INET : AF_INET6;
    this.fd = openSocket(family, SOCK_DGRAM, IPPROTO_UDP);
    prepare(this.fd);
    setOption(this.fd, SOL_SOCKET, SO_RCVBUF, 1 << 20);
    if (bindSocket(this.fd, address, 0, 0) !== 0) throw new Error(`bind: ${errno()}`);
    localAddress(this.fd);
    this.port = lastAddress.port;
  }

  receive(): Datagram | undefined {
    iovecs.count = 0;
    iovecs.add(arena.base + dataAt, DATA);
    message.setIovecs(0, iovecs.address, 1);
    message.setName(0, arena.base + nameAt, 32);
    const length = recvmsg(this.fd, message.pointer, MSG_DONTWAIT);
    if (length < 0) return undefined;
    readAddress(arena.view, nameAt);
    const { bytes, port } = lastAddress;
    return { bytes: arena.bytes(dataAt, length).slice(), from: bytes.slice(), port };
  }

  send(bytes: Uint8Array, to: Uint8Array, port: number): void {
    arena.bytes(dataAt, bytes.length).set(bytes);
    iovecs.count = 0;
    iovecs.add(arena.base + dataAt, bytes.length);
    message.setIovecs(0, iovecs.address, 1);
    const length = writeAddress(arena.view, nameAt, to, 0, port);
    message.setName(0, arena.base + nameAt, length);
    message.setControl(0, 0, 0);
    if (sendmsg(this.fd, message.pointer, MSG_DONTWAIT) !== bytes.length) {
      throw new Error(`send: ${errno()}`);
    }
  }

  close(): void {
    closeFd(this.fd);
  }
}
