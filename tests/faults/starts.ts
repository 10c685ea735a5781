/**
 * Starts of vuelo as a process of its own, in which one call fails: each ends with one
 * line and status 1, or what serves then is confined as it says.
 */
import { effectiveUser } from "../../ffi/process.ts";
import { liveWithTwoPairs } from "./two_pairs.ts";
import { faultsOf } from "./errors.ts";
import { SHORT } from "./injector.ts";
import { type ProcessReport, reportOn } from "../../src/sandbox/report.ts";
import { type Failing, ORDER, type Order } from "./order.ts";

/** A call that a start makes. */
export type StartSite = Omit<Failing, "nth" | "fault"> & { calls: number };

/** A way to start. */
export interface Way {
  readonly name: string;
  readonly args: readonly string[];
  /** Where the log goes if not to standard error, in the folder of the start. */
  readonly logFile?: string;
  readonly background?: boolean;
  /** It is no service, and ends by itself. */
  readonly ends?: boolean;
  /** A guest that it serves; what goes wrong with that is thrown. */
  readonly guest?: (path: string, process: Deno.ChildProcess) => Promise<void>;
  /** Something that is in its way, in the folder. */
  readonly prepare?: (folder: string) => void;
}

export interface Started {
  /** Undefined while it serves. */
  readonly code: number | undefined;
  readonly said: string;
  readonly report: ProcessReport | undefined;
  /** What went wrong with its guest, "" if nothing. */
  readonly problem: string;
  /** A call failed that was to. */
  readonly failed: boolean;
  /** Once it was told to end. */
  readonly ended: number | undefined;
  readonly notes: readonly string[];
}

const ADDRESSES = ["-a", "192.0.2.5/24", "-g", "192.0.2.1"];
const RUN: readonly string[] = ["run", "--quiet", "--allow-all", "--no-check"];
const PATIENCE_MS = 30_000;
const LOOK_MS = 10;

/** Sockets of a process that has ended stay, and are removed by the next. */
function leaveSocket(folder: string): void {
  const listener = Deno.listen({ transport: "unix", path: `${folder}/other` });
  Deno.linkSync(`${folder}/other`, `${folder}/socket`);
  listener.close();
}

function user(name: string): string[] {
  return ["--runas", name];
}

export const WAYS: readonly Way[] = [
  { name: "--sandbox default", args: ["-f"] },
  { name: "--sandbox strict", args: ["-f", "--sandbox", "strict"] },
  { name: "--queues 2", args: ["-f", "--queues", "2"] },
  {
    name: "in the background",
    args: ["--log-file", "log", "--pid", "pid", "--pcap", "pcap"],
    logFile: "log",
    background: true,
    prepare: leaveSocket,
  },
  {
    name: "--queues 2, with a guest",
    args: ["-f", "--queues", "2"],
    guest: liveWithTwoPairs,
  },
  {
    name: "migrate-check",
    args: ["migrate-check", "-t", "0", ...user("0:root")],
    ends: true,
  },
  {
    name: "migrate-check of a user",
    args: ["migrate-check", ...user("root")],
    ends: true,
  },
  { name: "a descriptor that is none", args: ["-f", "-F", "0"], ends: true },
];

