/** For ordinary users: a user namespace in which the lab may make network namespaces. */
import { program } from "../../scripts/lab/packages.ts";

const MARK = "VUELO_LAB_NAMESPACE";

/** What the lab may do here. */
export type Rights = "root" | "namespace" | "none";

/** A command line and what its environment needs besides. */
export interface Isolated {
  readonly argv: string[];
  readonly env: Readonly<Record<string, string>>;
}

/**
 * Has `argv` run as root of new user, network and mount namespaces, with a /run of its
 * own. They have no network but loopback and what `argv` makes.
 */
export async function isolated(argv: readonly string[]): Promise<Isolated> {
  const ip = await program("ip");
  const quoted = [ip.path, ...ip.args].map((word) =>
    `'${word.replaceAll("'", "'\\''")}'`
  );
  const loopback = `${quoted.join(" ")} link set lo up`;
  const script = `mount -t tmpfs tmpfs /run && ${loopback} && exec "$@"`;
  return {
    argv: ["unshare", "-Urnm", "--", "sh", "-c", script, "sh", ...argv],
    env: { [MARK]: "1" },
  };
}

/** Whether `argv` succeeds, and what it says if not. */
async function attempt(
  argv: readonly string[],
): Promise<{ success: boolean; said: string }> {
  const [command, ...args] = argv;
  try {
    const output = await new Deno.Command(command, { args, stdin: "null" }).output();
    const said = new TextDecoder().decode(output.stderr).trim();
    return { success: output.success, said };
  } catch (error) {
    return { success: false, said: (error as Error).message };
  }
}

async function tryIsolated(): Promise<{ success: boolean; said: string }> {
  const ip = await program("ip");
  const probe = await isolated([ip.path, ...ip.args, "netns", "add", "probe"]);
  return await attempt(probe.argv);
}

/**
 * What the lab may do: as root (of the machine, or inside a namespace made by
 * `reenter()`) everything; else namespaces of its own, where the machine lets users make
 * them. Root of a container may lack that right as well.
 */
export async function rights(): Promise<Rights> {
  if (Deno.uid() === 0) {
    if ((await attempt(["unshare", "-nm", "true"])).success) return "root";
  }
  return (await tryIsolated()).success ? "namespace" : "none";
}

/** Settings of kernels that keep users from making namespaces, with the value that does. */
const SETTINGS: readonly [path: string, value: string, remedy: string][] = [
  ["kernel/unprivileged_userns_clone", "0", "1"],
  ["user/max_user_namespaces", "0", "10000"],
  ["kernel/apparmor_restrict_unprivileged_userns", "1", "0"],
];

/** Why rights() are "none", and what gives them, on one line. */
export async function missingRights(): Promise<string> {
  const { said } = await tryIsolated();
  const remedies = SETTINGS.filter(([path, value]) => {
    try {
      return Deno.readTextFileSync(`/proc/sys/${path}`).trim() === value;
    } catch {
      return false; // not a setting of this kernel
    }
  }).map(([path, , remedy]) => `sysctl ${path.replaceAll("/", ".")}=${remedy}`);
  return "network namespaces are needed: run as root of the machine, or let users make " +
    `user namespaces${remedies.length > 0 ? ` (${remedies.join(", ")})` : ""}: ${said}`;
}

/** Runs this program again, with the same arguments, inside namespaces; its exit status. */
export async function reenter(
  script: string,
  scriptArgs: readonly string[],
): Promise<number> {
  const { argv, env } = await isolated([
    Deno.execPath(),
    "run",
    "--allow-all",
    script,
    ...scriptArgs,
  ]);
  const child = new Deno.Command(argv[0], { args: argv.slice(1), env }).spawn();
  // The terminal's Ctrl-C reaches the child too, which cleans up; wait for it.
  Deno.addSignalListener("SIGINT", () => {});
  return (await child.status).code;
}

/** Whether this process runs inside namespaces made by `isolated()`. */
export function reentered(): boolean {
  return Deno.env.get(MARK) !== undefined;
}
