/** Runs the back-end as an ordinary user, who cannot read root's files. */
import { backendCommand, type BackendOptions } from "./lab_backend.ts";
import { vuelo } from "./cli.ts";
import { run } from "./lab_process.ts";
import { reentered } from "./lab_userns.ts";

const UID = 54321;

/** A user's copies of what the back-end consists of, removed with dispose. */
export interface OrdinaryUser extends AsyncDisposable {
  readonly backend: BackendOptions;
}

async function copyTree(from: string, to: string): Promise<void> {
  await run(["cp", "-rL", "--reflink=auto", from, to]);
}

/**
 * How to start the back-end as a user with no rights. Who runs the tests as one, or inside
 * a user namespace, has none to begin with.
 */
export async function ordinaryUser(): Promise<OrdinaryUser> {
  if (Deno.uid() !== 0 || reentered()) {
    return { backend: {}, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const folder = await Deno.makeTempDir({ prefix: "vuelo-user-" });
  const dispose = () => Deno.remove(folder, { recursive: true });
  try {
    const [program, ...rest] = backendCommand();
    await copyTree(program, `${folder}/program`);
    const env: Record<string, string> = { HOME: folder };
    if (program === Deno.execPath()) {
      const info = await run([Deno.execPath(), "info", "--json"]);
      await Deno.mkdir(`${folder}/deno`);
      const modules = JSON.parse(info).npmCache as string;
      await copyTree(modules, `${folder}/deno/npm`);
      env.DENO_DIR = `${folder}/deno`;
    }
    await run(["chown", "-R", `${UID}:${UID}`, folder]);
    return {
      backend: { uid: UID, command: [`${folder}/program`, ...rest], cwd: folder, env },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** The command line with which that user starts vuelo; `user.backend` goes with it. */
export function vueloOf(user: OrdinaryUser, args: readonly string[]): string[] {
  const [program, all] = vuelo(args);
  const own = user.backend.command?.[0];
  if (own === undefined) return [program, ...all];
  // The sources are read by the user's copy of Deno; the executable is a copy itself.
  const [run, , ...rest] = all;
  return Deno.env.has("VUELO_BIN") ? [own, ...all] : [own, run, ...rest];
}
