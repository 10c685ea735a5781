/**
 * TCP_REPAIR on and off, which needs CAP_NET_ADMIN in the user namespace that owns the
 * sockets' network namespace. All other calls of migration need no rights.
 */
import { Errno, errno, errnoName } from "../../ffi/errno.ts";
import {
  AF_INET,
  AF_INET6,
  closeFd,
  getOption,
  getStructure,
  IPPROTO_TCP,
  openSocket,
  optionWords,
  setOption,
  SO_BUF_LOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_INFO,
} from "../../ffi/socket.ts";
import { log } from "../log.ts";

/** What turns repair mode of sockets on and off. */
export interface RepairSwitch {
  /** It can be used now. */
  readonly available: boolean;
  /**
   * Turns repair mode on, or off with a window probe.
   *
   * @param timeoutMs for the whole call
   * @returns 0, or an error number; some of the sockets may have changed then
   */
  switchSockets(fds: ArrayLike<number>, on: boolean, timeoutMs?: number): number;
  /** For the log: what it is, and what is missing if it is not available. */
  describe(): string;
}

/** Values of TCP_REPAIR (linux/tcp.h): off is with a window probe. */
export const REPAIR_ON = 1;
export const REPAIR_OFF = 0;
/** Off, on, or off without a window probe. */
export type RepairMode = -1 | 0 | 1;

const TCP_REPAIR = 19;
const TCP_STATE_CLOSE = 7;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
/** Queues up to this size fit into a new socket. */
const RESTORED_QUEUE = 16 * 1024 * 1024;

/** Which socket could not be switched, and why. */
export interface SwitchFailure {
  readonly index: number;
  /** Error number of setsockopt(). */
  readonly error: number;
}

/**
 * Switches all sockets or none: if one refuses, those before it are put back.
 *
 * New sockets also get buffers beyond what the host's limits allow, since the queues of a
 * connection that grew elsewhere must fit; later on the kernel tunes them as usual.
 */
export function switchAll(
  fds: ArrayLike<number>,
  mode: RepairMode,
): SwitchFailure | undefined {
  const before = new Uint8Array(fds.length);
  for (let i = 0; i < fds.length; i++) {
    before[i] = isInRepair(fds[i]) ? 1 : 0;
    if (setOption(fds[i], IPPROTO_TCP, TCP_REPAIR, mode) === -1) {
      const failure = { index: i, error: errno() };
      for (let k = i - 1; k >= 0; k--) {
        if (before[k] !== (mode === REPAIR_ON ? 1 : 0)) {
          setOption(fds[k], IPPROTO_TCP, TCP_REPAIR, before[k]);
        }
      }
      return failure;
    }
    if (mode === REPAIR_ON && before[i] === 0) enlargeNew(fds[i]);
  }
  return undefined;
}

/**
 * A connection's own buffers stay as they are. Refused by old kernels, and to all but the
 * initial user namespace: then the buffers stay small.
 */
function enlargeNew(fd: number): void {
  if (getStructure(fd, IPPROTO_TCP, TCP_INFO) < 1) return;
  if ((optionWords[0] & 0xff) !== TCP_STATE_CLOSE) return;
  setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, RESTORED_QUEUE);
  setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, RESTORED_QUEUE);
  setOption(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
}

/** Whether a TCP socket is in repair mode; false for whatever is none. */
export function isInRepair(fd: number): boolean {
  return getOption(fd, IPPROTO_TCP, TCP_REPAIR, 0) === 1;
}

/** A TCP socket of its own, unconnected; -1 with errno() if there is none to be had. */
export function newTcpSocket(): number {
  const fd = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  return fd !== -1 ? fd : openSocket(AF_INET6, SOCK_STREAM, IPPROTO_TCP);
}

/** Tries repair mode on a new socket of this namespace; 0, or the kernel's error number. */
export function probeRepair(): number {
  const fd = newTcpSocket();
  if (fd === -1) return errno();
  const refused = setOption(fd, IPPROTO_TCP, TCP_REPAIR, REPAIR_ON) === -1;
  const error = refused ? errno() : 0;
  closeFd(fd);
  return error;
}

/** Whether this process itself may switch sockets of its network namespace. */
export function canRepair(): boolean {
  return probeRepair() === 0;
}

/** Switches sockets by this process's own right. */
export class OwnRepair implements RepairSwitch {
  #available = false;

  /** A process that has the right keeps it. */
  get available(): boolean {
    return this.#available ||= canRepair();
  }

  /**
   * Switches all, or none: those before the one that refuses are put back. All are in the
   * other mode before: asking each would cost a second call per socket. Who restores a
   * connection enlarges its buffers.
   */
  switchSockets(fds: ArrayLike<number>, on: boolean): number {
    const [mode, other] = on ? [REPAIR_ON, REPAIR_OFF] : [REPAIR_OFF, REPAIR_ON];
    for (let i = 0; i < fds.length; i++) {
      if (setOption(fds[i], IPPROTO_TCP, TCP_REPAIR, mode) === 0) continue;
      const error = errno();
      for (let k = 0; k < i; k++) setOption(fds[k], IPPROTO_TCP, TCP_REPAIR, other);
      log.error(
        `TCP repair ${on ? "on" : "off"}: socket ${i + 1} of ${fds.length} refused ` +
          `(${errnoName(error)})`,
      );
      return error;
    }
    return 0;
  }

  describe(): string {
    const error = probeRepair();
    if (error === 0) return "TCP repair by the process's own CAP_NET_ADMIN";
    const reason = error === Errno.EPERM ? "no CAP_NET_ADMIN" : errnoName(error);
    return `no TCP repair by the process itself (${reason})`;
  }
}
