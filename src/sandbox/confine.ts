/**
 * What the process takes from itself for good, once all that it needs is open and before
 * it reads anything of a guest, a frontend or the network. Its user and its capabilities
 * have changed by then (see host/privileges.ts).
 */
import { errnoName } from "../../ffi/errno.ts";
import { forbidDumps, forbidFiles } from "../../ffi/confinement.ts";
import { landlockVersion } from "../../ffi/landlock.ts";
import { hasSeccomp, installFilter } from "../../ffi/seccomp.ts";
import type { SandboxMode } from "../config.ts";
import { StartError } from "../errors.ts";
import type { Maker } from "./calls.ts";
import { isKnown, makeProgram } from "./program.ts";

/** What is asked for. */
export interface Wanted {
  readonly mode: SandboxMode;
  /** Who makes system calls. */
  readonly makers: readonly Maker[];
  /** Paths of sockets, which are to be removed at the end. */
  readonly sockets: readonly string[];
  /** Whether capabilities are dropped on every thread. */
  readonly capabilities: boolean;
  /** Whether the main thread keeps CAP_NET_ADMIN, to repair connections itself. */
  readonly repairs: boolean;
}

/** What is in force, and what is not; each a few words for the log. */
export interface InForce {
  readonly layers: readonly string[];
  readonly lacking: readonly string[];
}

/** A layer that is in force, or why it is not. */
type Layer = { readonly has: string } | { readonly lacks: string };

function folderOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash === -1 ? "." : path.slice(0, slash + 1);
}

function capabilities(everyThread: boolean, repairs: boolean): Layer {
  return everyThread
    ? { has: `no capabilities${repairs ? " but CAP_NET_ADMIN" : ""}` }
    : { lacks: "idle threads keep the capabilities that vuelo was started with" };
}

function memory(): Layer {
  const error = forbidDumps();
  return error === 0
    ? { has: "no core dumps, no tracing" }
    : { lacks: `memory may be dumped (${errnoName(error)})` };
}

function files(sockets: readonly string[]): Layer {
  const version = landlockVersion();
  if (version === 0) return { lacks: "no Landlock: the kernel has none" };
  const { error, everyThread } = forbidFiles(version, sockets.map(folderOf));
  if (error !== 0) return { lacks: `no Landlock (${errnoName(error)})` };
  // Threads of the runtime that were there before open no file either, for want of calls.
  return { has: `Landlock ${version}${everyThread ? "" : " for new threads"}` };
}

function calls(makers: readonly Maker[]): Layer {
  if (!isKnown(Deno.build.arch)) {
    return { lacks: `no seccomp: not on this architecture (${Deno.build.arch})` };
  }
  if (!hasSeccomp()) return { lacks: "no seccomp: the kernel has none" };
  const error = installFilter(makeProgram(makers, Deno.pid));
  return error === 0 ? { has: "seccomp" } : { lacks: `no seccomp (${errnoName(error)})` };
}

/**
 * Confines the process as far as the kernel can.
 *
 * @throws {StartError} with `strict`, if anything is lacking
 */
export function confine(wanted: Wanted): InForce {
  const { mode, makers, sockets } = wanted;
  const all: Layer[] = [capabilities(wanted.capabilities, wanted.repairs)];
  if (mode !== "none") {
    // Calls last: what comes before them would be refused.
    all.push(memory(), files(sockets), calls(makers));
  } else all.push({ lacks: "--sandbox none" });
  const layers = all.flatMap((layer) => "has" in layer ? [layer.has] : []);
  const lacking = all.flatMap((layer) => "lacks" in layer ? [layer.lacks] : []);
  if (mode === "strict" && lacking.length > 0) {
    throw new StartError(
      `--sandbox strict: ${lacking.join("; ")}: --sandbox default starts all the same`,
    );
  }
  return { layers, lacking };
}

/** For the log, in one line. */
export function describe({ layers, lacking }: InForce): string {
  const missing = lacking.length > 0 ? `; lacking: ${lacking.join("; ")}` : "";
  return `Sandbox: ${layers.join(", ") || "none"}${missing}`;
}
