/**
 * Runs every test: format, lint, types and layers; unit, property and protocol tests; and
 * guests in QEMU that also migrate between two hosts. Guests run against the compiled
 * executable, which is started from an empty directory with no Deno on PATH; a few run
 * against the sources, and all of them where no executable can be built. Ends with one
 * line of totals.
 *
 * `deno task test STAGE...` runs some of the stages: check, unit, protocol, addresses,
 * smoke, e2e and migrate (all guests on the sources), binary; a path below tests/e2e stands
 * for e2e, and then only such files are run in e2e and binary. `--check-addresses` has the
 * addresses checked that libc gets (tests/ffi_check), which addresses and smoke always do.
 */
import { BINARY, compile } from "./compile.ts";
import { LabError } from "./lab/cache.ts";
import { testpmd, userModeLinux } from "./lab/frontends.ts";
import { image } from "./lab/image.ts";
import { kernel, program, qemu } from "./lab/packages.ts";
import { passt } from "./lab/passt.ts";
import { FOLDER as CHECK_FOLDER, outcome } from "../tests/ffi_check/install.ts";
import {
  isolated,
  missingRights,
  type Rights,
  rights,
} from "../tests/support/lab_userns.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const STAGES = [
  "check",
  "unit",
  "protocol",
  "addresses",
  "smoke",
  "e2e",
  "migrate",
  "binary",
] as const;
type Stage = typeof STAGES[number];
/** Those that run if none is named: guests are run once, on what users have. */
const WHOLE: readonly Stage[] = [
  "check",
  "unit",
  "protocol",
  "addresses",
  "smoke",
  "binary",
];

/** The tests of the command line and those with guests run on the executable, too. */
const COMMAND_LINE = [
  "tests/protocol/cli_test.ts",
  "tests/protocol/queues_test.ts",
  "tests/protocol/sandbox_test.ts",
];
/** What the documentation has started before Deno is, which takes the executable. */
const NAMESPACES = "tests/namespaces";
const files = Deno.args.filter((word) => word.startsWith("tests/e2e"));
/** Has the addresses checked that libc gets, in all stages but binary. */
const CHECK_ADDRESSES = "--check-addresses";
const everywhere = Deno.args.includes(CHECK_ADDRESSES);
/** Tests of migration that start no vuelo, and so none that is compiled. */
const IN_PROCESS = ["tests/migrate/connection_test.ts", "tests/migrate/many_test.ts"];
const GUESTS = files.length > 0 ? files : ["tests/e2e"];
/** What guests do on the sources when all of them run on the executable. */
const SMOKE = ["tests/e2e/udp_test.ts", "tests/e2e/forwards_test.ts"];

/** What is run with that check every time, besides what guests do on the sources. */
const CHECKED = [
  "tests/ffi_check",
  "src/virtio",
  "src/flow/receive_batch_test.ts",
  "src/flow/udp_test.ts",
  "src/flow/udp_segments_test.ts",
  "src/flow/forward_test.ts",
  "src/flow/ping_test.ts",
  "src/flow/tcp/to_guest_test.ts",
  "tests/property/changing_ring_test.ts",
  "tests/property/virtqueue_test.ts",
  "tests/property/packed_ring_test.ts",
  "tests/protocol/hostile_frontend_test.ts",
  "tests/protocol/vhost_user_messages_test.ts",
  "tests/protocol/vhost_user_refusals_test.ts",
  "tests/protocol/vhost_user_rings_test.ts",
  "tests/protocol/packed_rings_test.ts",
  "tests/protocol/migration_test.ts",
  "tests/protocol/migration_guest_test.ts",
];

/** Tests that themselves stand between the program and libc, or start no vuelo. */
const OTHERS = ["tests/bench", "tests/faults", "tests/fuzz"];

interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
const inCI = Deno.env.get("CI") === "true" || Deno.env.get("CI") === "1";

/** Passes a stream on to the terminal as it comes, and returns its text. */
async function tee(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  to: typeof Deno.stdout,
): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream) {
    to.writeSync(chunk);
    text += decoder.decode(chunk, { stream: true });
  }
  return text;
}

interface TestOptions {
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  /** For tests that need rights over a network namespace. */
  readonly namespaces?: boolean;
  /** Check every address that libc gets, in these tests and in the vuelo they start. */
  readonly addresses?: boolean;
}

/** Where processes leave what they have checked. */
let checkedFolder: string | undefined;

