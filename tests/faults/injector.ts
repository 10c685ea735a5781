/**
 * Stands between vuelo and libc, and has single calls fail. A call is known by its site:
 * the function of libc, and where vuelo calls it.
 */
import { type Call, interpose, libc } from "../../ffi/libc.ts";

/** An error number, or {@link SHORT}. */
export type Fault = number;

/** The call moves a part of the bytes, or of the messages. */
export const SHORT: Fault = -2;

const EPERM = 1;
const EAGAIN = 11;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
/** What would change the process that the tests run in: it only seems to be done. */
const PRETENDED = ["setgroups", "setresgid", "setresuid", "prctl", "capset", "setrlimit"];
/** Of what is called by number, this is done: it changes nothing. */
const BPF = Deno.build.arch === "x86_64" ? 321n : 280n;
const TGKILL = Deno.build.arch === "x86_64" ? 234n : 131n;
const PRCTL = Deno.build.arch === "x86_64" ? 157n : 167n;
const ESRCH = 3;
/** Calls of one function in a process of its own: where more come from is not looked at. */
const MOST_LOOKED_AT = 400;
const MSG_PEEK = 2;
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const IPPROTO_TCP = 6;
const TCP_REPAIR = 19;
const SOCK_STREAM = 1;
/** struct msghdr: where iov and iovlen are. */
const IOV_AT = 16;
const IOVLEN_AT = 24;

/** Decides whether a call fails, and how; undefined lets it pass. */
export type Decide = (name: string, site: () => string) => Fault | undefined;

/** What watches a descriptor, to show what is ready once more. */
interface Watch {
  readonly epoll: number;
  readonly event: Uint8Array<ArrayBuffer>;
}

type Pointer = Deno.PointerObject;

const EVENT_SIZE = Deno.build.arch === "x86_64" ? 12 : 16;

export class Injector {
  /** Calls come from vuelo, not from the test. */
  armed = false;
  decide: Decide = () => undefined;
  /** The process has no right to repair TCP connections. */
  denies = false;
  /** Takes the places of the source that led to each call, while it is set. */
  reached: ((places: readonly string[]) => void) | undefined;
  #errno: Int32Array | undefined;
  readonly #watches = new Map<number, Watch>();

  /** @param real nothing is pretended: the process is there for nothing else */
  private constructor(private readonly real: boolean) {}

  /** Takes its place; before any module of ffi is loaded. */
  static install({ real = false } = {}): Injector {
    const injector = new Injector(real);
    let own = true;
    interpose((name, call) => own ? call : injector.#wrap(name, call));
    injector.#own = libc({
      /** int getsockopt(int fd, int level, int option, void *value, socklen_t *length) */
      getsockopt: {
        parameters: ["i32", "i32", "i32", "buffer", "buffer"],
        result: "i32",
      },
      /** int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event) */
      epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
    }) as Record<string, Call>;
    own = false;
    return injector;
  }

  #own: Record<string, Call> = {};

  /** Runs a part of vuelo, in which calls may fail. */
  within<T>(body: () => T): T {
    const before = this.armed;
    this.armed = true;
    try {
      return body();
    } finally {
      this.armed = before;
    }
  }

  #wrap(name: string, call: Call): Call {
    if (name === "__errno_location") return this.#location(call);
    let calls = 0;
    return (...args) => {
      // A repair helper warms up with tens of thousands of calls, all from a few sites.
      if (this.real && ++calls > MOST_LOOKED_AT) return call(...args);
      if (this.armed) this.reached?.(places());
      if (this.denies && this.armed && isRepair(name, args)) {
        return this.#fail(name, call, args, EPERM);
      }
      if (name === "epoll_wait" && !this.real) args[3] = Math.min(args[3] as number, 1);
      // To stop watching takes the kernel nothing that it may lack.
      const sure = name === "epoll_ctl" && args[1] === EPOLL_CTL_DEL;
      const fault = this.armed && !sure
        ? this.decide(exactly(name, args), () => siteOf(exactly(name, args)))
        : undefined;
      if (fault === SHORT) {
        const short = this.#short(name, call, args);
        if (short !== undefined) return short;
      } else if (fault !== undefined) return this.#fail(name, call, args, fault);
      const pretends = this.armed && !this.real;
      if (pretends && PRETENDED.includes(name)) return 0;
      if (pretends && name === "syscall" && args[0] !== BPF) return this.#pretend(args);
      if (name === "epoll_ctl") this.#remember(args);
      return call(...args);
    };
  }

  /** Rights that are given up by number; there is no other thread to tell. */
  #pretend([number]: unknown[]): bigint {
    if (number !== TGKILL) return 0n;
    if (this.#errno !== undefined) this.#errno[0] = ESRCH;
    return -1n;
  }

  #location(call: Call): Call {
    return (...args) => {
      const location = call(...args);
      const memory = Deno.UnsafePointerView.getArrayBuffer(location as Pointer, 4);
      this.#errno ??= new Int32Array(memory);
      return location;
    };
  }

  #fail(name: string, call: Call, args: unknown[], fault: Fault): unknown {
    if (name === "close") call(...args); // Linux has closed it, whatever it says
    if (fault === EAGAIN) this.#showAgain(args[0] as number);
    if (this.#errno !== undefined) this.#errno[0] = fault;
    if (name === "mmap") return Deno.UnsafePointer.create(MAP_FAILED);
    if (name.startsWith("getpw") || name.startsWith("getgr")) return null;
    return -1;
  }

  /** What a descriptor is watched for. */
  #remember([epoll, op, fd, event]: unknown[]): void {
    if (op === EPOLL_CTL_DEL) this.#watches.delete(fd as number);
    else {
      const bytes = new Uint8Array(EVENT_SIZE);
      bytes.set(new Uint8Array(view(event as Pointer, EVENT_SIZE)));
      this.#watches.set(fd as number, { epoll: epoll as number, event: bytes });
    }
  }

  /** Who was told to wait is told when to go on, even where only changes are told of. */
  #showAgain(fd: number): void {
    const watch = this.#watches.get(fd);
    if (watch === undefined) return;
    this.#own.epoll_ctl(watch.epoll, EPOLL_CTL_MOD, fd, watch.event);
  }

  /** A call that moves less than it could; undefined where there is no such thing. */
  #short(name: string, call: Call, args: unknown[]): unknown {
    const fd = args[0] as number;
    if (name === "sendmmsg" || name === "recvmmsg") {
      if (args[2] === 1) return undefined;
      return call(args[0], args[1], (args[2] as number) >> 1, ...args.slice(3));
    }
    const flags = name === "recvmsg" ? args[2] as number : 0;
    // A look at a TCP socket shows all that is there, up to urgent data.
    if ((flags & MSG_PEEK) !== 0 || !this.#isStream(fd)) return undefined;
    if (name !== "sendmsg" && name !== "recvmsg") {
      const length = args[2] as number;
      if (length < 2) return undefined;
      return call(args[0], args[1], length >> 1, ...args.slice(3));
    }
    const header = new BigUint64Array(view(args[1] as Pointer, 56));
    const count = header[IOVLEN_AT / 8];
    const at = Deno.UnsafePointer.create(header[IOV_AT / 8]);
    if (count === 0n || at === null) return undefined;
    const first = new BigUint64Array(view(at, 16));
    const length = first[1];
    if (count === 1n && length < 2n) return undefined;
    header[IOVLEN_AT / 8] = 1n;
    if (length >= 2n) first[1] = length >> 1n;
    try {
      return call(...args);
    } finally {
      first[1] = length;
      header[IOVLEN_AT / 8] = count;
    }
  }

  #isStream(fd: number): boolean {
    const type = new Int32Array(1);
    const length = Int32Array.of(4);
    if (this.#own.getsockopt(fd, SOL_SOCKET, SO_TYPE, type, length) === 0) {
      return type[0] === SOCK_STREAM;
    }
    try {
      return Deno.readLinkSync(`/proc/self/fd/${fd}`).startsWith("pipe:");
    } catch {
      return false;
    }
  }
}

