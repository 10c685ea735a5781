/** Reading a folder that is open, without opening anything. */
import { Arena } from "./arena.ts";
import { SyscallError } from "./errno.ts";
import { Call, rawCall } from "./raw_call.ts";

const AT_FDCWD = -100;
const O_DIRECTORY_CLOEXEC = (Deno.build.arch === "x86_64" ? 0o200000 : 0o40000) |
  0o2000000;
const BUFFER_SIZE = 16384;

/** struct linux_dirent64 { u64 ino; s64 off; u16 reclen; u8 type; char name[]; } */
const LENGTH_AT = 16;
const NAME_AT = 19;
const DOT = 0x2e;

const decoder = new TextDecoder();
let buffer: Arena | undefined;

/** Opens a folder for reading. @throws {SyscallError} */
export function openFolder(path: string): number {
  const name = new TextEncoder().encode(path + "\0");
  const arena = new Arena(name.length);
  arena.bytes(0, name.length).set(name);
  const fd = rawCall(Call.openat, AT_FDCWD, arena.base, O_DIRECTORY_CLOEXEC);
  if (fd < 0) throw new SyscallError(`open(${path})`, -fd);
  return fd;
}

/** Calls `take` with the place in `buffer` of each entry, `.` and `..` included. */
function forEachEntry(fd: number, take: (view: DataView, at: number) => void): void {
  const { base, view } = buffer ??= new Arena(BUFFER_SIZE);
  rawCall(Call.lseek, fd, 0, 0);
  for (;;) {
    const size = rawCall(Call.getdents64, fd, base, BUFFER_SIZE);
    if (size < 0) throw new SyscallError("getdents64()", -size);
    if (size === 0) return;
    for (let at = 0; at < size; at += view.getUint16(at + LENGTH_AT, true)) {
      take(view, at);
    }
  }
}

/** How many names are in a folder now, those with a dot in front left out. */
export function countEntries(fd: number): number {
  let count = 0;
  forEachEntry(fd, (view, at) => {
    if (view.getUint8(at + NAME_AT) !== DOT) count++;
  });
  return count;
}

/** The names in a folder now, but for `.` and `..`. @throws {SyscallError} */
export function entriesOf(fd: number): string[] {
  const names: string[] = [];
  forEachEntry(fd, (view, at) => {
    const length = view.getUint16(at + LENGTH_AT, true) - NAME_AT;
    const bytes = new Uint8Array(view.buffer, view.byteOffset + at + NAME_AT, length);
    const name = decoder.decode(bytes.subarray(0, bytes.indexOf(0)));
    if (name !== "." && name !== "..") names.push(name);
  });
  return names;
}
