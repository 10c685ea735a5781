/**
 * Files to be written to, opened so that nobody else decides which they are: in a folder
 * like /tmp, where everybody may put things, a link or file of somebody else's at the
 * path would be a trap, the more so for root. Linux refuses some of this by itself, if
 * fs.protected_symlinks and fs.protected_regular are set (proc(5)).
 */
import { Errno, errno, SyscallError } from "./errno.ts";
import { close } from "./event.ts";
import { createNew, pointTo } from "./folder_entry.ts";
import { effectiveUser } from "./process.ts";

const ROOT = 0;
const STICKY = 0o1000;
const OTHERS_WRITE = 0o022;
/** Attempts while others create and remove the file, and links that are followed. */
const ATTEMPTS = 8;

/** How a file is to be opened: as Deno.open() has it, but that it may always be created. */
export interface OwnFileOptions {
  readonly read?: boolean;
  readonly truncate?: boolean;
  /** Mode of a file that is created. */
  readonly mode: number;
}

/**
 * Opens a file for writing, and creates it if there is none. Symbolic links are followed
 * only if they are this user's or root's; where others may create files as well (sticky
 * folders), the file has to be this user's or the folder owner's.
 *
 * @throws {Error} which says what is there instead, or as Deno.openSync() does
 */
export function openOwnFile(path: string, options: OwnFileOptions): Deno.FsFile {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    let fd = pointTo(path);
    if (fd === -1 && errno() === Errno.ENOENT) {
      fd = createNew(path, options.mode);
      if (fd === -1 && errno() === Errno.EEXIST) continue;
    }
    if (fd === -1) throw new SyscallError(`opening ${path}`);
    try {
      const self = `/proc/self/fd/${fd}`;
      const status = Deno.statSync(self);
      checkOwner(path, status);
      if (!status.isSymlink) {
        const { read = false, truncate = false } = options;
        return Deno.openSync(self, { read, write: true, truncate });
      }
    } finally {
      close(fd);
    }
    path = followLink(path);
  }
  throw new SyscallError(`opening ${path}`, Errno.ELOOP);
}

/** Where a link leads, one step; it may be to where nothing is yet. */
function followLink(path: string): string {
  const target = Deno.readLinkSync(path);
  return target.startsWith("/") ? target : `${folderOf(path)}/${target}`;
}

function folderOf(path: string): string {
  const end = path.lastIndexOf("/");
  if (end < 0) return ".";
  return end === 0 ? "/" : path.slice(0, end);
}

function checkOwner(path: string, { isSymlink, uid }: Deno.FileInfo): void {
  const user = effectiveUser();
  if (uid === user) return;
  const folder = Deno.statSync(folderOf(path));
  const mode = folder.mode ?? 0;
  if (isSymlink ? uid === ROOT : uid === folder.uid) return;
  const ours = folder.uid === user || folder.uid === ROOT;
  if (ours && (mode & OTHERS_WRITE) === 0) return;
  if (!isSymlink && (mode & STICKY) === 0) return; // a folder that some share
  const what = isSymlink ? "a symbolic link" : "a file";
  throw new Error(
    `it is ${what} of user ${uid} in a folder where others may create files, expected ` +
      `one of user ${user}: remove it or name another`,
  );
}
