/** Processes that a test has started through others, which it does not know. */

/** Number and parent of every process that there is, with its name. */
function* processes(): Generator<{ pid: number; parent: number; name: string }> {
  for (const entry of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(entry.name)) continue;
    try {
      const stat = Deno.readTextFileSync(`/proc/${entry.name}/stat`);
      const [, name = "", parent] = /\((.*)\) \S (\d+)/s.exec(stat) ?? [];
      yield { pid: Number(entry.name), parent: Number(parent), name };
    } catch {
      // It has ended.
    }
  }
}

/** Those called `name` that `ancestor` has started, itself or through others. */
export function descendants(ancestor: number, name: string): number[] {
  const all = [...processes()];
  const parents = new Map(all.map(({ pid, parent }) => [pid, parent]));
  const isBelow = (pid: number) => {
    let at: number | undefined = pid;
    while (at !== undefined && at !== ancestor) at = parents.get(at);
    return at === ancestor;
  };
  return all.filter((found) => found.name === name && isBelow(found.pid))
    .map(({ pid }) => pid).sort((a, b) => a - b);
}