async function checkAddresses(): Promise<Record<string, string>> {
  checkedFolder ??= await Deno.makeTempDir({ prefix: "vuelo-addresses-" });
  await Deno.chmod(checkedFolder, 0o1777); // vuelo may be another user
  return { [CHECK_FOLDER]: checkedFolder };
}

/** Adds up what processes have checked; one that found something is a failure. */
async function sumAddresses(): Promise<void> {
  if (checkedFolder === undefined) return;
  const { processes, calls, ranges, violations } = outcome(checkedFolder);
  await Deno.remove(checkedFolder, { recursive: true });
  for (const violation of violations) console.error(violation);
  const what =
    `\naddresses: ${calls} calls with ${ranges} ranges in ${processes} programs`;
  count(`${what}, ${violations.length} outside`, calls > 0 && violations.length === 0);
}

/** A folder's tests but for some; --ignore has no effect where two paths are named. */
function testsBut(folder: string, except: readonly string[]): string[] {
  return [...Deno.readDirSync(ROOT + folder)]
    .map(({ name }) => `${folder}/${name}`)
    .filter((path) => path.endsWith("_test.ts") && !except.includes(path))
    .sort();
}

/** Whether network namespaces have to be made inside a user namespace. */
let ordinary = false;

/** Runs `deno test` on paths of the repository and adds up what it counted. */
async function test(paths: readonly string[], options: TestOptions = {}): Promise<void> {
  const checked = options.addresses ?? everywhere;
  const plain = [
    Deno.execPath(),
    "test",
    "--allow-all",
    "--no-check",
    "--permit-no-files",
    `--config=${ROOT}deno.json`,
    ...(checked ? [`--preload=${ROOT}tests/ffi_check/preload.ts`] : []),
    ...paths.map((path) => ROOT + path),
  ];
  const { argv, env } = options.namespaces && ordinary
    ? await isolated(plain)
    : { argv: plain, env: {} };
  const child = new Deno.Command(argv[0], {
    args: argv.slice(1),
    env: {
      NO_COLOR: "1",
      ...env,
      ...options.env,
      ...(checked ? await checkAddresses() : {}),
    },
    cwd: options.cwd ?? ROOT,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const [output, , status] = await Promise.all([
    tee(child.stdout, Deno.stdout),
    tee(child.stderr, Deno.stderr),
    child.status,
  ]);
  const line = /^(?:ok|FAILED) \| (\d+) passed.* \| (\d+) failed(?: \((\d+) steps?\))?/m;
  const match = line.exec(output);
  const passed = Number(match?.[1] ?? 0);
  const failed = Number(match?.[2] ?? 0);
  totals.passed += passed;
  totals.skipped += Number(
    /^(?:ok|FAILED) \|.* \| (\d+) ignored/m.exec(output)?.[1] ?? 0,
  );
  // A module that doesn't load fails without being counted.
  totals.failed += Math.max(failed, status.success ? 0 : 1);
  if (paths.length > 0 && status.success && passed === 0) {
    console.error(`test: no test in ${paths.join(" ")}`);
    totals.failed++;
  }
}

/** Counts one thing that isn't a `deno test`. */
function count(what: string, success: boolean): void {
  console.log(`${what} ... ${success ? "ok" : "FAILED"}`);
  if (success) totals.passed++;
  else totals.failed++;
}

async function check(): Promise<void> {
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["task", "--quiet", "check"],
    cwd: ROOT,
    stdin: "null",
  }).spawn().status;
  count("format, lint, types, layers", success);
}

/** What the tests may do; has modules fetched before they are cut off the network. */
async function findRights(): Promise<Rights> {
  const may = await rights();
  ordinary = may === "namespace";
  if (!ordinary) return may;
  console.log("test: what needs rights has them in a user namespace");
  const args = ["install", "--quiet"];
  const child = new Deno.Command(Deno.execPath(), { args, cwd: ROOT }).spawn();
  if (!(await child.status).success) count("modules are there", false);
  return may;
}

