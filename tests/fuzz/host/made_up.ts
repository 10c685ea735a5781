/**
 * A host that is not there: sockets whose streams, datagrams, errors and refusals the test
 * makes up. Descriptors are numbers that no process has, and never come twice in one run:
 * one that is used after it was closed is seen.
 */
import type { Call } from "../../../ffi/libc.ts";
import type { Registry } from "../../ffi_check/regions.ts";

const FIRST_FD = 1 << 24;
const AF_INET = 2;
const SOCK_STREAM = 1;
const EAGAIN = 11;
const EBADF = 9;
const EPIPE = 32;
const EOPNOTSUPP = 95;
const MSG_PEEK = 2;
const MSG_CTRUNC = 8;
const MSG_TRUNC = 0x20;
const MSG_ERRQUEUE = 0x2000;
const IPPROTO_TCP = 6;
const TCP_REPAIR = 19;
const ENOPROTOOPT = 92;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_PEEK_OFF = 42;
const IP_MTU = 14;
const IPV6_MTU = 24;
const SIOCOUTQ = 0x5411;
const EPOLL_CTL_DEL = 2;
const MMSGHDR = 64;
const NO_PEEK_OFFSET = -1;
/** Where the words of struct epoll_event are. */
const EVENT_DATA_AT = Deno.build.arch === "x86_64" ? 4 : 8;

type Pointer = Deno.PointerObject;

/** What comes in one piece: bytes, who from (struct sockaddr), control messages. */
export interface Datagram {
  /** What of the payload is not zero, and how long it is. */
  readonly start: Uint8Array;
  readonly length: number;
  readonly name: Uint8Array;
  readonly control: Uint8Array;
  /** Instead of control messages, of a UNIX socket: descriptors, as many as fit. */
  readonly fds?: readonly number[];
}

/** What the other end of a UNIX socket is told: bytes and descriptors; an error number. */
export type Told = (bytes: Uint8Array, fds: readonly number[]) => number;

/** One socket of the host. */
export interface HostSocket {
  readonly fd: number;
  readonly stream: boolean;
  readonly four: boolean;
  /** What epoll says with its events. */
  watched: { readonly data: number; readonly generation: number } | undefined;
  /** Bytes of the peer: all that came, those taken away, those looked at beyond. */
  came: number;
  taken: number;
  peeked: number;
  fin: boolean;
  /** Bytes for the peer that it has not acknowledged, and how many there may be. */
  queued: number;
  room: number;
  ended: boolean;
  error: number;
  readonly datagrams: Datagram[];
  readonly errors: Datagram[];
  /** Peers that wait to be accepted, each by its struct sockaddr. */
  readonly waiting: Uint8Array[];
  readonly port: number;
  /** TCP_REPAIR. */
  repair: number;
  /** It is a UNIX socket: what comes are {@link datagrams}. */
  told: Told | undefined;
}

/** Byte `at` of any peer's stream. */
export function streamByte(at: number): number {
  return (at * 31 ^ at >>> 7) & 255;
}

