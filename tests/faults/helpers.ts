/**
 * Repair helpers as processes of their own, in which one call fails: each ends with one
 * line and status 1, or serves; what it cannot do, it tells by hanging up. It is confined
 * as it says, or says what lacks. Needs CAP_NET_ADMIN, as a helper does.
 */
import { closeFd } from "../../ffi/socket.ts";
import { RepairLink } from "../../src/repair/link.ts";
import { isInRepair, newTcpSocket } from "../../src/repair/switch.ts";
import type { ProcessReport } from "../../src/sandbox/report.ts";
import type { Failing } from "./order.ts";
import {
  isBeforeAll,
  isLog,
  Lines,
  notesOf,
  reportOf,
  sitesOf,
  startChild,
  type StartSite,
  until,
  untold,
} from "./starts.ts";

/** A helper of a socket that is root's, or of a folder that is an ordinary user's. */
export type Form = "socket" | "folder";

const NOBODY = 65534;
const SILENT = { error() {}, warn() {}, info() {}, debug() {} };
const SOCKETS = 3;
const TRIES = 20;
const PAUSE_MS = 50;
/** A socket that cannot be connected to, of which the helper says so. */
const GIVEN_UP = /not tried again/;

export interface Helped {
  readonly said: string;
  /** Undefined until it was told to end. */
  readonly code: number | undefined;
  readonly report: ProcessReport | undefined;
  readonly failed: boolean;
  /** The last attempt to switch sockets on and off again succeeded. */
  readonly served: boolean;
  /** No socket was left in repair mode. */
  readonly clean: boolean;
  readonly notes: readonly string[];
}

/** Starts a helper, has it switch sockets, twice if need be, and ends it. */
export async function help(form: Form, failing?: Failing): Promise<Helped> {
  const folder = Deno.makeTempDirSync({ prefix: "vuelo-faults-" });
  const sockets = `${folder}/sockets`;
  Deno.chmodSync(folder, 0o755);
  Deno.mkdirSync(`${folder}/notes`);
  Deno.mkdirSync(sockets);
  const user = form === "folder" ? NOBODY : 0;
  Deno.chownSync(sockets, user, user);
  const link = new RepairLink(`${sockets}/vm.repair`, SILENT, { user });
  try {
    return await helpAt(folder, form === "folder" ? sockets : link.path, link, failing);
  } finally {
    link.close();
    Deno.removeSync(folder, { recursive: true });
  }
}

async function helpAt(
  folder: string,
  path: string,
  link: RepairLink,
  failing: Failing | undefined,
): Promise<Helped> {
  const child = startChild(folder, ["repair", path], failing);
  const form: Form = path === link.path ? "socket" : "folder";
  const errors = new Lines(child.stderr);
  let code: number | undefined;
  child.status.then((status) => code = status.code);
  const fds = Array.from({ length: SOCKETS }, newTcpSocket);
  let report: ProcessReport | undefined;
  let served = false;
  let clean = true;
  for (let tries = 0; tries < TRIES && !served && code === undefined; tries++) {
    const given = () => GIVEN_UP.test(errors.text);
    await until(() => link.available || code !== undefined || given());
    if (code !== undefined || given()) break;
    // What it says and gives up comes before it waits for requests.
    await until(() => errors.text.includes("Sandbox: ") || code !== undefined);
    report = reportOf(child.pid);
    const on = link.switchSockets(fds, true) === 0;
    served = link.switchSockets(fds, false) === 0 && on;
    clean = fds.every((fd) => !isInRepair(fd));
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  if (form === "folder" && served) {
    Deno.writeTextFileSync(`${path}/other.repair`, "");
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  for (const fd of fds) closeFd(fd);
  link.close();
  const ends = path === link.path && served;
  if (!ends && code === undefined) kill(child);
  await until(() => code !== undefined);
  await errors.end;
  const { notes, failed } = notesOf(folder);
  return { said: errors.text, code, report, failed, served, clean, notes };
}

function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGTERM");
  } catch {
    // It has ended.
  }
}

/** All calls of a helper that nothing fails for. */
export async function surveyHelper(
  form: Form,
): Promise<{ sites: StartSite[]; places: string[] }> {
  const helped = await help(form);
  if (!helped.served) throw new Error(`repair helper, without faults: ${helped.said}`);
  return sitesOf(helped.notes);
}

/** What is wrong with what came of it, "" if nothing. */
export function judgeHelper(form: Form, failing: Failing, helped: Helped): string {
  const { said, code, report, failed, served, clean } = helped;
  // How often it waits depends on time; how it ends, on the signal.
  // A program that is executed again makes its first calls twice, and counts anew.
  const varies = /^(?:epoll_wait|close|recvmsg) /.test(failing.site) || failing.nth > 1;
  if (!failed) return varies ? "" : "did not come";
  if (!served) {
    if (GIVEN_UP.test(said)) return "";
    if (code !== 1) return `status ${code}: ${said}`;
    if (isBeforeAll(failing)) return "";
    const own = said.trimEnd().split("\n").filter((line) =>
      !isLog(line) && !line.startsWith("repair: ")
    );
    return own.length === 1 && own[0].startsWith("vuelo: ")
      ? ""
      : `not one line: ${said}`;
  }
  if (!clean) return "a socket is left in repair mode";
  if (report === undefined) return "";
  const says = / rights of root|stays root/.test(said);
  return untold(false, said, report, form === "socket" || says);
}