/** Fetches what guests need and says where it is; false and the reason if that fails. */
async function prepareLab(may: Rights): Promise<boolean> {
  console.log("test: QEMU, a guest kernel and tools; what is missing is fetched from");
  console.log("test: Debian into the cache folder, nothing is installed on this machine");
  try {
    if (may === "none") throw new LabError(await missingRights());
    const emulator = await qemu();
    const system = await kernel();
    await image(system, "base");
    await image(system, "full");
    await image((await userModeLinux()).kernel, "base");
    const tools = [
      await program("ip"),
      await program("tshark"),
      await program("bwrap"),
      await program("systemd-analyze"),
      await testpmd(),
      (await passt("trixie")).passt,
      (await passt("sid")).passt,
    ];
    console.log(`test: QEMU: ${[emulator.path, ...emulator.args].join(" ")}`);
    console.log(`test: kernel ${system.version}: ${system.image}`);
    for (const { path, args } of tools) console.log(`test: ${[path, ...args].join(" ")}`);
    return true;
  } catch (error) {
    console.error(`test: ${(error as Error).message}`);
    count("what guests need is there", false);
    return false;
  }
}

async function protocol(): Promise<void> {
  // Which user vuelo becomes is not to be seen in a namespace that has but one.
  await test(COMMAND_LINE);
  await test(testsBut("tests/protocol", COMMAND_LINE), { namespaces: true });
}

/** PATH without the folders that have a deno, but for the system's own. */
function pathWithoutDeno(): string {
  const system = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
  return (Deno.env.get("PATH") ?? "").split(":").filter((folder) => {
    if (system.includes(folder)) return true;
    try {
      Deno.statSync(`${folder}/deno`);
      return false;
    } catch {
      return true;
    }
  }).join(":");
}

async function binary(): Promise<void> {
  if (!await compile()) {
    // Only a machine that cannot get the runtime may do without.
    if (inCI || Deno.env.has("DENORT_BIN")) return count("compile", false);
    console.error("test: skipped on the executable, as no runtime could be had for it");
    totals.skipped++;
    if (names.includes("binary")) return;
    console.error("test: guests run against the sources");
    await test(GUESTS, { namespaces: true });
    await test(testsBut("tests/migrate", IN_PROCESS), { namespaces: true });
    return;
  }
  count("compile", true);
  const folder = await Deno.makeTempDir({ prefix: "vuelo-binary-" });
  const empty = `${folder}/empty`;
  try {
    await Deno.chmod(folder, 0o755);
    await Deno.mkdir(empty);
    await Deno.copyFile(BINARY, `${folder}/vuelo`);
    await Deno.chmod(`${folder}/vuelo`, 0o755);
    const env = { VUELO_BIN: `${folder}/vuelo`, PATH: pathWithoutDeno() };
    await test([...COMMAND_LINE, NAMESPACES], { env, cwd: empty, addresses: false });
    const moves = files.length > 0 ? [] : testsBut("tests/migrate", IN_PROCESS);
    const options = { env, cwd: empty, namespaces: true, addresses: false };
    await test([...GUESTS, ...moves], options);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const RUN: Record<Stage, () => Promise<void>> = {
  check,
  // Not in parallel: some count the descriptors of the process.
  unit: () =>
    test(["ffi", "src", "tests/property", ...(everywhere ? [] : OTHERS)], {
      namespaces: true,
    }),
  protocol,
  addresses: () => test(CHECKED, { namespaces: true, addresses: true }),
  smoke: () => test([...SMOKE, ...IN_PROCESS], { namespaces: true, addresses: true }),
  e2e: () => test(GUESTS, { namespaces: true }),
  migrate: () => test(["tests/migrate"], { namespaces: true }),
  binary,
};

const names = Deno.args.filter((word) =>
  !files.includes(word) && word !== CHECK_ADDRESSES
);
if (files.length > 0 && !names.includes("binary")) names.push("e2e");
const wanted = names.length === 0 ? WHOLE : STAGES.filter((s) => names.includes(s));
const unknown = names.filter((name) => !STAGES.includes(name as Stage));
if (unknown.length > 0) {
  console.error(`test: no such stage: ${unknown.join(" ")} (${STAGES.join(" ")})`);
  Deno.exit(2);
}
const NEED_LAB: readonly Stage[] = ["smoke", "e2e", "migrate", "binary"];
const needsLab = NEED_LAB.some((stage) => wanted.includes(stage));
const may = await findRights();
const hasLab = !needsLab || await prepareLab(may);
for (const stage of wanted) {
  if (!hasLab && NEED_LAB.includes(stage)) continue;
  console.log(`\n== ${stage}`);
  await RUN[stage]();
}
await sumAddresses();
const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : "";
console.log(`\n${totals.passed} passed, ${totals.failed} failed${skipped}`);
Deno.exit(totals.failed > 0 || inCI && totals.skipped > 0 ? 1 : 0);