/** The control message that passes descriptors on, as the kernel writes it. */
function passed(fds: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(16 + 4 * fds.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setInt32(8, SOL_SOCKET, true);
  view.setInt32(12, SCM_RIGHTS, true);
  fds.forEach((fd, i) => view.setInt32(16 + 4 * i, fd, true));
  return bytes;
}

function concat(pieces: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

export class MadeUpHost {
  active = false;
  /** An input has failed: what is wrong with descriptors now is no news. */
  lenient = false;
  readonly sockets = new Map<number, HostSocket>();
  /** Bytes of SO_SNDBUF and of paths' MTU, for all. */
  sendBuffer = 65536;
  pathMtu = 1500;
  /** SO_PEEK_OFF is known; what knows it once does so for good. */
  peekOffset = true;
  /** Is told what a stream socket took, of what is in `pieces`. */
  onSent: (fd: number, pieces: readonly Uint8Array[], taken: number) => void = () => {};
  readonly #registry: Registry;
  readonly #regions = new Map<number, Uint8Array<ArrayBuffer>>();
  #errno: Int32Array | undefined;
  #next = FIRST_FD;
  /** Calls that fail the next time, and how. */
  readonly #failing = new Map<string, number>();

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  /** No sockets, and nothing that fails. */
  reset(): void {
    this.sockets.clear();
    this.#failing.clear();
    this.#next = FIRST_FD;
    this.sendBuffer = 65536;
    this.pathMtu = 1500;
    this.peekOffset = true;
  }

  /** The next call of a function of libc fails. */
  fail(name: string, number: number): void {
    this.#failing.set(name, number);
  }

  /** A new socket. */
  open(stream: boolean, four: boolean, port = 0): HostSocket {
    const fd = this.#next++;
    const socket: HostSocket = {
      fd,
      stream,
      four,
      port,
      watched: undefined,
      came: 0,
      taken: 0,
      peeked: NO_PEEK_OFFSET,
      fin: false,
      queued: 0,
      room: 1 << 20,
      ended: false,
      error: 0,
      datagrams: [],
      errors: [],
      waiting: [],
      repair: 0,
      told: undefined,
    };
    this.sockets.set(fd, socket);
    return socket;
  }

  /** Learns where error numbers are to be. */
  wrapErrno(call: Call): Call {
    return (...args) => {
      const location = call(...args);
      const memory = Deno.UnsafePointerView.getArrayBuffer(location as Pointer, 4);
      this.#errno = new Int32Array(memory);
      return location;
    };
  }

  /** A function of libc, of which the calls for sockets of this host end here. */
  wrap(name: string, call: Call): Call {
    const { [name]: made } = this.#calls;
    if (made === undefined) return call;
    return (...args) => {
      const fd = this.#descriptor(name, args);
      const ours = name === "socket" || fd >= FIRST_FD;
      if (!ours && fd !== -1) return call(...args);
      if (!ours) return this.#refuse(EBADF);
      const number = this.#failing.get(name);
      if (number !== undefined) {
        this.#failing.delete(name);
        const known = this.sockets.get(fd)?.peeked !== NO_PEEK_OFFSET;
        if (name !== "setsockopt" || args[2] !== SO_PEEK_OFF || !known) {
          return this.#refuse(number);
        }
      }
      return made.apply(this, args as never[]);
    };
  }

  /** The descriptor that a call is for. */
  #descriptor(name: string, args: readonly unknown[]): number {
    if (name === "poll") return this.#polled(args[0] as Pointer);
    return args[name === "epoll_ctl" ? 2 : 0] as number;
  }

  /** The descriptor of a struct pollfd. */
  #polled(entry: Uint8Array | Pointer): number {
    const view = entry instanceof Uint8Array
      ? new DataView(entry.buffer, entry.byteOffset)
      : this.#at(entry, 8);
    return view.getInt32(0, true);
  }

  /** Descriptors that a struct msghdr passes on, all of them open. */
  #descriptors(header: DataView): number[] {
    const length = header.getUint32(40, true);
    if (length === 0) return [];
    const bytes = this.#memory(Number(header.getBigUint64(32, true)), length);
    const view = new DataView(bytes.buffer, bytes.byteOffset, length);
    if (view.getUint32(0, true) !== length) {
      throw new Error("length of a control message");
    }
    return Array.from({ length: (length - 16) / 4 }, (_, i) => {
      const fd = view.getInt32(16 + 4 * i, true);
      return this.#socket("sendmsg", fd).fd;
    });
  }

  #refuse(number: number): number {
    if (this.#errno === undefined) throw new Error("where is errno?");
    this.#errno[0] = number;
    return -1;
  }

  #socket(call: string, fd: number, remove = false): HostSocket {
    const socket = this.sockets.get(fd);
    if (socket === undefined) {
      if (this.lenient) return this.open(true, true);
      throw new Error(`${call}() of a closed descriptor`);
    }
    if (remove) this.sockets.delete(fd);
    return socket;
  }

  /** The bytes at an address, which has been checked. */
  #memory(address: number, length: number): Uint8Array<ArrayBuffer> {
    const region = this.#registry.find(address);
    if (region === undefined) throw new Error("no memory");
    let bytes = this.#regions.get(region.start);
    if (bytes === undefined || bytes.length !== region.end - region.start) {
      const start = Deno.UnsafePointer.create(BigInt(region.start)) as Pointer;
      const size = region.end - region.start;
      bytes = new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(start, size));
      this.#regions.set(region.start, bytes);
    }
    const at = address - region.start;
    return bytes.subarray(at, at + length);
  }

  #at(pointer: Pointer, length: number): DataView<ArrayBuffer> {
    const bytes = this.#memory(Number(Deno.UnsafePointer.value(pointer)), length);
    return new DataView(bytes.buffer, bytes.byteOffset, length);
  }

  /** The pieces that a struct msghdr has for data. */
  #pieces(header: DataView): Uint8Array[] {
    const count = header.getUint32(24, true);
    if (count === 0) return [];
    const iovecs = this.#memory(Number(header.getBigUint64(16, true)), 16 * count);
    const view = new DataView(iovecs.buffer, iovecs.byteOffset, iovecs.length);
    return Array.from({ length: count }, (_, i) => {
      const base = Number(view.getBigUint64(16 * i, true));
      const length = Number(view.getBigUint64(16 * i + 8, true));
      return length === 0 ? new Uint8Array(0) : this.#memory(base, length);
    });
  }

  /** Fills in what is known of a datagram; the bytes that it had room for. */
  #deliver(header: DataView, datagram: Datagram): number {
    const { start, length, name, control } = datagram;
    let done = 0;
    for (const piece of this.#pieces(header)) {
      const part = Math.min(piece.length, length - done);
      piece.fill(0, 0, part);
      piece.set(start.subarray(done, done + part));
      done += part;
    }
    const put = (address: bigint, room: number, bytes: Uint8Array) => {
      const fits = address === 0n ? 0 : Math.min(room, bytes.length);
      if (fits > 0) this.#memory(Number(address), fits).set(bytes.subarray(0, fits));
      return fits;
    };
    const nameRoom = header.getUint32(8, true);
    if (put(header.getBigUint64(0, true), nameRoom, name) > 0) {
      header.setUint32(8, name.length, true); // the whole length, as the kernel has it
    }
    const controlAt = header.getBigUint64(32, true);
    const controlRoom = header.getUint32(40, true);
    const fds = datagram.fds ?? [];
    const fitting = Math.max(0, Math.min(fds.length, (controlRoom - 16) >> 2));
    const messages = fds.length > 0 ? passed(fds.slice(0, fitting)) : control;
    for (const fd of fds.slice(fitting)) this.sockets.delete(fd);
    header.setUint32(40, put(controlAt, controlRoom, messages), true);
    const flags = (done < length ? MSG_TRUNC : 0) |
      (fitting < fds.length ? MSG_CTRUNC : 0);
    header.setUint32(48, flags, true);
    return done;
  }

  readonly #calls: Readonly<Record<string, (...args: never[]) => unknown>> = {
    socket: (family: number, type: number) =>
      this.open((type & 15) === SOCK_STREAM, family === AF_INET).fd,

    close: (fd: number) => (this.#socket("close", fd, true), 0),

    bind: (fd: number) => (this.#socket("bind", fd), 0),

    connect: (fd: number) => {
      const { stream } = this.#socket("connect", fd);
      return stream ? this.#refuse(115) : 0; // EINPROGRESS
    },

    shutdown: (fd: number) => {
      this.#socket("shutdown", fd).ended = true;
      return 0;
    },

    accept4: (fd: number, address: Pointer) => {
      const { waiting, stream } = this.#socket("accept4", fd);
      const peer = waiting.shift();
      if (peer === undefined) return this.#refuse(EAGAIN);
      const view = this.#at(address, peer.length);
      peer.forEach((byte, i) => view.setUint8(i, byte));
      return this.open(stream, peer[0] === AF_INET).fd;
    },

    getsockname: (fd: number, address: Pointer) => {
      const { four, port } = this.#socket("getsockname", fd);
      const view = this.#at(address, 28);
      for (let i = 0; i < 28; i++) view.setUint8(i, 0);
      view.setUint16(0, four ? AF_INET : 10, true);
      view.setUint16(2, port);
      return 0;
    },

    setsockopt: (fd: number, level: number, name: number, value: Pointer) => {
      const socket = this.#socket("setsockopt", fd);
      if (level === SOL_SOCKET && name === SO_PEEK_OFF) {
        if (!this.peekOffset) return this.#refuse(EOPNOTSUPP);
        socket.peeked = this.#at(value, 4).getInt32(0, true);
      } else if (level === IPPROTO_TCP && name === TCP_REPAIR) {
        if (!socket.stream) return this.#refuse(ENOPROTOOPT);
        socket.repair = this.#at(value, 4).getInt32(0, true) === 1 ? 1 : 0;
      }
      return 0;
    },

    getsockopt: (fd: number, level: number, name: number, value: Pointer) => {
      const socket = this.#socket("getsockopt", fd);
      let number = 0;
      if (level === SOL_SOCKET && name === SO_ERROR) {
        number = socket.error;
        socket.error = 0;
      } else if (level === SOL_SOCKET && name === SO_SNDBUF) number = this.sendBuffer;
      else if (level === IPPROTO_TCP && name === TCP_REPAIR) number = socket.repair;
      else if (level === 0 && name === IP_MTU) number = this.pathMtu;
      else if (level === 41 && name === IPV6_MTU) number = this.pathMtu;
      this.#at(value, 4).setInt32(0, number, true);
      return 0;
    },

    ioctl: (fd: number, request: number, value: Pointer) => {
      const { queued, came, taken } = this.#socket("ioctl", fd);
      const number = request === SIOCOUTQ ? queued : came - taken;
      this.#at(value, 4).setInt32(0, number, true);
      return 0;
    },

    epoll_ctl: (_epoll: number, op: number, fd: number, event: Pointer) => {
      const socket = this.#socket("epoll_ctl", fd);
      if (op === EPOLL_CTL_DEL) {
        socket.watched = undefined;
        return 0;
      }
      const view = this.#at(event, EVENT_DATA_AT + 8);
      const data = view.getUint32(EVENT_DATA_AT, true);
      const generation = view.getUint32(EVENT_DATA_AT + 4, true);
      socket.watched = { data, generation };
      return 0;
    },

    poll: (entry: Uint8Array | Pointer) => {
      const fd = this.#polled(entry);
      const { waiting, told, datagrams, fin } = this.#socket("poll", fd);
      if (told === undefined) return waiting.length > 0 ? 1 : 0;
      return datagrams.length > 0 || fin ? 1 : 0;
    },

    sendmsg: (fd: number, header: Pointer) => {
      const socket = this.#socket("sendmsg", fd);
      const pieces = this.#pieces(this.#at(header, 56));
      const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
      if (socket.error !== 0) return this.#failed(socket);
      if (socket.told !== undefined) {
        const number = socket.told(
          concat(pieces),
          this.#descriptors(this.#at(header, 56)),
        );
        return number === 0 ? length : this.#refuse(number);
      }
      if (!socket.stream) return length;
      if (socket.ended) return this.#refuse(EPIPE);
      const sent = Math.min(length, socket.room - socket.queued);
      if (sent <= 0) return this.#refuse(EAGAIN);
      this.onSent(fd, pieces, sent);
      socket.queued += sent;
      return sent;
    },

    sendmmsg: (fd: number, _headers: Pointer, count: number) => {
      const socket = this.#socket("sendmmsg", fd);
      if (socket.error !== 0) return this.#failed(socket);
      if (socket.room <= 0) return this.#refuse(EAGAIN);
      const sent = Math.min(count, socket.room);
      socket.room -= sent;
      return sent;
    },

    recvmsg: (fd: number, header: Pointer, flags: number) => {
      const socket = this.#socket("recvmsg", fd);
      const view = this.#at(header, 56);
      if ((flags & MSG_ERRQUEUE) !== 0) {
        const error = socket.errors.shift();
        return error === undefined ? this.#refuse(EAGAIN) : this.#deliver(view, error);
      }
      if (socket.told !== undefined) {
        const came = socket.datagrams.shift();
        if (came !== undefined) return this.#deliver(view, came);
        if (socket.fin) view.setUint32(40, 0, true);
        return this.#nothing(socket);
      }
      if ((flags & MSG_PEEK) === 0) throw new Error("recvmsg() that takes a stream");
      let from = socket.taken + Math.max(0, socket.peeked);
      const start = from;
      for (const piece of this.#pieces(view)) {
        const part = Math.min(piece.length, socket.came - from);
        for (let i = 0; i < part; i++) piece[i] = streamByte(from + i);
        from += Math.max(0, part);
      }
      if (from === start) return this.#nothing(socket);
      if (socket.peeked >= 0) socket.peeked += from - start;
      return from - start;
    },

    recv: (fd: number, _buffer: Pointer | null, length: number) => {
      const socket = this.#socket("recv", fd);
      const taken = Math.min(length, socket.came - socket.taken);
      if (taken === 0) return this.#nothing(socket);
      socket.taken += taken;
      if (socket.peeked >= 0) socket.peeked = Math.max(0, socket.peeked - taken);
      return taken;
    },

    recvmmsg: (fd: number, headers: Pointer, count: number) => {
      const socket = this.#socket("recvmmsg", fd);
      if (socket.error !== 0) return this.#failed(socket);
      const got = Math.min(count, socket.datagrams.length);
      if (got === 0) return this.#refuse(EAGAIN);
      const view = this.#at(headers, count * MMSGHDR);
      for (let i = 0; i < got; i++) {
        const at = view.byteOffset + i * MMSGHDR;
        const header = new DataView(view.buffer, at, MMSGHDR);
        const length = this.#deliver(header, socket.datagrams.shift()!);
        header.setUint32(56, length, true);
      }
      return got;
    },
  };

  #failed(socket: HostSocket): number {
    const { error } = socket;
    socket.error = 0;
    return this.#refuse(error);
  }

  #nothing(socket: HostSocket): number {
    if (socket.error !== 0) return this.#failed(socket);
    return socket.fin ? 0 : this.#refuse(EAGAIN);
  }
}
