/** Names that appear in a folder (inotify(7)); control path only. */
import { Arena } from "./arena.ts";
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { close } from "./event.ts";
import { rare } from "./libc.ts";

const sys = rare({
  /** int inotify_init1(int flags) */
  inotify_init1: { parameters: ["i32"], result: "i32" },
  /** int inotify_add_watch(int fd, const char *pathname, uint32_t mask) */
  inotify_add_watch: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  /** ssize_t read(int fd, void *buf, size_t count) */
  read: { parameters: ["i32", "pointer", "u32"], result: "i32" },
});

const IN_NONBLOCK_CLOEXEC = 0o2004000;
const IN_MOVED_TO = 0x80;
const IN_CREATE = 0x100;
const IN_DELETE_SELF = 0x400;
const IN_MOVE_SELF = 0x800;
const IN_UNMOUNT = 0x2000;
const IN_Q_OVERFLOW = 0x4000;
const IN_IGNORED = 0x8000;
const IN_ONLYDIR = 0x0100_0000;

/** struct inotify_event { int wd; u32 mask, cookie, len; char name[]; } */
const EVENT_SIZE = 16;
const BUFFER_SIZE = 16384;

const scratch = new Arena(BUFFER_SIZE);
const buffer = scratch.bytes(scratch.take(BUFFER_SIZE), BUFFER_SIZE);
const bufferPointer = scratch.pointer(0);

/** Names in one look, or somewhat more: others may go on and on. The kernel keeps fewer. */
const MOST_NAMES = 1 << 16;

/** What came since the last look. */
export interface FolderNews {
  /** Names that were made in the folder or moved into it, in order. */
  readonly names: readonly string[];
  /** There was more than the kernel could remember: look through the folder. */
  readonly overflowed: boolean;
  /** The folder was removed, moved or unmounted. */
  readonly gone: boolean;
}

/** Watches one folder. */
export class FolderWatch {
  /** To be watched for input. */
  readonly fd: number;

  /** @throws {SyscallError} ENOENT, ENOTDIR, EACCES, or if watches have run out */
  constructor(readonly path: string) {
    this.fd = checked(sys.inotify_init1(IN_NONBLOCK_CLOEXEC), "inotify_init1()");
    const name = new TextEncoder().encode(path + "\0");
    const mask = IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
    if (sys.inotify_add_watch(this.fd, name, mask) !== -1) return;
    const error = new SyscallError(`watching ${path}`);
    close(this.fd);
    throw error;
  }

  /**
   * What happened since the last call, or the first part of it.
   *
   * @throws {SyscallError} if that cannot be read
   */
  read(): FolderNews {
    const names: string[] = [];
    let seen = 0;
    while (names.length < MOST_NAMES) {
      const count = sys.read(this.fd, bufferPointer, BUFFER_SIZE);
      if (count === -1) {
        if (errno() === Errno.EINTR) continue;
        if (errno() !== Errno.EAGAIN) throw new SyscallError(`watching ${this.path}`);
      }
      if (count <= 0) break;
      seen |= takeEvents(count, names);
    }
    return {
      names,
      overflowed: (seen & IN_Q_OVERFLOW) !== 0,
      gone: (seen & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)) !== 0,
    };
  }

  /** Ends the watch. */
  close(): void {
    close(this.fd);
  }
}

/** Appends the names among `count` bytes of events; returns all their bits. */
function takeEvents(count: number, names: string[]): number {
  let seen = 0;
  for (let at = 0; at + EVENT_SIZE <= count;) {
    const mask = scratch.view.getUint32(at + 4, true);
    const length = scratch.view.getUint32(at + 12, true);
    seen |= mask;
    if ((mask & (IN_CREATE | IN_MOVED_TO)) !== 0) {
      const name = buffer.slice(at + EVENT_SIZE, at + EVENT_SIZE + length);
      const end = name.indexOf(0);
      names.push(new TextDecoder().decode(end === -1 ? name : name.subarray(0, end)));
    }
    at += EVENT_SIZE + length;
  }
  return seen;
}
