/** A copy of the sources in dist/fuzz/tree, in which src/ has counters. */
import { instrument } from "./instrument.ts";

const ROOT = new URL("../../../", import.meta.url).pathname;
const FOLDERS = [
  ...["src", "ffi", "tests/fuzz", "tests/ffi_check", "tests/support", "tests/golden"],
];
/** Of ffi, what takes apart what the kernel says. */
const PARSERS = /^ffi\/(?:error_queue|socket|unix_socket|folder_entry|inotify)\.ts$/;
/** Not worth a counter: what only starts workers or wraps libraries. */
const PLAIN = /^src\/(?:std|log|version)/;

function* files(folder: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(ROOT + folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) {
      if (name !== "corpus") yield* files(path);
    } else if (!name.endsWith("_test.ts")) yield path;
  }
}

function modified(path: string): number {
  try {
    return Deno.statSync(path).mtime?.getTime() ?? 0;
  } catch {
    return 0;
  }
}

/**
 * Brings the copy up to date.
 *
 * @returns the folder
 */
export function makeTree(): string {
  const tree = `${ROOT}dist/fuzz/tree/`;
  const tool = modified(new URL("instrument.ts", import.meta.url).pathname);
  for (const path of FOLDERS.flatMap((folder) => [...files(folder)])) {
    const copy = tree + path;
    const needed = Math.max(tool, modified(ROOT + path));
    if (modified(copy) > needed) continue;
    Deno.mkdirSync(copy.slice(0, copy.lastIndexOf("/")), { recursive: true });
    const counted = PARSERS.test(path) || path.startsWith("src/") &&
        path.endsWith(".ts") && !path.endsWith(".d.ts") && !PLAIN.test(path);
    const text = Deno.readTextFileSync(ROOT + path);
    // By its name in one step: others may be reading.
    const fresh = `${copy}.${Deno.pid}`;
    Deno.writeTextFileSync(fresh, counted ? instrument(text, path) : text);
    Deno.renameSync(fresh, copy);
  }
  return tree;
}
