/** For ordinary users: a user namespace in which the lab may make network namespaces. */
import { program } from "../../scripts/lab/packages.ts";

const MARK = "VUELO_LAB_NAMESPACE";

/** What the lab may do here. */
export type Rights = "root" | "namespace" | "none";

/** Runs `argv` as root of new user, network and mount namespaces, with a /run of its own. */
function inNamespace(argv: readonly string[]): string[] {
  const script = 'mount -t tmpfs tmpfs /run && exec "$@"';
  return ["unshare", "-Urnm", "--", "sh", "-c", script, "sh", ...argv];
}

/**
 * What the lab may do: as root (of the machine, or inside a namespace made by
 * `reenter()`) everything; else namespaces of its own, where the machine lets users make
 * them.
 */
export async function rights(): Promise<Rights> {
  if (Deno.uid() === 0) return "root";
  const ip = await program("ip");
  const probe = inNamespace([ip.path, ...ip.args, "netns", "add", "probe"]);
  const [command, ...args] = probe;
  const options = { args, stdout: "null", stderr: "null", stdin: "null" } as const;
  const result = await new Deno.Command(command, options).output().catch(() => null);
  return result?.success ? "namespace" : "none";
}

/** Runs this program again, with the same arguments, inside namespaces; its exit status. */
export async function reenter(
  script: string,
  scriptArgs: readonly string[],
): Promise<number> {
  const again = [Deno.execPath(), "run", "--allow-all", script, ...scriptArgs];
  const [command, ...args] = inNamespace(again);
  const child = new Deno.Command(command, { args, env: { [MARK]: "1" } }).spawn();
  // The terminal's Ctrl-C reaches the child too, which cleans up; wait for it.
  Deno.addSignalListener("SIGINT", () => {});
  return (await child.status).code;
}

/** Whether this process runs inside namespaces made by `reenter()`. */
export function reentered(): boolean {
  return Deno.env.get(MARK) !== undefined;
}
