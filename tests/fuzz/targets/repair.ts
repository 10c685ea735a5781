/**
 * Both sides of the repair protocol: the helper (src/repair/connection.ts) with a service
 * that sends anything, the service (src/repair/remote.ts) with a helper that answers
 * anything. Who says that sockets were switched has switched all of them; nobody loses one.
 */
import { Connection, RequestError } from "../../../src/repair/connection.ts";
import { RemoteHelper } from "../../../src/repair/remote.ts";
import { Script, type Target } from "../engine/target.ts";
import { host } from "../host/install.ts";
import type { Datagram, HostSocket } from "../host/made_up.ts";

const MAX_STEPS = 40;
const NONE = new Uint8Array(0);
const COMMANDS = [1, 0, 255, 1, 0, 2, 128];
const ERRORS = [1, 12, 92, 4, 11, 32, 104, 24];
const CALLS = ["setsockopt", "recvmsg", "sendmsg", "socket"];
/** Enough for every answer: what is missing is told by the end of the connection. */
const TIMEOUT_MS = 60_000;

/** A UNIX socket whose other end is `told` what is sent. */
function unixSocket(told: HostSocket["told"]): HostSocket {
  const socket = host.open(true, true);
  socket.told = told;
  return socket;
}

/** A message with sockets, of which some are no TCP. */
function message(script: Script, sockets: readonly HostSocket[]): Datagram {
  const command = COMMANDS[script.below(COMMANDS.length)];
  const fds = sockets.map(({ fd }) => fd);
  return { ...plain(Uint8Array.of(command)), fds };
}

function plain(bytes: Uint8Array): Datagram {
  return { start: bytes, length: bytes.length, name: NONE, control: NONE };
}

function failure(script: Script): void {
  host.fail(CALLS[script.below(CALLS.length)], ERRORS[script.below(ERRORS.length)]);
}

function makeSockets(script: Script): HostSocket[] {
  const count = script.u8() & 128 ? script.u8() % 254 : script.below(5);
  const other = script.u8();
  return Array.from({ length: count }, (_, i) => {
    const socket = host.open(other !== i + 1, true);
    socket.repair = script.u8() & 64 ? 1 : 0;
    return socket;
  });
}

/** A service asks for anything. */
function asked(script: Script): void {
  const answers: number[] = [];
  const socket = unixSocket((bytes) => (answers.push(...bytes), 0));
  const connection = new Connection(socket.fd, "/service");
  try {
    for (let i = 0; i < MAX_STEPS && script.left > 0; i++) {
      const kind = script.u8();
      if (kind & 1) failure(script);
      const sockets = makeSockets(script);
      const before = sockets.map(({ repair }) => repair);
      const request = message(script, sockets);
      socket.datagrams.push(request);
      answers.length = 0;
      try {
        if (!connection.serve()) return;
      } catch (error) {
        if (!(error instanceof RequestError)) throw error;
        const silent = error.message.startsWith("cannot answer");
        if (!silent && sockets.some(({ repair }, i) => repair !== before[i])) {
          throw new Error("refused, but some are switched");
        }
        return;
      }
      if (answers.length === 0) {
        // It never came.
        socket.datagrams.splice(0).forEach(closeAll);
        continue;
      }
      if (answers.length !== 1 || answers[0] !== request.start[0]) {
        throw new Error(`answered ${answers}`);
      }
      const mode = request.start[0] === 1 ? 1 : 0;
      if (sockets.length === 0 || sockets.some(({ repair }) => repair !== mode)) {
        throw new Error("answered, but not switched");
      }
    }
  } finally {
    connection.close();
    // What was never received is not the helper's.
    socket.datagrams.forEach(closeAll);
  }
}

/** Closes what came with a message that nobody received. */
function closeAll({ fds = [] }: Datagram): void {
  for (const fd of fds) host.sockets.delete(fd);
}

/** A helper answers anything. */
function answered(script: Script): void {
  const sockets = makeSockets(script);
  const on = (script.u8() & 1) === 0;
  const late: Datagram[] = [];
  const socket: HostSocket = unixSocket((bytes, fds) => {
    if (bytes.length !== 1 || fds.length < 1 || fds.length > 253) {
      throw new Error(`${bytes.length} bytes with ${fds.length} sockets`);
    }
    const kind = script.u8();
    const done = kind < 128 ? fds.length : script.u8() % (fds.length + 1);
    for (const fd of fds.slice(0, done)) host.sockets.get(fd)!.repair = bytes[0];
    late.push(kind < 224 ? plain(bytes) : message(script, makeSockets(script)));
    if ((kind & 1) === 0) socket.datagrams.push(...late.splice(0));
    return (kind & 0x7e) === 0x7e ? ERRORS[script.below(ERRORS.length)] : 0;
  });
  // What has not come by the time that it is waited for does not come any more.
  socket.fin = true;
  const helper = new RemoteHelper(socket.fd);
  try {
    const kind = script.u8();
    if (kind & 1) failure(script);
    if (kind & 2) socket.datagrams.push(message(script, makeSockets(script)));
    if (kind & 4) helper.unasked();
    if (kind & 8) socket.datagrams.push(message(script, makeSockets(script)));
    const fds = sockets.map(({ fd }) => fd);
    const failed = helper.switchSockets(fds, on, TIMEOUT_MS);
    if (failed === undefined && sockets.some(({ repair }) => repair !== (on ? 1 : 0))) {
      throw new Error("all is well, but some are not switched");
    }
    if (failed !== undefined && (failed.what === "" || failed.error === 0)) {
      throw new Error("it fails without a word");
    }
  } finally {
    [...socket.datagrams, ...late].forEach(closeAll);
    helper.close();
    for (const { fd } of sockets) host.sockets.delete(fd);
  }
}

function run(input: Uint8Array<ArrayBuffer>): void {
  const script = new Script(input);
  host.reset();
  host.active = true;
  try {
    if (script.u8() & 1) asked(script);
    else answered(script);
    if (host.sockets.size > 0) throw new Error("a descriptor is lost");
  } finally {
    host.active = false;
  }
}

const target: Target = {
  maxLength: 400,
  seeds: [
    [
      1,
      0,
      2,
      0,
      0,
      0,
      0,
      1,
      0,
      0,
      0,
      2,
      0,
      0,
      0,
      1,
      1,
      0,
      0,
      0,
      3,
      1,
      64,
      64,
      64,
      2,
      1,
      0,
    ],
    [1, 0, 4, 3, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0],
    [1, 0, 128, 253, 0, 0, 1, 3, 0, 5, 1],
    [0, 3, 0, 0, 0, 0, 0, 0, 1],
    [0, 3, 0, 0, 0, 0, 1, 2, 2, 1, 0, 0, 1, 0, 1, 1, 1],
    [0, 128, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 3, 1, 1, 1, 1],
  ].map((bytes) => Uint8Array.from(bytes)),
  run,
};
export default target;