function isRepair(name: string, args: readonly unknown[]): boolean {
  return name === "setsockopt" && args[1] === IPPROTO_TCP && args[2] === TCP_REPAIR;
}

/** What is called by number is known by that, and by the first argument of prctl(). */
function exactly(name: string, args: readonly unknown[]): string {
  if (name === "prctl") return `prctl ${args[0]}`;
  if (name !== "syscall") return name;
  return args[0] === PRCTL ? `syscall ${args[0]} ${args[1]}` : `syscall ${args[0]}`;
}

function view(pointer: Pointer, length: number): ArrayBuffer {
  return Deno.UnsafePointerView.getArrayBuffer(pointer, length);
}

const FRAME =
  /at (?:new )?(?:(?:\w+\.)?[gs]et )?(?:Object\.)?([\w.#<>]*)(?: \[as \w+\])? ?\(?file:\/\/.*?\/((?:(?:ffi|src|tests)\/[\w/]+|main)\.ts):(\d+)/;

/** A frame of vuelo's: its function, file and line. */
type Frame = readonly [by: string, file: string, line: string];

/** Frames by the text of a stack: reading it takes longer than anything else here. */
const known = new Map<string, Frame[]>();

/** From libc up to what called `ffi`. */
function frames(): Frame[] {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 24;
  const stack = new Error().stack ?? "";
  Error.stackTraceLimit = limit;
  const before = known.get(stack);
  if (before !== undefined) return before;
  const found = framesOf(stack);
  known.set(stack, found);
  return found;
}

function framesOf(stack: string): Frame[] {
  const lines = stack.split("\n");
  const found: Frame[] = [];
  for (const line of lines) {
    const [, by, file, number] = FRAME.exec(line) ?? [];
    if (file === undefined || file.startsWith("tests/faults/")) continue;
    if (file === "ffi/libc.ts") continue;
    found.push([by, file, number]);
    if (!file.startsWith("ffi/")) break;
  }
  return found;
}

function places(): string[] {
  return frames().map(([, file, line]) => `${file}:${line}`);
}

/** The function of libc, that of ffi which called it, and who called that. */
function siteOf(name: string): string {
  let via = "";
  for (const [by, file, number] of frames()) {
    if (!file.startsWith("ffi/")) return `${name} ${via}at ${file}:${number}`;
    via = `by ${by === "" ? file : by} `;
  }
  return `${name} ${via}`;
}