/** Starts vuelo, looks at what has become of it, and ends it. */
export async function start(way: Way, failing?: Failing): Promise<Started> {
  const folder = Deno.makeTempDirSync({ prefix: "vuelo-faults-" });
  try {
    Deno.chmodSync(folder, 0o755);
    way.prepare?.(folder);
    Deno.mkdirSync(`${folder}/notes`);
    return await startIn(folder, way, failing);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Starts vuelo in `folder`, where one call fails; its notes go to `notes` there. */
export function startChild(
  folder: string,
  args: readonly string[],
  failing: Failing | undefined,
): Deno.ChildProcess {
  const main = new URL("./child.ts", import.meta.url).pathname;
  const order: Order = { folder: `${folder}/notes`, failing };
  return new Deno.Command(Deno.execPath(), {
    args: [...RUN, main, ...args],
    cwd: folder,
    env: { [ORDER]: JSON.stringify(order), NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
}

/** What a child in `folder` noted, and whether the call failed that was to. */
export function notesOf(folder: string): { notes: string[]; failed: boolean } {
  const notes = notesIn(`${folder}/notes`);
  return { notes, failed: notes.some((line) => line.endsWith("\tfailed")) };
}

async function startIn(
  folder: string,
  way: Way,
  failing: Failing | undefined,
): Promise<Started> {
  const socket = way.args.includes("-F") ? [] : ["-s", "socket"];
  const child = startChild(folder, [...way.args, ...socket, ...ADDRESSES], failing);
  const errors = new Lines(child.stderr);
  let code: number | undefined;
  child.status.then((status) => code = status.code);
  const said = () => errors.text + (way.logFile ? read(`${folder}/${way.logFile}`) : "");
  const up = () => /^.*Sandbox: .*$/m.test(said());
  const settled = () => way.background === true ? code !== undefined : up();
  await until(() => settled() || code !== undefined);
  const pid = way.background !== true ? child.pid : Number(read(`${folder}/pid`));
  const runs = up() && (way.background === true ? code === 0 : code === undefined);
  const report = runs ? reportOf(pid) : undefined;
  let ended: number | undefined;
  let problem = "";
  if (report !== undefined) {
    try {
      await way.guest?.(`${folder}/socket`, child);
    } catch (error) {
      problem = (error as Error).stack ?? String(error);
    }
    Deno.kill(pid, "SIGTERM");
    await until(() => way.background === true ? !isAlive(pid) : code !== undefined);
    ended = way.background === true ? 0 : code;
  }
  await child.status;
  await errors.end;
  const { notes, failed } = notesOf(folder);
  const what = { said: said(), report, problem, failed, ended, notes };
  return { code: report ? undefined : code, ...what };
}

/** Undefined if it has ended. */
export function reportOf(pid: number): ProcessReport | undefined {
  try {
    return reportOn(pid);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Lines of all threads, each after the thread's number. */
function notesIn(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name }) =>
    read(`${folder}/${name}`).split("\n").map((line) => `${name}\t${line}`)
  );
}

/** What comes from a process, as it comes. */
export class Lines {
  text = "";
  readonly end: Promise<void>;

  constructor(stream: ReadableStream<Uint8Array>) {
    this.end = this.#read(stream);
  }
  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const piece of stream) this.text += decoder.decode(piece);
  }
}

export function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}

function isAlive(pid: number): boolean {
  return !/^State:\s+[ZX]/m.test(read(`/proc/${pid}/status`) || "State: X");
}

export async function until(done: () => boolean): Promise<void> {
  for (const end = Date.now() + PATIENCE_MS; !done();) {
    if (Date.now() > end) throw new Error("hang: neither starts nor ends");
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** All calls of a start, and the places in the source that they come from. */
export async function surveyStart(
  way: Way,
): Promise<{ sites: StartSite[]; places: string[] }> {
  const started = await start(way);
  if (way.ends === true) {
    if (started.code === undefined) throw new Error(`${way.name} does not end`);
    return sitesOf(started.notes);
  }
  if (started.report === undefined || started.ended !== 0 || started.problem !== "") {
    throw new Error(`${way.name}, without faults: ${started.problem} ${started.said}`);
  }
  return sitesOf(started.notes);
}

/** What a process noted. */
export function sitesOf(
  notes: readonly string[],
): { sites: StartSite[]; places: string[] } {
  const sites = new Map<string, StartSite>();
  const places: string[] = [];
  for (const line of notes) {
    const [thread, kind, name, site] = line.split("\t");
    if (kind === "place") places.push(name);
    if (kind !== "call") continue;
    const key = `${thread} ${site}`;
    const known = sites.get(key);
    if (known === undefined) {
      sites.set(key, { thread: Number(thread), name, site, calls: 1 });
    } else known.calls++;
  }
  return { sites: [...sites.values()], places };
}

/** What is wrong with what came of a start, "" if nothing. */
export function judge(way: Way, failing: Failing, started: Started): string {
  const { code, said, report, ended } = started;
  // How often the loop turns depends on time, and which calls a guest's packets lead to.
  const varies = isOfTheLoop(failing.site) || way.guest !== undefined;
  if (!started.failed) return varies ? started.problem : "the call did not come";
  if (way.ends === true) return judgeEnd(failing, started);
  if (report === undefined) {
    if (code !== 1) return `status ${code}: ${said}`;
    if (isBeforeAll(failing)) return "";
    const own = way.logFile === undefined ? said : said.replaceAll(/^\d.*\n/gm, "");
    const last = own.trimEnd().split("\n").filter((line) => !isLog(line));
    return last.length === 1 && last[0].startsWith("vuelo: ")
      ? ""
      : `not one line: ${said}`;
  }
  if (started.problem !== "") return `${started.problem}\n${said}`;
  if (ended !== 0) return `ended with ${ended}: ${said}`;
  return untold(way.name.includes("strict"), said, report);
}

/** What is no service ends with a status that it has, and with one line at most. */
function judgeEnd(failing: Failing, { code, said }: Started): string {
  if (isBeforeAll(failing)) return "";
  const lines = said.trimEnd().split("\n").filter((line) => line !== "" && !isLog(line));
  const known = code === 0 || code === 1 || code === 2;
  const right = known && lines.length <= 1 && lines.every((l) => l.startsWith("vuelo: "));
  return right ? "" : `status ${code}: ${said}`;
}

/** Memory that modules of `ffi` take when they are loaded: Deno tells of it in its way. */
export function isBeforeAll({ name, site }: Failing): boolean {
  return name === "mmap" && / by ffi\/\w+\.ts $/.test(site);
}

function isOfTheLoop(site: string): boolean {
  return / at src\/(?:poll|mesh)/.test(site);
}

export function isLog(line: string): boolean {
  return /^\d+\.\d+: |^vuelo: (?:warning|error): |^ {2,}/.test(line);
}

/** What a process lacks and does not say. */
export function untold(
  strict: boolean,
  said: string,
  report: ProcessReport,
  rootAs = false,
): string {
  const line = /Sandbox: (.*)$/m.exec(said)?.[1] ?? "";
  const [has, lacks = ""] = line.split("; lacking: ");
  if (strict && lacks !== "") return `strict, but ${line}`;
  const { threads, lacking } = report;
  const claims: readonly (readonly [string, string])[] = [
    ["seccomp", "system calls filtered"],
    ["seccomp", "no new privileges"],
    ["no capabilities", "no capability but CAP_NET_ADMIN"],
    ["no core dumps", "no core dumps"],
    ["no tracing", "no tracing"],
  ];
  const all = has.split(", ");
  for (const [claim, proof] of claims) {
    if (
      all.some((layer) => layer.startsWith(claim)) &&
      lacking.some((l) => l.startsWith(proof))
    ) {
      return `says ${has}, but ${lacking.join("; ")}`;
    }
  }
  const root = threads.filter(({ users, supplementary }) =>
    users.includes(0) || effectiveUser() === 0 && supplementary.some((id) => id === 0)
  );
  if (root.length > 0 && !rootAs) return `${root.length} threads are root's`;
  return "";
}

/**
 * What is tried: which of a way's calls are to fail, and how.
 *
 * @param known calls of threads that were tried before, and are now
 * @param lived calls that were tried in lives: a thread tries each of them once
 */
export function failingOf(
  way: Way,
  sites: readonly StartSite[],
  known: Set<string>,
  lived: ReadonlySet<string>,
): Failing[] {
  return sites.flatMap((site, i) => {
    const { calls, ...call } = site;
    const key = `${call.thread} ${call.site}`;
    if (!isTried(way, call, known.has(key))) return [];
    known.add(key);
    const faults = faultsOf(call.name).filter((fault) => fault !== SHORT);
    if (way.guest !== undefined && lived.has(call.site)) {
      return [{ ...call, nth: 1, fault: faults[i % faults.length] }];
    }
    return faults.flatMap((fault) =>
      [...new Set([1, calls])].map((nth) => ({ ...call, nth, fault }))
    );
  });
}

function isTried(
  way: Way,
  { thread, site }: Omit<Failing, "nth" | "fault">,
  known: boolean,
) {
  if (way.name.includes("strict")) return CONFINING.test(site);
  return !known && (way.guest === undefined || thread > 0 || THREADS.test(site));
}

/** What threads have to do with each other. */
const THREADS = / at src\/(?:mesh|threads|flow\/(?:others|thread_change))/;
const CONFINING = / at src\/(?:sandbox|host\/privileges|host\/descriptors|threads)/;
