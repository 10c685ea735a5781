/** Waiting for descriptors: epoll(7) and eventfd(2). */
import { Arena } from "./arena.ts";
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { libc, rare } from "./libc.ts";

const sys = libc({
  /** int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) */
  epoll_ctl: { parameters: ["i32", "i32", "i32", "pointer"], result: "i32" },
  /** int epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout) */
  epoll_wait: { parameters: ["i32", "pointer", "i32", "i32"], result: "i32" },
  /** int epoll_pwait2(int epfd, struct epoll_event *events, int maxevents,
   *   const struct timespec *timeout, const sigset_t *sigmask); glibc 2.35, Linux 5.11 */
  epoll_pwait2: {
    parameters: ["i32", "pointer", "i32", "pointer", "pointer"],
    result: "i32",
    optional: true,
  },
  /** ssize_t read(int fd, void *buf, size_t count) */
  read: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** ssize_t write(int fd, const void *buf, size_t count) */
  write: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** int close(int fd) */
  close: { parameters: ["i32"], result: "i32" },
});

const setup = rare({
  /** int epoll_create1(int flags) */
  epoll_create1: { parameters: ["i32"], result: "i32" },
  /** int eventfd(unsigned int initval, int flags) */
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
});

export const EPOLLIN = 0x001;
/** Urgent data of TCP. */
export const EPOLLPRI = 0x002;
export const EPOLLOUT = 0x004;
export const EPOLLERR = 0x008;
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
/** Edge triggered. */
export const EPOLLET = 0x8000_0000;

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;

/** struct epoll_event is packed on x86-64 only (linux/eventpoll.h). */
const PACKED = Deno.build.arch === "x86_64";
const EVENT_SIZE = PACKED ? 12 : 16;
const DATA_AT = PACKED ? 4 : 8;

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK_CLOEXEC = 0o2004000;

/**
 * An epoll instance whose results are read in place: waiting and reading results
 * allocate nothing. Each descriptor carries two words of the caller's choice.
 */
export class Epoll {
  /** The instance's descriptor. */
  readonly fd: number;
  /** The last wait() ended because a signal came in. */
  interrupted = false;
  readonly #view: DataView;
  readonly #events: Deno.PointerValue;
  readonly #controlAt: number;
  readonly #control: Deno.PointerValue;
  readonly #maxEvents: number;
  readonly #timeoutAt: number;
  readonly #timeout: Deno.PointerValue;
  /** epoll_pwait2() is there. */
  #fine = sys.epoll_pwait2 !== null;

  /** @throws {SyscallError} if no descriptor is left. */
  constructor(maxEvents = 256) {
    const arena = new Arena((maxEvents + 1) * EVENT_SIZE + 32);
    this.#view = arena.view;
    this.#events = arena.pointer(arena.take(maxEvents * EVENT_SIZE));
    this.#controlAt = arena.take(EVENT_SIZE);
    this.#timeoutAt = arena.take(16);
    this.#timeout = arena.pointer(this.#timeoutAt);
    this.#control = arena.pointer(this.#controlAt);
    this.#maxEvents = maxEvents;
    this.fd = checked(setup.epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  }

  /**
   * Watches `fd` for `events`; `data` and `high` come back with each result.
   *
   * @throws {SyscallError} EPERM for what cannot be waited for (a regular file),
   *   EEXIST if it is watched already.
   */
  add(fd: number, events: number, data: number, high = 0): void {
    this.#ctl(EPOLL_CTL_ADD, fd, events, data, high);
  }

  /** As {@link add}, but false with errno() set where that throws. */
  tryAdd(fd: number, events: number, data: number, high = 0): boolean {
    return this.#call(EPOLL_CTL_ADD, fd, events, data, high) === 0;
  }

  /** Changes what `fd` is watched for. @throws {SyscallError} ENOENT if it is not watched. */
  modify(fd: number, events: number, data: number, high = 0): void {
    this.#ctl(EPOLL_CTL_MOD, fd, events, data, high);
  }

  /** As {@link modify}, but false with errno() set where that throws. */
  tryModify(fd: number, events: number, data: number, high = 0): boolean {
    return this.#call(EPOLL_CTL_MOD, fd, events, data, high) === 0;
  }

  /** Stops watching `fd`. @throws {SyscallError} ENOENT if it is not watched. */
  remove(fd: number): void {
    this.#ctl(EPOLL_CTL_DEL, fd, 0, 0, 0);
  }

  /** As {@link remove}, but does nothing where that throws. */
  tryRemove(fd: number): void {
    this.#call(EPOLL_CTL_DEL, fd, 0, 0, 0);
  }

  /** Whether {@link wait} knows fractions of milliseconds, as far as it has been seen. */
  get fine(): boolean {
    return this.#fine;
  }

  #ctl(op: number, fd: number, events: number, data: number, high: number): void {
    if (this.#call(op, fd, events, data, high) === -1) {
      throw new SyscallError(`epoll_ctl of descriptor ${fd}`);
    }
  }

