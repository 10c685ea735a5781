/** `vuelo sandbox-report`: how a running instance is confined. */
import { StartError, UsageError } from "../errors.ts";
import {
  type ProcessReport,
  reportOn,
  runningInstances,
  type ThreadReport,
} from "../sandbox/report.ts";

const USAGE = `Usage: vuelo sandbox-report [--json] [PID]...

Says what is in force for running instances, as /proc tells: user, groups, capabilities,
privileges, filter of system calls, dumps of memory, descriptors, files open for writing.
Without PID, for every process that is called vuelo. Descriptors are seen by root only.
Landlock is not to be seen in /proc: vuelo says at its start whether it is in force.

  --json    for scripts: a list of objects

Exit status: 0 each of them is confined, 1 something is lacking, or there is none, 2 wrong
usage.
`;

/** Names of capabilities by number (linux/capability.h). */
const CAPABILITIES = [
  ..."chown dac_override dac_read_search fowner fsetid kill setgid setuid".split(" "),
  ..."setpcap linux_immutable net_bind_service net_broadcast net_admin".split(" "),
  ..."net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot".split(" "),
  ..."sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource".split(" "),
  ..."sys_time sys_tty_config mknod lease audit_write audit_control".split(" "),
  ..."setfcap mac_override mac_admin syslog wake_alarm block_suspend".split(" "),
  ..."audit_read perfmon bpf checkpoint_restore".split(" "),
];

/**
 * Runs the subcommand.
 *
 * @param args what follows `sandbox-report`
 * @returns exit status: 0 if all are confined, else 1
 * @throws {UsageError} for wrong arguments
 * @throws {StartError} if there is no such process, or none at all
 */
export function sandboxReportCommand(args: readonly string[]): number {
  let json = false;
  const pids: number[] = [];
  for (const arg of args) {
    if (arg === "--help" || arg === "-h") {
      write(USAGE);
      return 0;
    }
    if (arg === "--json") json = true;
    else if (/^[1-9][0-9]{0,9}$/.test(arg)) pids.push(Number(arg));
    else {
      throw new UsageError(
        `sandbox-report ${arg}`,
        "expected numbers of processes; see vuelo sandbox-report --help",
      );
    }
  }
  const reports = (pids.length > 0 ? pids : runningInstances()).map(report);
  if (reports.length === 0) throw new StartError("sandbox-report: no vuelo is running");
  write(json ? JSON.stringify(reports, null, 2) + "\n" : reports.map(format).join("\n"));
  return reports.every(({ lacking }) => lacking.length === 0) ? 0 : 1;
}

function report(pid: number): ProcessReport {
  try {
    return reportOn(pid);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new StartError(`sandbox-report ${pid}: there is no such process`);
  }
}

function format(found: ProcessReport): string {
  const { pid, command, threads, descriptors, writable } = found;
  const each = (show: (thread: ThreadReport) => string) => shares(threads, show);
  const unseen = "not to be seen by this user";
  const rows: [string, string][] = [
    ["user", each(({ users, groups }) => `${distinct(users)}:${distinct(groups)}`)],
    ["other groups", each(({ supplementary }) => supplementary.join(" ") || "none")],
    ["capabilities", each(held)],
    ["bounding set", each(({ capabilities }) => names(capabilities.bounding))],
    [
      "privileges",
      each((thread) => thread.noNewPrivileges ? "none can be gained" : "can be gained"),
    ],
    ["system calls", each(({ seccomp }) => seccomp === "filter" ? "filtered" : seccomp)],
    ["memory", memory(found)],
    ["descriptors", descriptors === null ? unseen : kinds(descriptors)],
    ["writable", writable === null ? unseen : writable.join(" ") || "none"],
    ["lacking", found.lacking.join("; ") || "nothing"],
  ];
  const lines = rows.map(([name, value]) => `  ${name.padEnd(13)} ${value}`);
  return [`process ${pid}: ${command}`, ...lines, ""].join("\n");
}

/** What is shown of each thread; with how many of them if they differ. */
function shares(
  threads: readonly ThreadReport[],
  show: (thread: ThreadReport) => string,
): string {
  const counts = new Map<string, number>();
  for (const thread of threads) {
    const text = show(thread);
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  const every = `on each of ${threads.length} threads`;
  if (counts.size === 1) return `${[...counts.keys()][0]}, ${every}`;
  return [...counts].map(([text, n]) => `${text} on ${n} of ${threads.length} threads`)
    .join("; ");
}

function distinct(ids: readonly number[]): string {
  return [...new Set(ids)].join("/");
}

function held({ capabilities }: ThreadReport): string {
  const { inheritable, permitted, effective, ambient } = capabilities;
  const all = [inheritable, permitted, effective, ambient]
    .reduce((sum, set) => sum | BigInt(`0x${set || "0"}`), 0n);
  return names(all.toString(16));
}

/** The names of a set of capabilities, given in hexadecimal. */
export function names(set: string): string {
  const bits = BigInt(`0x${set || "0"}`);
  if (bits === 0n) return "none";
  const present = CAPABILITIES.filter((_, i) => (bits >> BigInt(i) & 1n) === 1n);
  return present.length === CAPABILITIES.length ? "all" : present.join(" ");
}

function memory({ coreLimit, traceable }: ProcessReport): string {
  const dumps = coreLimit === "0" ? "no core dumps" : `core dumps up to ${coreLimit}`;
  if (traceable === null) return dumps;
  return `${dumps}, ${traceable ? "can be traced" : "cannot be traced"}`;
}

function kinds(descriptors: Readonly<Record<string, number>>): string {
  const all = Object.entries(descriptors).sort(([, a], [, b]) => b - a);
  const sum = all.reduce((n, [, count]) => n + count, 0);
  return `${sum}: ${all.map(([kind, count]) => `${count} ${kind}`).join(", ")}`;
}

function write(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}
