/**
 * The folder in which the lab keeps what it fetched and built, and the rules that make it
 * safe to share: one process at a time changes it, and a folder appears only when complete.
 */

/** What the lab needs is missing; the message says what, and what the reader can do. */
export class LabError extends Error {
  override readonly name = "LabError";
}

/** The lab's cache folder, made on first use: `$XDG_CACHE_HOME/vuelo/lab`. */
export function cacheFolder(): string {
  const home = Deno.env.get("HOME");
  const base = Deno.env.get("XDG_CACHE_HOME") ?? (home ? `${home}/.cache` : undefined);
  if (base === undefined) {
    throw new LabError(
      "Neither XDG_CACHE_HOME nor HOME says where to keep the lab's files",
    );
  }
  const folder = `${base}/vuelo/lab`;
  Deno.mkdirSync(folder, { recursive: true });
  return folder;
}

/** Whether `path` exists. */
export function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Returns `path`, a file or folder in the cache, made by `make` unless it is there. `make`
 * gets a path beside it to write to, which is renamed when it is done. Only one process
 * makes at a time (flock, so that a killed one holds nobody up).
 */
export async function cached(
  path: string,
  make: (temporary: string) => Promise<void>,
): Promise<string> {
  if (exists(path)) return path;
  using lock = await Deno.open(`${cacheFolder()}/lock`, { write: true, create: true });
  await lock.lock(true);
  if (exists(path)) return path;
  const temporary = `${path}.part`;
  await Deno.remove(temporary, { recursive: true }).catch(() => {});
  try {
    await make(temporary);
    await Deno.rename(temporary, path);
  } finally {
    await Deno.remove(temporary, { recursive: true }).catch(() => {});
  }
  return path;
}

/** The first 16 hexadecimal digits of the SHA-256 of `parts`, in order. */
export async function digest(parts: readonly (string | Uint8Array)[]): Promise<string> {
  const encoder = new TextEncoder();
  const hashes: Uint8Array[] = [];
  for (const part of parts) {
    const bytes = typeof part === "string" ? encoder.encode(part) : part;
    hashes.push(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes.slice())));
  }
  const all = new Uint8Array(hashes.length * 32);
  hashes.forEach((hash, index) => all.set(hash, index * 32));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", all)).toHex().slice(0, 16);
}
