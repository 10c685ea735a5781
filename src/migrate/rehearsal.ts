/**
 * A move that is rehearsed while there is time: while a guest is moved its connections
 * stand still, and code that runs for the first time, which the engine compiles only
 * then, would make them stand for ten times as long. Connections of the process with
 * itself are frozen, saved, written, read, restored and thawed a few times, before there
 * is any of a guest.
 */
import { EPOLLET } from "../../ffi/event.ts";
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
import { decode, encodeVuelo } from "../wire/state/decode.ts";
import type { MovedDevice } from "../wire/state/model.ts";
import { collect, join, takeEntries } from "./collect.ts";

const LOOPBACK = parseAddress("127.0.0.1") as Uint8Array;
const CONNECTIONS = 32;
const ROUNDS = 6;

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

function moveOnce(path: DataPath, repair: RepairSwitch, device: MovedDevice): boolean {
  const peers = connect(path);
  const options = { loopback: true };
  try {
    if (peers.length === 0 || path.tcp.freeze(repair) !== 0) return false;
    const { entries, tcp } = collect(path);
    const chunks = encodeVuelo({ device, entries, tcp, udp: [], ping: [], rules: [] });
    path.tcp.discard();
    const { state } = decode(join(chunks));
    if (state === undefined) return false;
    const flows = takeEntries(path, state.entries);
    if (path.tcp.restore(state.tcp, flows, repair, options) !== 0) return false;
    return path.tcp.thaw(repair) === 0;
  } finally {
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
