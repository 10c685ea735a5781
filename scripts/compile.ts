/**
 * Makes the executable dist/vuelo, and says how large it is. `DENORT_BIN` may name the
 * runtime to put into it, as `deno compile` has it; without, Deno downloads its own.
 *
 * The program is one bundle, which V8 need not compile at each start: what it has compiled
 * in a first run, here, is part of the executable. V8 checks that it fits code, version and
 * flags, and compiles anew otherwise.
 */
const ROOT = new URL("..", import.meta.url).pathname;
const BUILD = `${ROOT}dist/build`;

/** Code that ran once stays compiled, however long ago: a migration cannot wait. */
const KEEP_CODE = "--v8-flags=--no-flush-bytecode";

/**
 * The runtime would keep compiled code in /tmp under a name that anybody can guess, and run
 * what it finds there: whoever made that file first would have his code run by root.
 */
const NO_CACHE = "--no-code-cache";

/** Where the executable goes. */
export const BINARY: string = `${ROOT}dist/vuelo`;

/** How long the first run may take to listen, and to end (ms). */
const RUN_LIMIT = 20_000;

async function deno(cwd: string, ...args: string[]): Promise<boolean> {
  const command = new Deno.Command(Deno.execPath(), { args, cwd, stdin: "null" });
  return (await command.spawn().status).success;
}

/** Makes one file of a module and all that it imports. */
async function bundle(module: string, output: string): Promise<boolean> {
  const options = ["--quiet", "--platform", "deno", "--output", `${BUILD}/${output}`];
  return await deno(ROOT, "bundle", ...options, module);
}

/**
 * Turns the bundle, a module, into a script: a function of the modules of the runtime that
 * it imports, by name, and of its own address.
 *
 * @throws {Error} if the bundle has imports or exports of another form
 */
export function asScript(bundle: string): { code: string; imports: string[] } {
  const imports: string[] = [];
  const body = bundle.replace(
    /^import (?:(\w+)|\{([^}]*)\}) from "(node:\w+)";$/gm,
    (_, whole: string | undefined, names: string | undefined, from: string) => {
      imports.push(from);
      const target = whole === undefined
        ? `{${names?.replaceAll(" as ", ": ")}}`
        : `{ default: ${whole} }`;
      return `const ${target} = imports[${JSON.stringify(from)}];`;
    },
  ).replaceAll("import.meta.url", "here");
  const left = /^(?:import|export)\b.*|import\.meta.*|[^.\w]import\(.*/m.exec(body);
  if (left !== null) {
    throw new Error(`the bundle has '${left[0]}', which was not expected`);
  }
  return { code: `(async (imports, here) => {\n${body}\n})`, imports };
}

/** The main module: runs the script, as V8 has compiled it before if that is given. */
function starter(imports: readonly string[], compiled: boolean): string {
  const names = [...new Set(imports)];
  const lines = names.map((name, i) => `import * as import${i} from "${name}";`);
  const given = names.map((name, i) => `"${name}": import${i}`).join(", ");
  return `import { Script } from "node:vm";
${lines.join("\n")}
const file = (name) => new URL(name, import.meta.url);
const code = Deno.readTextFileSync(file("vuelo.js"));
const options = { filename: "vuelo.js" };
${compiled ? 'options.cachedData = Deno.readFileSync(file("vuelo.code"));' : KEEPER}
const script = new Script(code, options);
await script.runInThisContext()({ ${given} }, import.meta.url);
`;
}

/** In the first run: writes at the end what V8 has compiled, as what user whatever. */
const KEEPER = `const output = Deno.openSync(Deno.env.get("VUELO_CODE"), { write: true });
const { exit } = Deno;
Deno.exit = (status) => {
  const bytes = script.createCachedData();
  for (let at = 0; at < bytes.length;) at += output.writeSync(bytes.subarray(at));
  exit(status);
};`;

/** Files of the build folder are at the root of the executable's own files. */
async function build(starter: string, output: string, ...files: string[]) {
  await Deno.writeTextFile(`${BUILD}/start.js`, starter);
  const options = ["--quiet", "--no-config", "--allow-all", "--no-check", "--bundle"];
  const include = files.flatMap((file) => ["--include", file]);
  const rest = [KEEP_CODE, NO_CACHE, ...include, "--output", output, "start.js"];
  return await deno(BUILD, "compile", ...options, ...rest);
}

/** Has the program start, listen and end; false if it does not. */
async function firstRun(program: string): Promise<boolean> {
  const folder = await Deno.makeTempDir({ prefix: "vuelo-compile-" });
  const path = `${folder}/socket`;
  await Deno.writeFile(`${BUILD}/vuelo.code`, new Uint8Array());
  const child = new Deno.Command(program, {
    args: ["--foreground", "--one-off", "--quiet", "--socket-path", path],
    env: { VUELO_CODE: `${BUILD}/vuelo.code` },
    stdin: "null",
  }).spawn();
  const limit = setTimeout(() => child.kill("SIGKILL"), RUN_LIMIT);
  let over = false;
  const status = child.status.finally(() => over = true);
  try {
    await Deno.chmod(folder, 0o777);
    for (let connected = false; !connected && !over;) {
      connected = await Deno.connect({ transport: "unix", path })
        .then((link) => (link.close(), true), () => false);
      if (!connected) await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return (await status).success;
  } finally {
    clearTimeout(limit);
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Compiles main.ts.
 *
 * @return true if there is an executable now; else Deno has said why not
 */
export async function compile(): Promise<boolean> {
  await Deno.mkdir(BUILD, { recursive: true });
  if (!await bundle("main.ts", "bundle.js")) return false;
  const { code, imports } = asScript(await Deno.readTextFile(`${BUILD}/bundle.js`));
  await Deno.writeTextFile(`${BUILD}/vuelo.js`, code);
  const first = `${BUILD}/first`;
  if (!await build(starter(imports, false), first, "vuelo.js")) return false;
  const ran = await firstRun(first);
  if (!ran) console.error("The program does not run here: it will start slower.");
  const files = ["vuelo.js", "vuelo.code"];
  if (!await build(starter(imports, true), BINARY, ...files)) return false;
  await Deno.remove(BUILD, { recursive: true });
  const { size } = await Deno.stat(BINARY);
  console.log(`dist/vuelo: ${(size / 1e6).toFixed(1)} MB`);
  return true;
}

if (import.meta.main && !await compile()) Deno.exit(1);