  #call(op: number, fd: number, events: number, data: number, high: number): number {
    const at = this.#controlAt;
    this.#view.setUint32(at, events, true);
    this.#view.setUint32(at + DATA_AT, data, true);
    this.#view.setUint32(at + DATA_AT + 4, high, true);
    return sys.epoll_ctl(this.fd, op, fd, this.#control);
  }

  /**
   * Waits until a descriptor is ready or `timeoutMs` are over (-1: no limit); returns
   * how many results there are. Fractions of milliseconds count where the kernel has
   * epoll_pwait2(2), else they are rounded up. A signal gives 0 and sets
   * {@link interrupted}.
   */
  wait(timeoutMs: number): number {
    this.interrupted = false;
    let count = -1;
    if (this.#fine && timeoutMs > 0 && timeoutMs < 100) {
      this.#view.setUint32(this.#timeoutAt + 8, timeoutMs * 1e6, true);
      const wait = sys.epoll_pwait2!;
      count = wait(this.fd, this.#events, this.#maxEvents, this.#timeout, null);
      if (count === -1 && errno() === Errno.ENOSYS) this.#fine = false;
      else if (count >= 0) return count;
    } else {
      const whole = Math.ceil(timeoutMs);
      count = sys.epoll_wait(this.fd, this.#events, this.#maxEvents, whole);
      if (count >= 0) return count;
    }
    const number = errno();
    if (number === Errno.ENOSYS) return 0;
    if (number !== Errno.EINTR) throw new SyscallError("epoll_wait", number);
    this.interrupted = true;
    return 0;
  }

  /** EPOLL* bits of result `i` of the last wait(). */
  events(i: number): number {
    return this.#view.getUint32(i * EVENT_SIZE, true);
  }
  /** First word given with the descriptor of result `i`. */
  data(i: number): number {
    return this.#view.getUint32(i * EVENT_SIZE + DATA_AT, true);
  }
  /** Second word given with the descriptor of result `i`. */
  high(i: number): number {
    return this.#view.getUint32(i * EVENT_SIZE + DATA_AT + 4, true);
  }

  /** Closes the instance. */
  close(): void {
    close(this.fd);
  }
}

/** Memory of the calls below: a counter of 1, a counter to read, a struct epoll_event. */
const scratch = new Arena(4096);
const ONE_AT = scratch.take(8);
const COUNT_AT = scratch.take(8);
const EVENT_AT = scratch.take(16);
scratch.view.setUint32(ONE_AT, 1, true);
const one = scratch.pointer(ONE_AT);
const count = scratch.pointer(COUNT_AT);
const event = scratch.pointer(EVENT_AT);

/**
 * An event counter of 0; reading it does not wait, unless it is to be `blocking`.
 *
 * @throws {SyscallError} if no descriptor is left
 */
export function eventfdCreate(blocking = false): number {
  const flags = blocking ? EFD_CLOEXEC : EFD_NONBLOCK_CLOEXEC;
  return checked(setup.eventfd(0, flags), "eventfd");
}

/** Adds 1 to an event counter; false if that failed, with errno() set. */
export function eventfdWrite(fd: number): boolean {
  return sys.write(fd, one, 8) === 8;
}

/** Sets an event counter to 0; returns what it was, 0 if nothing was to be read. */
export function eventfdRead(fd: number): number {
  if (sys.read(fd, count, 8) !== 8) return 0;
  return scratch.view.getUint32(COUNT_AT, true) +
    scratch.view.getUint32(COUNT_AT + 4, true) * 0x1_0000_0000;
}

/** Whether epoll can wait for `fd`: not so for regular files and closed descriptors. */
export function isPollable(fd: number): boolean {
  const probe = checked(setup.epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  scratch.view.setUint32(EVENT_AT, EPOLLIN, true);
  const result = sys.epoll_ctl(probe, EPOLL_CTL_ADD, fd, event);
  close(probe);
  return result === 0;
}

/** Whether `fd` is an event counter; true if that cannot be told. */
export function isEventfd(fd: number): boolean {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`) === "anon_inode:[eventfd]";
  } catch {
    return true;
  }
}

/** Closes a descriptor. Its number may be given out again at once. */
export function close(fd: number): void {
  sys.close(fd);
}
