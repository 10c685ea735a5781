/** What the machine lets a benchmark have. */

/** Enough for 100,000 connections and all else. */
const DESCRIPTORS = 262_144;

let prefix: Promise<readonly string[]> | undefined;

/**
 * What to put before a command so that it may open that many descriptors: nothing where
 * the limit can't be raised, as in a user namespace.
 */
export function manyDescriptors(): Promise<readonly string[]> {
  return prefix ??= find();
}

async function find(): Promise<readonly string[]> {
  const argv = ["prlimit", `--nofile=${DESCRIPTORS}`, "--"];
  const { success } = await new Deno.Command(argv[0], {
    args: [...argv.slice(1), "true"],
    stderr: "null",
  }).output().catch(() => ({ success: false }));
  return success ? argv : [];
}

/** How many descriptors a process may have that is started with that prefix. */
export async function descriptorsOfOne(): Promise<number> {
  if ((await manyDescriptors()).length > 0) return DESCRIPTORS;
  const text = await Deno.readTextFile("/proc/self/limits");
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(text)?.[1] ?? 1024);
}
