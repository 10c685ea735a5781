/** What is in force for a process, as its /proc folder tells (proc_pid_status(5)). */

/** One thread's rights; capability sets are bits, hexadecimal as in /proc. */
export interface ThreadReport {
  readonly id: number;
  readonly name: string;
  /** Real, effective, saved and file system user; likewise of the group. */
  readonly users: readonly number[];
  readonly groups: readonly number[];
  readonly supplementary: readonly number[];
  readonly capabilities: {
    readonly inheritable: string;
    readonly permitted: string;
    readonly effective: string;
    readonly bounding: string;
    readonly ambient: string;
  };
  readonly noNewPrivileges: boolean;
  readonly seccomp: "off" | "strict" | "filter" | "unknown";
}

/** What /proc tells of a running instance. */
export interface ProcessReport {
  readonly pid: number;
  readonly command: string;
  readonly threads: readonly ThreadReport[];
  /** Soft limit in bytes of a dump of its memory: "0", or "unlimited". */
  readonly coreLimit: string;
  /** Whether others of its user may trace it; null if that cannot be told of root. */
  readonly traceable: boolean | null;
  /** How many descriptors of each kind are open; null if that may not be looked at. */
  readonly descriptors: Readonly<Record<string, number>> | null;
  /** Paths of files that are open for writing; null if that may not be looked at. */
  readonly writable: readonly string[] | null;
  /** What a confined process would have, and this one has not. */
  readonly lacking: readonly string[];
}

const CAP_NET_ADMIN = 1n << 12n;
const O_ACCMODE = 3;
const SECCOMP = ["off", "strict", "filter"] as const;

/**
 * @throws {Deno.errors.NotFound} if there is no such process
 */
export function reportOn(pid: number): ProcessReport {
  const folder = `/proc/${pid}`;
  const threads = threadsOf(folder);
  const main = threads.find(({ id }) => id === pid) ?? threads[0];
  if (main === undefined) throw new Deno.errors.NotFound(folder);
  const limits = Deno.readTextFileSync(`${folder}/limits`);
  const coreLimit = /^Max core file size +(\S+)/m.exec(limits)?.[1] ?? "unknown";
  const user = main.users[1];
  // The files of a process that may not be dumped are root's.
  const traceable = user === 0 ? null : Deno.statSync(`${folder}/fd`).uid === user;
  const facts = { threads, coreLimit, traceable };
  return {
    pid,
    command: commandOf(folder, main.name),
    ...facts,
    ...descriptorsOf(folder),
    lacking: lackingOf(facts),
  };
}

/** Processes that are called vuelo, but for this one. */
export function runningInstances(): number[] {
  const found: number[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === Deno.pid) continue;
    try {
      if (Deno.readTextFileSync(`/proc/${pid}/comm`).trim() === "vuelo") found.push(pid);
    } catch {
      // It has ended.
    }
  }
  return found.sort((a, b) => a - b);
}

function commandOf(folder: string, otherwise: string): string {
  const words = Deno.readTextFileSync(`${folder}/cmdline`).split("\0");
  return words.join(" ").trim() || otherwise;
}

function threadsOf(folder: string): ThreadReport[] {
  const threads: ThreadReport[] = [];
  for (const { name } of Deno.readDirSync(`${folder}/task`)) {
    try {
      const status = Deno.readTextFileSync(`${folder}/task/${name}/status`);
      threads.push(parseStatus(Number(name), status));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return threads;
}

/** Reads a status file. */
export function parseStatus(id: number, status: string): ThreadReport {
  const field = (key: string) =>
    new RegExp(`^${key}:[ \\t]*(.*?)[ \\t]*$`, "m").exec(status)?.[1] ?? "";
  const numbers = (key: string) => field(key).split(/\s+/).filter(Boolean).map(Number);
  return {
    id,
    name: field("Name"),
    users: numbers("Uid"),
    groups: numbers("Gid"),
    supplementary: numbers("Groups"),
    capabilities: {
      inheritable: field("CapInh"),
      permitted: field("CapPrm"),
      effective: field("CapEff"),
      bounding: field("CapBnd"),
      ambient: field("CapAmb"),
    },
    noNewPrivileges: field("NoNewPrivs") === "1",
    seccomp: field("Seccomp") === "" ? "unknown" : SECCOMP[Number(field("Seccomp"))],
  };
}

function descriptorsOf(
  folder: string,
): Pick<ProcessReport, "descriptors" | "writable"> {
  const descriptors: Record<string, number> = {};
  const writable = new Set<string>();
  let names: string[];
  try {
    names = [...Deno.readDirSync(`${folder}/fd`)].map(({ name }) => name);
  } catch {
    return { descriptors: null, writable: null };
  }
  for (const name of names) {
    try {
      const target = Deno.readLinkSync(`${folder}/fd/${name}`);
      const kind = kindOf(target);
      descriptors[kind] = (descriptors[kind] ?? 0) + 1;
      if (kind !== "file") continue;
      const info = Deno.readTextFileSync(`${folder}/fdinfo/${name}`);
      const flags = parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? "0", 8);
      if ((flags & O_ACCMODE) !== 0) writable.add(target);
    } catch {
      // It was closed meanwhile.
    }
  }
  return { descriptors, writable: [...writable].sort() };
}

/** The kernel's name for what a descriptor refers to, in one word. */
function kindOf(target: string): string {
  const special = /^(?:anon_inode:\[?([^\]]+)\]?|(\w+):\[\d+\])$/.exec(target);
  if (special !== null) return special[1] ?? special[2];
  return target.startsWith("/memfd:") ? "memory" : "file";
}

/** What of the above a confined process would have and this one has not, a line each. */
export function lackingOf(
  { threads, coreLimit, traceable }: Pick<
    ProcessReport,
    "threads" | "coreLimit" | "traceable"
  >,
): string[] {
  const lacking: string[] = [];
  const check = (what: string, holds: (thread: ThreadReport) => boolean) => {
    const without = threads.filter((thread) => !holds(thread)).length;
    if (without > 0) {
      lacking.push(`${what}: not so on ${without} of ${threads.length} threads`);
    }
  };
  check("an ordinary user", ({ users }) => users.every((user) => user !== 0));
  check("no capability but CAP_NET_ADMIN", ({ capabilities }) => {
    const { inheritable, permitted, effective, ambient } = capabilities;
    const all = [inheritable, permitted, effective, ambient]
      .reduce((sum, set) => sum | BigInt(`0x${set || "0"}`), 0n);
    return (all & ~CAP_NET_ADMIN) === 0n;
  });
  check("no new privileges", ({ noNewPrivileges }) => noNewPrivileges);
  check("system calls filtered", ({ seccomp }) => seccomp === "filter");
  if (coreLimit !== "0") lacking.push(`no core dumps: the limit is ${coreLimit}`);
  if (traceable === true) lacking.push("no tracing: others of its user may trace it");
  return lacking;
}
