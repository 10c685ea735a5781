/** vuelo: reads the command line, and ends the process. */
import { SyscallError } from "./ffi/errno.ts";
import { raiseDescriptorLimit } from "./ffi/process.ts";
import {
  isBackgroundChild,
  prepareToReport,
  startInBackground,
} from "./src/cli/background.ts";
import { configure } from "./src/cli/configure.ts";
import { helpText } from "./src/cli/help.ts";
import { type ParsedOptions, parseOptions } from "./src/cli/parse_options.ts";
import { summary } from "./src/cli/summary.ts";
import { StartError, UsageError } from "./src/errors.ts";
import { closeInherited, standardStreams } from "./src/host/descriptors.ts";
import { readFacts } from "./src/host/facts.ts";
import { PidFile } from "./src/host/pid_file.ts";
import { freeSocketPath } from "./src/host/socket_path.ts";
import { log } from "./src/log.ts";
import { describe } from "./src/sandbox/confine.ts";
import { VERSION } from "./src/version.ts";

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;

/** The document that libvirt asks for (QEMU, docs/interop/vhost-user.json). */
const CAPABILITIES = { type: "net", features: [] };

/** `vuelo NAME …` does something else than serve; each is loaded only when it is called. */
const SUBCOMMANDS: Readonly<
  Record<string, (args: string[]) => number | Promise<number>>
> = {
  inspect: async (args) => (await import("./src/cli/inspect.ts")).inspectCommand(args),
  "migrate-check": async (args) =>
    (await import("./src/cli/migrate_check.ts")).migrateCheckCommand(args),
  "sandbox-report": async (args) =>
    (await import("./src/cli/sandbox_report.ts")).sandboxReportCommand(args),
  repair: async (args) => (await import("./src/repair/helper.ts")).repairCommand(args),
};

/** Text for an option that only shows something. */
function information(options: ParsedOptions): string | undefined {
  if (options.has("help")) return helpText();
  if (options.has("version")) return `vuelo ${VERSION}\n`;
  if (options.has("print-capabilities")) return JSON.stringify(CAPABILITIES) + "\n";
  return undefined;
}

async function main(): Promise<number> {
  const [name, ...rest] = Deno.args;
  if (name !== undefined && Object.hasOwn(SUBCOMMANDS, name)) {
    return await SUBCOMMANDS[name](rest);
  }
  const options = parseOptions(Deno.args);
  const text = information(options);
  if (text !== undefined) {
    Deno.stdout.writeSync(new TextEncoder().encode(text));
    return 0;
  }
  const inBackground = isBackgroundChild();
  const keepStdin = options.last("fd")?.text === "0";
  if (!inBackground && !options.has("foreground")) {
    return await startInBackground(keepStdin);
  }
  const { config, warnings } = configure(options, readFacts(), freeSocketPath);
  closeInherited(config.fd);
  const streams = inBackground ? standardStreams(keepStdin) : [];
  log.configure({ level: config.logLevel, file: config.logFile, size: config.logSize });
  for (const warning of warnings) log.warn(warning);
  log.debug(`at most ${raiseDescriptorLimit()} descriptors`);
  const pidFile = config.pidFile === undefined ? undefined : new PidFile(config.pidFile);
  let report: (() => void) | undefined;
  const { run } = await import("./src/app.ts");
  return await run(config, {
    prepare: () => {
      if (inBackground) report = prepareToReport(streams);
    },
    ready: (sandbox) => {
      started = true;
      pidFile?.write();
      for (const line of summary(config)) log.info(line);
      if (sandbox.lacking.length === 0) log.info(describe(sandbox));
      else log.warn(describe(sandbox));
      report?.();
    },
  });
}

/** Everything that can fail at start is done. */
let started = false;

/** Tells what went wrong in one line; a defect also with its stack. */
function fail(error: unknown): number {
  const known = error instanceof UsageError || error instanceof StartError ||
    // The host lacks memory or descriptors: no more can be said.
    error instanceof SyscallError && !started;
  const text = known || !(error instanceof Error)
    ? (error as Error).message ?? String(error)
    : error.stack ?? error.message;
  Deno.stderr.writeSync(new TextEncoder().encode(`vuelo: ${text}\n`));
  return error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE;
}

/** In the executable, the threads of further queue pairs run this module, too. */
async function begin(): Promise<void> {
  if ("WorkerGlobalScope" in globalThis) await import("./src/threads/worker.ts");
  else Deno.exit(await main().catch(fail));
}

await begin();
