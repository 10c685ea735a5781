/**
 * A move that is rehearsed while there is time: while a guest is moved its connections
 * stand still, and code that runs for the first time, which the engine compiles only
 * then, would make them stand for ten times as long. Connections of the process with
 * itself are frozen, saved, written, read, restored and thawed a few times, before there
 * is any of a guest.
 */
import { close, EPOLLET, EPOLLIN, EPOLLOUT } from "../../ffi/event.ts";
import { createPipe } from "../../ffi/pipe.ts";
import {
  acceptSocket,
  AF_INET,
  bindSocket,
  closeFd,
  connectSocket,
  IPPROTO_TCP,
  lastAddress,
  listenSocket,
  localAddress,
  openSocket,
  SOCK_STREAM,
} from "../../ffi/socket.ts";
import { eventData, EventKind } from "../flow/context.ts";
import type { DataPath } from "../flow/datapath.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, Side } from "../flow/table.ts";
import { TcpState, TcpWord } from "../flow/tcp/layout.ts";
import { log } from "../log.ts";
import type { RepairSwitch } from "../repair/switch.ts";
import { parseAddress } from "../wire/address.ts";
import { type SessionLog, TransferDirection } from "../vhost_user/backend.ts";
import type { MovedDevice, MovedState } from "../wire/state/model.ts";
import { collect, takeEntries } from "./collect.ts";
import { Migration } from "./migration.ts";
import type { Movable } from "./movable.ts";

const LOOPBACK = parseAddress("127.0.0.1") as Uint8Array;
const CONNECTIONS = 32;
const ROUNDS = 8;
/** More than it takes to move the state through the smallest pipe. */
const TURNS = 100;

/**
 * Rehearses a move of TCP connections; does nothing while there are flows.
 *
 * @param device as it would be sent
 */
export function rehearse(
  path: DataPath,
  repair: RepairSwitch,
  device: MovedDevice,
): void {
  if (path.table.count > 0) return;
  const start = performance.now();
  let last = start;
  for (let round = 0; round < ROUNDS; round++) {
    last = performance.now();
    if (!moveOnce(path, repair, device)) return;
  }
  const now = performance.now();
  log.debug(
    `a move of ${CONNECTIONS} connections was rehearsed: ${
      (now - start).toFixed(1)
    } ms ` +
      `in all, ${(now - last).toFixed(1)} ms for the last of ${ROUNDS}`,
  );
}

/** The connections of a rehearsal, as a migration moves them. */
class Rehearsed implements Movable {
  constructor(
    private readonly path: DataPath,
    private readonly repair: RepairSwitch,
    private readonly device: MovedDevice,
  ) {}

  freeze(): number {
    return this.path.tcp.freeze(this.repair);
  }
  save(): MovedState {
    return { device: this.device, ...collect(this.path), rules: [] };
  }
  restore({ entries, tcp }: MovedState): number {
    const flows = takeEntries(this.path, entries);
    return this.path.tcp.restore(tcp, flows, this.repair, { loopback: true });
  }
  thaw(): number {
    return this.path.tcp.thaw(this.repair);
  }
  catchLate(): boolean {
    return false;
  }
  discard(): void {
    this.path.tcp.discard();
  }
  reset(): void {
    this.discard();
  }
}

const SILENT: SessionLog = { warn() {}, info() {}, debug() {} };

/** Moves connections through a pipe; false if that cannot be done. */
function moveOnce(path: DataPath, repair: RepairSwitch, device: MovedDevice): boolean {
  const peers = connect(path);
  const guest = new Rehearsed(path, repair, device);
  const data = eventData(EventKind.control, 0);
  const source = new Migration(guest, "vuelo", path.epoll, data, SILENT);
  const target = new Migration(guest, "vuelo", path.epoll, data, SILENT);
  try {
    const [reading, writing] = createPipe();
    const { save, load } = TransferDirection;
    if (!source.begin(save, 0, writing, true).accepted) close(writing);
    if (!target.begin(load, 0, reading, true).accepted) close(reading);
    for (let i = 0; i < TURNS && !source.ended; i++) {
      source.onEvent(EPOLLOUT);
      if (!source.ended) target.onEvent(EPOLLIN);
    }
    if (peers.length === 0 || !source.ended || source.check() !== 0) return false;
    source.gone();
    for (let i = 0; i < TURNS && !target.ended; i++) target.onEvent(EPOLLIN);
    if (!target.ended || target.check() !== 0) return false;
    target.ringsRun();
    return true;
  } finally {
    source.gone();
    target.gone();
    path.dropAll();
    for (const fd of peers) closeFd(fd);
  }
}

/** Opens connections with flows of their own; returns the peers' sockets. */
function connect(path: DataPath): number[] {
  const listener = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  const peers: number[] = [];
  const ready = listener !== -1 && bindSocket(listener, LOOPBACK, 0, 0) === 0 &&
    listenSocket(listener, CONNECTIONS) === 0 && localAddress(listener);
  const { port } = lastAddress;
  for (let i = 0; ready && i < CONNECTIONS; i++) {
    const peer = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
    if (peer === -1) break;
    peers.push(peer);
    connectSocket(peer, LOOPBACK, 0, port);
    const fd = acceptSocket(listener);
    if (fd === -1) break;
    if (!openFlow(path, fd, lastAddress.port, i + 1)) closeFd(fd);
  }
  if (listener !== -1) closeFd(listener);
  return peers;
}

function openFlow(path: DataPath, fd: number, port: number, guestPort: number): boolean {
  const { table, epoll } = path;
  const flow = table.allocate(FlowKind.tcp);
  if (flow < 0) return false;
  const { words, bytes } = table;
  const at = flow * FLOW_WORDS;
  for (const word of [FlowWord.guestOur, FlowWord.guestEndpoint, FlowWord.hostEndpoint]) {
    bytes.set(LOOPBACK, flow * FLOW_SIZE + word * 4);
  }
  words[at] |= TcpState.established << 8;
  words[at + FlowWord.guestPorts] = (port << 16) | guestPort;
  words[at + FlowWord.hostPorts] = port;
  words[at + FlowWord.fd] = fd;
  words[at + TcpWord.mss] = 1460;
  table.insert(flow, Side.guest);
  epoll.add(fd, EPOLLET, eventData(EventKind.tcp, flow), table.generation(flow));
  return true;
}
