/**
 * Puts the check of addresses between this thread and libc. To be called before any module
 * of `ffi` is loaded that binds a table. Threads that this one starts are checked, too.
 */
import { interpose, libc } from "../../ffi/libc.ts";
import { Checker } from "./checker.ts";
import { Registry, REGISTRY_SIZE } from "./regions.ts";

/** Names the folder that the results of checked processes go to. */
export const FOLDER = "VUELO_CHECK_ADDRESSES";
/** Exit status of a process that was ended for an address outside. */
export const EXIT_OUTSIDE = 99;

const O_RDWR_CREAT_CLOEXEC = 0o2000102;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE_ANONYMOUS = 0x22;

/** Sees calls from when it is set on; the calls of this module itself go through. */
let checker: Checker | undefined;

function own() {
  return libc({
    /** int open(const char *path, int flags, mode_t mode) */
    open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
    /** int ftruncate(int fd, off_t length) */
    ftruncate: { parameters: ["i32", "i64"], result: "i32" },
    /** void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) */
    mmap: {
      parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"],
      result: "pointer",
    },
    /** int close(int fd) */
    close: { parameters: ["i32"], result: "i32" },
    /** ssize_t write(int fd, const void *buf, size_t count) */
    write: { parameters: ["i32", "buffer", "usize"], result: "i64" },
    /** void _exit(int status) */
    _exit: { parameters: ["i32"], result: "void" },
  });
}

type Own = ReturnType<typeof own>;

/** A registry in a file of its own; in plain memory where no file can be made. */
function makeRegistry(sys: Own, folder: string): Deno.PointerValue {
  const name = `${folder}/${Deno.pid}-${crypto.randomUUID().slice(0, 8)}`;
  const path = new TextEncoder().encode(name + "\0");
  const fd = sys.open(path, O_RDWR_CREAT_CLOEXEC, 0o600);
  if (fd !== -1) sys.ftruncate(fd, BigInt(REGISTRY_SIZE));
  const flags = fd === -1 ? MAP_PRIVATE_ANONYMOUS : MAP_SHARED;
  const size = BigInt(REGISTRY_SIZE);
  const start = sys.mmap(null, size, PROT_READ_WRITE, flags, fd, 0n);
  if (fd !== -1) sys.close(fd);
  return start;
}

/** Checks this thread; `address` is that of the registry of the thread that started it. */
export async function install(folder: string, address?: string): Promise<void> {
  interpose((name, call) => checker === undefined ? call : checker.wrap(name, call));
  const sys = own();
  const start = address === undefined
    ? makeRegistry(sys, folder)
    : Deno.UnsafePointer.create(BigInt(address));
  if (start === null) throw new Error("no memory for the check of addresses");
  const memory = Deno.UnsafePointerView.getArrayBuffer(start, REGISTRY_SIZE);
  const registry = new Registry(memory);
  checker = new Checker(registry, (text) => {
    const line = `address outside: ${text}\n${new Error().stack}\n`;
    registry.violation = line;
    const bytes = new TextEncoder().encode(line);
    sys.write(2, bytes, BigInt(bytes.length));
    sys._exit(EXIT_OUTSIDE);
  });
  watchPointers(checker);
  watchThreads(folder, String(Deno.UnsafePointer.value(start)));
  await watchArenas(checker);
}

/** Arrays whose address is asked for, and addresses that become arrays. */
function watchPointers(check: Checker): void {
  const { of } = Deno.UnsafePointer;
  Deno.UnsafePointer.of = <T>(value: Parameters<typeof of>[0]) => {
    const pointer = of<T>(value);
    if (ArrayBuffer.isView(value)) check.pin(value, check.address(pointer));
    return pointer;
  };
  const { getArrayBuffer } = Deno.UnsafePointerView;
  Deno.UnsafePointerView.getArrayBuffer = (pointer, length, offset) => {
    check.viewed(pointer, length);
    return getArrayBuffer(pointer, length, offset);
  };
}

/** Threads load the check before their own module. */
function watchThreads(folder: string, registry: string): void {
  const Plain = globalThis.Worker;
  globalThis.Worker = class extends Plain {
    constructor(module: string | URL, options?: WorkerOptions) {
      const url = new URL("./worker.ts", import.meta.url);
      url.search = new URLSearchParams({ module: String(module), folder, registry })
        .toString();
      super(url, options);
    }
  };
}

/** The pieces that arenas are handed out in. */
async function watchArenas(check: Checker): Promise<void> {
  const { Arena } = await import("../../ffi/arena.ts");
  const { take } = Arena.prototype;
  Arena.prototype.take = function (size, align) {
    const at = take.call(this, size, align);
    check.take(this.base + at, size);
    return at;
  };
}

/** What the processes of a run left in a folder. */
export interface Outcome {
  processes: number;
  calls: number;
  ranges: number;
  readonly violations: string[];
}

/** Reads what checked processes have left, of those that ended as of those that run. */
export function outcome(folder: string): Outcome {
  const sum: Outcome = { processes: 0, calls: 0, ranges: 0, violations: [] };
  for (const { name } of Deno.readDirSync(folder)) {
    const bytes = Deno.readFileSync(`${folder}/${name}`);
    if (bytes.length < REGISTRY_SIZE) continue;
    const registry = new Registry(bytes.buffer);
    const { calls, ranges } = registry.total;
    sum.processes++;
    sum.calls += calls;
    sum.ranges += ranges;
    if (registry.violation !== "") sum.violations.push(registry.violation);
  }
  return sum;
}
