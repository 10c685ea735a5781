/** What a process and its children use of the machine, from /proc. */

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // it has ended since
  }
}

function names(path: string): string[] {
  try {
    return [...Deno.readDirSync(path)].map(({ name }) => name);
  } catch {
    return [];
  }
}

/** A process and all that it started. */
export function tree(pid: number): number[] {
  const children = names(`/proc/${pid}/task`)
    .flatMap((thread) => read(`/proc/${pid}/task/${thread}/children`).split(" "))
    .filter((word) => word.trim() !== "")
    .map(Number);
  return [pid, ...children.flatMap(tree)];
}

/** CPU time of a process and its children so far, in seconds. */
export function cpuSeconds(pid: number): number {
  let nanoseconds = 0;
  for (const process of tree(pid)) {
    for (const thread of names(`/proc/${process}/task`)) {
      const words = read(`/proc/${process}/task/${thread}/schedstat`).split(" ");
      nanoseconds += Number(words[0]);
    }
  }
  return nanoseconds / 1e9;
}

/** Megabytes (of 2^20 bytes) of memory. */
export interface Memory {
  readonly resident: number;
  /** Of that, what it shares with nobody and no file. */
  readonly anonymous: number;
  /** Most that was ever resident. */
  readonly peak: number;
}

/** Memory of a process and its children. */
export function memory(pid: number): Memory {
  const sum = { resident: 0, anonymous: 0, peak: 0 };
  const keys = { resident: "VmRSS", anonymous: "RssAnon", peak: "VmHWM" } as const;
  for (const process of tree(pid)) {
    const text = read(`/proc/${process}/status`);
    for (const name of Object.keys(keys) as (keyof typeof keys)[]) {
      const kilobytes = new RegExp(`^${keys[name]}:\\s+(\\d+)`, "m").exec(text)?.[1];
      sum[name] += Number(kilobytes ?? 0) / 1024;
    }
  }
  return sum;
}
