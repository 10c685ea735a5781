/**
 * What the flows of a benchmark talk to, in a process of its own so that its time does
 * not count: `peer.ts ROLE`. Prints the port of 127.0.0.1 that it serves and goes on until
 * its standard input is closed.
 */
import { Arena } from "../../../ffi/arena.ts";
import { Epoll, EPOLLHUP, EPOLLIN, EPOLLOUT } from "../../../ffi/event.ts";
import { IovecArray, MessageArray } from "../../../ffi/iovec.ts";
import {
  acceptSocket,
  AF_INET,
  bindSocket,
  closeFd,
  connectSocket,
  IPPROTO_TCP,
  IPPROTO_UDP,
  lastAddress,
  listenSocket,
  localAddress,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  openSocket,
  readAddress,
  recv,
  recvmmsg,
  recvmsg,
  sendmmsg,
  sendmsg,
  setOption,
  SO_RCVBUF,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../../ffi/socket.ts";
import { checked } from "../../../ffi/errno.ts";
import { ip } from "../../support/flow_config.ts";

/**
 * tcp-sink reads what comes; tcp-source sends without end; tcp-close ends each connection
 * at once; udp-sink reads; udp-source answers a datagram with others of its size without
 * end.
 */
export type Role = "tcp-sink" | "tcp-source" | "tcp-close" | "udp-sink" | "udp-source";

const CHUNK = 1 << 20;
const BATCH = 64;
const STDIN = 0;
const LOOPBACK = ip("127.0.0.1");

class Peer {
  readonly #epoll = new Epoll(64);
  readonly #arena = new Arena(CHUNK + BATCH * 80 + 4096);
  readonly #data = this.#arena.take(CHUNK);
  readonly #pointer = this.#arena.pointer(this.#data);
  readonly #name = this.#arena.take(32);
  readonly #iovecs = new IovecArray(this.#arena, 1);
  readonly #messages = new MessageArray(this.#arena, BATCH);
  readonly #role: Role;
  readonly #socket: number;
  #flooding = false;

  constructor(role: Role) {
    this.#role = role;
    const tcp = role.startsWith("tcp");
    this.#socket = tcp
      ? openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP)
      : openSocket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    checked(bindSocket(this.#socket, LOOPBACK, 0, 0), "bind");
    if (tcp) checked(listenSocket(this.#socket, 4096), "listen");
    else setOption(this.#socket, SOL_SOCKET, SO_RCVBUF, CHUNK);
    this.#point(CHUNK);
    this.#epoll.add(this.#socket, EPOLLIN, this.#socket);
    this.#epoll.add(STDIN, EPOLLHUP, STDIN);
    localAddress(this.#socket);
    console.log(lastAddress.port);
  }

  /** Makes all messages the same, of `length` bytes. */
  #point(length: number): void {
    this.#iovecs.count = 0;
    this.#iovecs.add(this.#arena.base + this.#data, length);
    for (let i = 0; i < BATCH; i++) {
      this.#messages.setIovecs(i, this.#iovecs.address, 1);
    }
  }

  run(): void {
    for (;;) {
      const count = this.#epoll.wait(this.#flooding ? 0 : -1);
      for (let i = 0; i < count; i++) {
        const fd = this.#epoll.data(i);
        if (fd === STDIN) return;
        this.#event(fd);
      }
      if (this.#flooding) this.#flood();
    }
  }

  #event(fd: number): void {
    switch (this.#role) {
      case "udp-source":
        return this.#begin();
      case "udp-sink":
        while (this.#receive(BATCH) === BATCH);
        return;
      case "tcp-source":
        if (fd !== this.#socket) return this.#send(fd);
    }
    if (fd === this.#socket) this.#accept();
    else this.#discard(fd);
  }

  #receive(count: number): number {
    return recvmmsg(this.#socket, this.#messages.pointer, count, MSG_DONTWAIT, null);
  }

  /** Floods whoever sent something, with datagrams of that size. */
  #begin(): void {
    if (this.#flooding) return;
    this.#messages.setName(0, this.#arena.base + this.#name, 32);
    const length = recvmsg(this.#socket, this.#messages.pointer, MSG_DONTWAIT);
    if (length < 0 || !readAddress(this.#arena.view, this.#name)) return;
    const { bytes, port } = lastAddress;
    checked(connectSocket(this.#socket, bytes, 0, port), "connect");
    this.#messages.setName(0, 0, 0);
    this.#point(length);
    this.#flooding = true;
  }

  #flood(): void {
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    for (let i = 0; i < 8; i++) {
      sendmmsg(this.#socket, this.#messages.pointer, BATCH, flags);
    }
  }

  #accept(): void {
    for (;;) {
      const fd = acceptSocket(this.#socket);
      if (fd === -1) return;
      if (this.#role === "tcp-close") closeFd(fd);
      else this.#epoll.add(fd, this.#role === "tcp-source" ? EPOLLOUT : EPOLLIN, fd);
    }
  }

  #send(fd: number): void {
    if (sendmsg(fd, this.#messages.pointer, MSG_DONTWAIT | MSG_NOSIGNAL) === -1) {
      closeFd(fd);
    }
  }

  /** Reads without copying. */
  #discard(fd: number): void {
    const flags = MSG_DONTWAIT | MSG_TRUNC;
    if (recv(fd, this.#pointer, CHUNK, flags) <= 0) closeFd(fd);
  }
}

if (import.meta.main) new Peer(Deno.args[0] as Role).run();
