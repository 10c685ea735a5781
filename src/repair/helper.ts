/**
 * `vuelo repair PATH`: the privileged helper. It does nothing but turn repair mode of the
 * TCP sockets that it is handed on or off.
 */
import { Errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import { close, Epoll, EPOLLIN, EPOLLRDHUP } from "../../ffi/event.ts";
import { raiseDescriptorLimit } from "../../ffi/process.ts";
import { connectUnix, receive, send, socketPair } from "../../ffi/unix_socket.ts";
import { SANDBOX_MODES, type SandboxMode } from "../config.ts";
import { StartError, UsageError } from "../errors.ts";
import { closeInherited } from "../host/descriptors.ts";
import { strangerAt } from "../host/socket_access.ts";
import { log } from "../log.ts";
import type { Maker } from "../sandbox/calls.ts";
import { confine, describe } from "../sandbox/confine.ts";
import { Connection, RequestError } from "./connection.ts";
import { FolderHelper } from "./folder.ts";
import { isNarrow, MISSING, narrowToNetAdmin } from "./narrow.ts";
import { newTcpSocket, probeRepair, REPAIR_OFF, REPAIR_ON } from "./switch.ts";

/** How long a service that others wait for, too, is asked again. */
const BUSY_MS = 10_000;
const BUSY_PAUSE_MS = 20;
/** Lines of the log in a second: others decide how often they connect. */
const LOG_RATE = 50;
const WARM_UP_SOCKETS = 32;
const WARM_UP_ROUNDS = 256;

const HELP = `Usage: vuelo repair [--sandbox MODE] PATH

The privileged helper of live migration: turns TCP_REPAIR on and off for the sockets that
a vuelo (or passt) without rights hands it. Start it on both hosts before migrating.

PATH is the service's socket, by default the vhost-user socket's path with .repair:
  connects to it, serves, and ends when the service ends the connection (exit status 0).
PATH is a folder:
  serves every socket in it whose name ends in .repair, those there now and those that
  come; stays when a connection ends or fails, and connects again while there is a socket.

Needs CAP_NET_ADMIN in the user namespace that the network namespace of the connections
belongs to. Gives up everything else at once, and if started as root becomes the user who
owns PATH. --sandbox: default, strict or none, as in vuelo --help.

Exit status: 0 the service ended the connection, 1 failure, 2 wrong usage.

Examples:
  sudo vuelo repair /tmp/vm.sock.repair
  sudo vuelo repair /run/vuelo
`;

/**
 * The subcommand.
 *
 * @returns the exit status
 * @throws {UsageError} for wrong arguments
 * @throws {StartError} if it cannot serve, or no longer
 */
export function repairCommand(args: readonly string[]): number {
  const { path, mode } = readArguments(args);
  if (path === undefined) {
    Deno.stdout.writeSync(new TextEncoder().encode(HELP));
    return 0;
  }
  closeInherited();
  const status = statusOf(path);
  if (!status.isSocket && !status.isDirectory) {
    throw new UsageError(`repair '${path}'`, "expected a socket or a folder");
  }
  narrowToNetAdmin({ uid: status.uid ?? 0, gid: status.gid ?? 0 });
  checkRights();
  raiseDescriptorLimit();
  log.limit(LOG_RATE);
  warmUp();
  if (!status.isDirectory) return serveSocket(path, status.uid ?? 0, mode);
  const helper = new FolderHelper(path, status.uid ?? 0);
  confineTo(["repair", "folder"], mode);
  return helper.run();
}

interface Arguments {
  /** Undefined if help was asked for. */
  readonly path?: string;
  readonly mode: SandboxMode;
}

function readArguments(args: readonly string[]): Arguments {
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const paths = args.slice(end + 1);
  let mode: SandboxMode = "default";
  for (let i = 0; i < end; i++) {
    const arg = args[i];
    if (arg === "--help" || arg === "-h") return { mode };
    if (arg === "--sandbox") mode = readMode(i + 1 < end ? args[++i] : "", arg);
    else if (arg.startsWith("--sandbox=")) mode = readMode(arg.slice(10), "--sandbox");
    else if (!arg.startsWith("-")) paths.push(arg);
    else {
      throw new UsageError(`repair ${arg}`, "unknown option; see vuelo repair --help");
    }
  }
  if (paths.length === 1 && paths[0] !== "") return { path: paths[0], mode };
  throw new UsageError(
    `repair with ${paths.length} arguments`,
    "expected one, the path of a socket or folder; see vuelo repair --help",
  );
}

function readMode(text: string, option: string): SandboxMode {
  const mode = SANDBOX_MODES.find((known) => known === text);
  if (mode !== undefined) return mode;
  const expected = "expected 'strict', 'default' or 'none'";
  throw new UsageError(`repair ${option} '${text}'`, expected);
}

function statusOf(path: string): Deno.FileInfo {
  try {
    return Deno.statSync(path);
  } catch (error) {
    throw new StartError(`${path}: ${(error as Error).message}`);
  }
}

/** Tries what is asked for later, on a socket of its own. */
function checkRights(): void {
  const error = probeRepair();
  if (error === 0) return;
  if (error === Errno.EPERM) throw new StartError(MISSING);
  throw new StartError(`the kernel refuses TCP_REPAIR: ${errnoName(error)}`);
}

/** Serves itself, so that the machine code is there before a guest waits for it. */
function warmUp(): void {
  const [own, other] = socketPair();
  const connection = new Connection(own, "");
  const fds = Array.from({ length: WARM_UP_SOCKETS }, newTcpSocket);
  const byte = new Uint8Array(1);
  for (let i = 0; i < WARM_UP_ROUNDS; i++) {
    byte[0] = i % 2 === 0 ? REPAIR_ON : REPAIR_OFF;
    send(other, byte, fds);
    connection.serve();
    receive(other, byte, []);
  }
  for (const fd of fds) close(fd);
  connection.close();
  close(other);
}

/** Gives up all that serving does not need, before anything is read. */
function confineTo(makers: readonly Maker[], mode: SandboxMode): void {
  const wanted = { mode, makers, sockets: [], capabilities: isNarrow(), repairs: true };
  const inForce = confine(wanted);
  const line = `repair: ${describe(inForce)}`;
  if (inForce.lacking.length === 0) log.info(line);
  else log.warn(line);
}

function serveSocket(path: string, owner: number, mode: SandboxMode): number {
  const fd = connectTo(path);
  const stranger = strangerAt(fd, owner, path);
  if (stranger !== "") throw new StartError(`repair: ${path}: ${stranger}`);
  const connection = new Connection(fd, path);
  const epoll = new Epoll(1);
  confineTo(["repair"], mode);
  log.info(`repair: connected to ${path}`);
  epoll.add(connection.fd, EPOLLIN | EPOLLRDHUP, 0);
  try {
    while (epoll.wait(-1) === 0 || connection.serve());
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    throw new StartError(`repair: ${path}: ${error.message}`);
  } finally {
    connection.close();
    epoll.close();
  }
  log.info(`repair: ${path} ended the connection (${connection.describe()})`);
  return 0;
}

/** Connects, and waits for a service that has too many others waiting. */
function connectTo(path: string): number {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const end = performance.now() + BUSY_MS;
  for (;;) {
    try {
      return connectUnix(path);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      if (error.number !== Errno.EAGAIN || performance.now() > end) {
        throw new StartError(`${path}: ${hint(error.number)}`);
      }
    }
    Atomics.wait(pause, 0, 0, BUSY_PAUSE_MS);
  }
}

/** What an error of connect() means to the operator. */
function hint(number: number): string {
  const name = errnoName(number);
  if (number === Errno.ECONNREFUSED) return `nobody listens there (${name})`;
  if (number === Errno.EACCES) {
    return `only its owner may connect: start vuelo repair as that user or root (${name})`;
  }
  return `cannot connect (${name})`;
}
