/**
 * The way to the background. A process with threads, as Deno's is, cannot fork; instead
 * vuelo starts itself once more in a session of its own and waits until that child
 * either serves or has failed. The child inherits the terminal for its messages until
 * then, and open descriptors (-F) for good.
 *
 * The child's standard output is the channel: one byte means ready.
 */
import { errnoName } from "../../ffi/errno.ts";
import { StartError } from "../errors.ts";
import { prepareToDetach } from "../host/descriptors.ts";
import { log } from "../log.ts";

/** Names the parent, so that a variable left over elsewhere means nothing. */
const MARKER = "VUELO_PARENT";

/** Whether this process is the child that {@link startInBackground} made. */
export function isBackgroundChild(): boolean {
  const parent = Deno.env.get(MARKER);
  Deno.env.delete(MARKER);
  return parent === String(Deno.ppid);
}

/**
 * Starts vuelo with the same arguments as a child in the background.
 *
 * @param keepStdin the child needs standard input, as it is the socket of `-F 0`
 * @return exit status for this process: 0 once the child serves, else the child's
 */
export async function startInBackground(keepStdin: boolean): Promise<number> {
  const args = Deno.build.standalone
    ? Deno.args
    : ["run", "--quiet", "--allow-all", Deno.mainModule, ...Deno.args];
  const child = new Deno.Command(Deno.execPath(), {
    args,
    env: { [MARKER]: String(Deno.pid) },
    stdin: keepStdin ? "inherit" : "null",
    stdout: "piped",
    stderr: "inherit",
    detached: true,
  }).spawn();
  const reader = child.stdout.getReader();
  const { done } = await reader.read();
  if (!done) return 0;
  const { code } = await child.status;
  // A child that ends well without having been ready never served.
  return code === 0 ? 1 : code;
}

/**
 * Opens all that is needed to leave the terminal.
 *
 * @param streams what connects the process to its terminal
 * @returns what tells the parent that the service runs, and leaves the terminal; it throws
 *   {@link StartError} if the parent is gone, which means that the start was given up
 */
export function prepareToReport(streams: readonly number[]): () => void {
  const detach = prepareToDetach(streams);
  log.prepareToLeaveTerminal();
  return () => {
    try {
      Deno.stdout.writeSync(new Uint8Array([0x0a]));
    } catch {
      throw new StartError("the start was interrupted");
    }
    log.leaveTerminal();
    const error = detach();
    if (error === 0) return;
    log.warn(`the terminal, or who waits for its end, stays (${errnoName(error)})`);
  };
}
