/** Runs vuelo from outside: the sources, or the executable that VUELO_BIN names. */
import type { ProcessReport } from "../../src/sandbox/report.ts";
import { until } from "./lab_process.ts";

/**
 * What starts vuelo from the sources; where the addresses that it hands to libc are to be
 * checked (`deno task test --check-addresses`), with that check before it.
 */
export const MAIN: string = new URL(
  Deno.env.has("VUELO_CHECK_ADDRESSES") ? "../ffi_check/main.ts" : "../../main.ts",
  import.meta.url,
).pathname;

/** Whether the tests run as root. */
export const IS_ROOT: boolean = Deno.uid() === 0;

export interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Program and arguments that start vuelo. */
export function vuelo(args: readonly string[]): [program: string, args: string[]] {
  const binary = Deno.env.get("VUELO_BIN");
  if (binary !== undefined) return [binary, [...args]];
  return [Deno.execPath(), ["run", "--quiet", "--allow-all", MAIN, ...args]];
}

/** Runs vuelo until it ends and nobody holds its output any more. */
export async function run(args: readonly string[]): Promise<Result> {
  const [program, all] = vuelo(args);
  const output = await new Deno.Command(program, { args: all, stdin: "null" }).output();
  const decoder = new TextDecoder();
  return {
    code: output.code,
    stdout: decoder.decode(output.stdout),
    stderr: decoder.decode(output.stderr),
  };
}

/** What `vuelo sandbox-report` says of a process, and its exit status. */
export async function sandboxReport(
  pid: number,
): Promise<{ code: number; report: ProcessReport }> {
  const { code, stdout, stderr } = await run(["sandbox-report", "--json", String(pid)]);
  if (stderr !== "") throw new Error(`sandbox-report: ${stderr}`);
  return { code, report: JSON.parse(stdout)[0] as ProcessReport };
}

/** A fresh folder that every user may enter, removed after `body`. */
export async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vuelo-cli-" });
  await Deno.chmod(folder, 0o755);
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Whether a process is there and not a zombie. */
export function isAlive(pid: number): boolean {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return !/\) [ZX] /.test(stat);
  } catch {
    return false;
  }
}

/** Ends a process that is no child of this one, and waits until it is gone. */
export async function end(pid: number): Promise<void> {
  if (!isAlive(pid)) return;
  Deno.kill(pid, "SIGTERM");
  await until(`process ${pid} is gone`, () => !isAlive(pid));
}

/** Starts vuelo in the background for `body`, which gets the PID and what was printed. */
export async function background(
  folder: string,
  args: readonly string[],
  body: (pid: number, printed: string) => void | Promise<void>,
): Promise<void> {
  const pidFile = `${folder}/pid`;
  const result = await run(["--pid", pidFile, ...args]);
  if (result.code !== 0) throw new Error(`exit status ${result.code}: ${result.stderr}`);
  const pid = Number(await Deno.readTextFile(pidFile));
  try {
    await body(pid, result.stdout + result.stderr);
  } finally {
    await end(pid);
  }
}
