/** Mapped memory: mmap(2), memfd_create(2), fstat(2) and file seals (fcntl(2)). */
import { Arena } from "./arena.ts";
import { checked, SyscallError } from "./errno.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) */
  mmap: {
    parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"],
    result: "pointer",
  },
  /** int memfd_create(const char *name, unsigned int flags) */
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  /** int close(int fd) */
  close: { parameters: ["i32"], result: "i32" },
  /** int ftruncate(int fd, off_t length) */
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  /** int fstat(int fd, struct stat *statbuf) */
  fstat: { parameters: ["i32", "pointer"], result: "i32" },
  /** int fcntl(int fd, int op, int arg) */
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int getpagesize(void) */
  getpagesize: { parameters: [], result: "i32" },
});

const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const NOTHING = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const O_NONBLOCK = 0o4000;

export const F_SEAL_SHRINK = 0x2;
export const F_SEAL_GROW = 0x4;

/** struct stat: the same but for st_mode on x86-64 and arm64. */
const STAT_SIZE = 144;
const MODE_AT = Deno.build.arch === "x86_64" ? 24 : 16;
const SIZE_AT = 48;
const BLOCK_SIZE_AT = 56;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;

/** Bytes in a page of this machine. */
export const PAGE_SIZE = sys.getpagesize();

const scratch = new Arena(4096);
const STAT_AT = scratch.take(STAT_SIZE);
const stat = scratch.pointer(STAT_AT);

function map(
  address: number,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
): Deno.PointerObject | null {
  const hint = address === 0 ? null : Deno.UnsafePointer.create(BigInt(address));
  const size = BigInt(length);
  const start = sys.mmap(hint, size, protection, flags, fd, BigInt(offset));
  return Deno.UnsafePointer.value(start) === MAP_FAILED ? null : start;
}

/** An address range of this process that nothing else will be mapped into. */
export interface Reservation {
  /** Address of byte 0, a multiple of the page size. */
  readonly base: number;
  /** Bytes. */
  readonly size: number;
  /**
   * The range; touching what was not mapped into it ends the process (SIGSEGV). The first
   * use takes some ten milliseconds: V8 counts all of it as memory and collects garbage.
   */
  readonly buffer: ArrayBuffer;
}

/**
 * Reserves `length` bytes of addresses without memory behind them, for the life of the
 * process. Returns null if the kernel has no such range (RLIMIT_AS, a small machine).
 */
export function reserve(length: number): Reservation | null {
  const start = map(0, length, PROT_NONE, NOTHING, -1, 0);
  return start === null ? null : reservation(start, length);
}

/** A range that another thread of this process has reserved, as this one sees it. */
export function attach(base: number, length: number): Reservation {
  const start = Deno.UnsafePointer.create(BigInt(base));
  if (start === null) throw new RangeError("no memory at address 0");
  return reservation(start, length);
}

function reservation(start: Deno.PointerObject, size: number): Reservation {
  let buffer: ArrayBuffer | undefined;
  return {
    base: Number(Deno.UnsafePointer.value(start)),
    size,
    get buffer() {
      buffer ??= Deno.UnsafePointerView.getArrayBuffer(start, size);
      return buffer;
    },
  };
}

/** Address of memory that threads share, for system calls. */
export function addressOf(memory: SharedArrayBuffer): number {
  const bytes = new Uint8Array(memory) as Uint8Array<ArrayBufferLike>;
  const pointer = Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>);
  return Number(Deno.UnsafePointer.value(pointer));
}

/**
 * Maps `length` bytes of a file from `offset` on, shared and writable, over whatever is
 * at `address`. All three are multiples of the file's page size.
 *
 * @throws {SyscallError} EACCES if the descriptor is not open for writing, ENOMEM.
 */
export function mapShared(
  address: number,
  length: number,
  fd: number,
  offset: number,
): void {
  const flags = MAP_SHARED | MAP_FIXED;
  if (map(address, length, PROT_READ_WRITE, flags, fd, offset) === null) {
    throw new SyscallError(`mmap of ${length} bytes of descriptor ${fd}`);
  }
}

/** Takes away the memory of a part of a reservation; its addresses stay reserved. */
export function unmap(address: number, length: number): void {
  if (map(address, length, PROT_NONE, NOTHING | MAP_FIXED, -1, 0) === null) {
    throw new SyscallError(`mmap of ${length} bytes without access`);
  }
}

/** An anonymous file that can be sealed, of `size` zero bytes. The name is for /proc. */
export function memfdCreate(name: string, size: number): number {
  const text = new TextEncoder().encode(name + "\0");
  const fd = checked(
    sys.memfd_create(text, MFD_CLOEXEC | MFD_ALLOW_SEALING),
    "memfd_create",
  );
  try {
    truncate(fd, size);
  } catch (error) {
    sys.close(fd);
    throw error;
  }
  return fd;
}

/** Sets the size of a file. @throws {SyscallError} EPERM if a seal forbids it. */
export function truncate(fd: number, size: number): void {
  checked(sys.ftruncate(fd, BigInt(size)), `ftruncate to ${size} bytes`);
}

/** What fstat() tells of a descriptor. */
export interface FileStatus {
  readonly isFile: boolean;
  /** Bytes; a double, exact below 2^53. */
  readonly size: number;
  /** For hugetlbfs the size of its pages, else of little meaning. */
  readonly blockSize: number;
}

/** Kind and size of an open file. @throws {SyscallError} EBADF. */
export function fileStatus(fd: number): FileStatus {
  checked(sys.fstat(fd, stat), `fstat of descriptor ${fd}`);
  const view = scratch.view;
  return {
    isFile: (view.getUint32(STAT_AT + MODE_AT, true) & S_IFMT) === S_IFREG,
    size: view.getUint32(STAT_AT + SIZE_AT, true) +
      view.getUint32(STAT_AT + SIZE_AT + 4, true) * 0x1_0000_0000,
    blockSize: view.getUint32(STAT_AT + BLOCK_SIZE_AT, true),
  };
}

/** Forbids operations on a memfd for ever: F_SEAL_* bits. */
export function addSeals(fd: number, seals: number): void {
  checked(sys.fcntl(fd, F_ADD_SEALS, seals), "fcntl(F_ADD_SEALS)");
}

/** F_SEAL_* bits of a memfd; 0 for a file that has no seals. */
export function getSeals(fd: number): number {
  return Math.max(0, sys.fcntl(fd, F_GET_SEALS, 0));
}

/** Whether reads and writes of `fd` may wait; true if that cannot be told. */
export function isBlocking(fd: number): boolean {
  const flags = sys.fcntl(fd, F_GETFL, 0);
  return flags === -1 || (flags & O_NONBLOCK) === 0;
}

/** Makes reads and writes of `fd` (by whoever shares it) return EAGAIN, not wait. */
export function setNonBlocking(fd: number): void {
  const flags = checked(sys.fcntl(fd, F_GETFL, 0), `fcntl of descriptor ${fd}`);
  checked(sys.fcntl(fd, F_SETFL, flags | O_NONBLOCK), `fcntl of descriptor ${fd}`);
}
