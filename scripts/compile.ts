/**
 * Makes the executable dist/vuelo, and says how large it is. `DENORT_BIN` may name the
 * runtime to put into it, as `deno compile` has it; without, Deno downloads its own.
 */
const ROOT = new URL("..", import.meta.url).pathname;

/** Code that ran once stays compiled, however long ago: a migration cannot wait. */
const KEEP_CODE = "--v8-flags=--no-flush-bytecode";

/**
 * The runtime would keep compiled code in /tmp under a name that anybody can guess, and run
 * what it finds there: whoever made that file first would have his code run by root.
 */
const NO_CACHE = "--no-code-cache";

/** Where the executable goes. */
export const BINARY: string = `${ROOT}dist/vuelo`;

/**
 * Compiles main.ts.
 *
 * @return true if there is an executable now; else Deno has said why not
 */
export async function compile(): Promise<boolean> {
  await Deno.mkdir(`${ROOT}dist`, { recursive: true });
  // One bundle instead of many modules starts 12 ms sooner, and leaves out what only the
  // tests import.
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["compile", "--quiet", "--allow-all", "--no-check", "--bundle"]
      .concat(KEEP_CODE, NO_CACHE, "--output", BINARY, "main.ts"),
    cwd: ROOT,
    stdin: "null",
  }).spawn().status;
  if (!success) return false;
  const { size } = await Deno.stat(BINARY);
  console.log(`dist/vuelo: ${(size / 1e6).toFixed(1)} MB`);
  return true;
}

if (import.meta.main && !await compile()) Deno.exit(1);
