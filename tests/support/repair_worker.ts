/**
 * A helper that behaves as a test wants it, in a thread of its own, since the service's
 * side waits for it without letting anything else run.
 */
import { close } from "../../ffi/event.ts";
import {
  awaitInput,
  connectUnix,
  isHungUp,
  receive,
  send,
} from "../../ffi/unix_socket.ts";
import { REPAIR_ON, type RepairMode, switchAll } from "../../src/repair/switch.ts";

/**
 * What it does with a message: switch all its sockets or only the first few and answer,
 * answer and do nothing, answer something else, answer twice and do nothing, answer with
 * descriptors, say nothing, hang up, or switch only when the service has hung up.
 */
export type Behaviour =
  | "switch"
  | { readonly first: number }
  | { readonly growth: true }
  | "lie"
  | "wrong"
  | "twice"
  | "descriptors"
  | "silent"
  | "hang up"
  | "late";

/** What it is told. */
export interface Orders {
  readonly path: string;
  /** One per message, the last for all that follow. */
  readonly behaviours: readonly Behaviour[];
  /** Sends a byte at once. */
  readonly unasked?: boolean;
}

/** What it did, message by message. */
export interface Report {
  /** Descriptors of each message. */
  readonly batches: readonly number[];
  readonly commands: readonly number[];
}

const LIMIT_MS = 60_000;
const MAX_FDS = 254;

// deno-lint-ignore no-explicit-any -- the worker's global scope is not typed in this project
const scope = globalThis as any;

scope.onmessage = ({ data }: MessageEvent<Orders>) => {
  const report = play(data);
  scope.postMessage(report);
};

function play({ path, behaviours, unasked }: Orders): Report {
  const batches: number[] = [];
  const commands: number[] = [];
  const fd = connectUnix(path);
  if (unasked) send(fd, new Uint8Array([1]));
  const byte = new Uint8Array(1);
  while (awaitInput(fd, LIMIT_MS)) {
    const fds: number[] = [];
    if (receive(fd, byte, fds, MAX_FDS) !== 1) break;
    const behaviour = behaviours[Math.min(batches.length, behaviours.length - 1)];
    batches.push(fds.length);
    commands.push(byte[0] << 24 >> 24);
    while (behaviour === "late" && !isHungUp(fd)) awaitInput(fd, LIMIT_MS);
    const answer = react(behaviour, byte[0] << 24 >> 24 as RepairMode, fds, batches);
    for (const received of fds) close(received);
    if (answer === undefined) break;
    const sent = behaviour === "descriptors" ? [fd] : [];
    if (answer.length > 0) send(fd, new Uint8Array(answer), sent);
  }
  close(fd);
  return { batches, commands };
}

/** Bytes to answer; undefined to hang up. */
function react(
  behaviour: Behaviour,
  mode: RepairMode,
  fds: readonly number[],
  batches: readonly number[],
): number[] | undefined {
  const byte = mode & 0xff;
  if (typeof behaviour === "object") {
    const count = "first" in behaviour ? behaviour.first : Math.min(...batches);
    switchAll(fds.slice(0, count), mode);
    return [byte];
  }
  switch (behaviour) {
    case "switch":
      switchAll(fds, mode);
      return [byte];
    case "lie":
    case "descriptors":
      return [byte];
    case "wrong":
      return [mode === REPAIR_ON ? 0 : 1];
    case "twice":
      return [byte, byte];
    case "silent":
      return [];
    case "hang up":
      return undefined;
    case "late":
      switchAll(fds, mode);
      return [];
  }
}
