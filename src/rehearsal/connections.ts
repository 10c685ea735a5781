/** TCP connections of this process with itself, as if they were a guest's. */
import { writeSome } from "../../ffi/pipe.ts";
import {
  acceptSocket,
  AF_INET,
  AF_INET6,
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
import { LOOPBACK4, LOOPBACK6 } from "../flow/address_map.ts";
import { eventData, EventKind } from "../flow/context.ts";
import type { DataPath } from "../flow/datapath.ts";
import { FLOW_SIZE, FLOW_WORDS, FlowKind, FlowWord, Side } from "../flow/table.ts";
import { TCP_EVENTS } from "../flow/tcp/acknowledge.ts";
import { TcpState, TcpWord } from "../flow/tcp/layout.ts";

/** Of so many connections, one has data that the guest, whose window is closed, lacks. */
const WITH_DATA = 4;
const DATA: Uint8Array<ArrayBuffer> = new Uint8Array(100);

/**
 * Opens `count` connections with flows of their own, fewer if not as many can be had: a
 * quarter of them over IPv6, where the guest has that.
 *
 * @returns the peers' sockets, the caller's
 */
export function connectToSelf(path: DataPath, count: number): number[] {
  if (count === 0) return [];
  const six = path.config.ip6 === undefined ? 0 : count >> 2;
  return [...connect(path, LOOPBACK4, count - six), ...connect(path, LOOPBACK6, six)];
}

function connect(path: DataPath, address: Uint8Array, count: number): number[] {
  const peers: number[] = [];
  const family = address === LOOPBACK4 ? AF_INET : AF_INET6;
  const listener = openSocket(family, SOCK_STREAM, IPPROTO_TCP);
  const ready = listener !== -1 && bindSocket(listener, address, 0, 0) === 0 &&
    listenSocket(listener, count) === 0 && localAddress(listener);
  const { port } = lastAddress;
  for (let i = 0; ready && i < count; i++) {
    const peer = openSocket(family, SOCK_STREAM, IPPROTO_TCP);
    if (peer === -1) break;
    peers.push(peer);
    connectSocket(peer, address, 0, port);
    const fd = acceptSocket(listener);
    if (fd === -1) break;
    if (!openFlow(path, address, fd, lastAddress.port, i + 1)) closeFd(fd);
    else if (i % WITH_DATA === 0) writeSome(peer, DATA);
  }
  if (listener !== -1) closeFd(listener);
  return peers;
}

function openFlow(
  path: DataPath,
  address: Uint8Array,
  fd: number,
  port: number,
  guestPort: number,
): boolean {
  const { table, epoll } = path;
  const flow = table.allocate(FlowKind.tcp);
  if (flow < 0) return false;
  const data = eventData(EventKind.tcp, flow);
  if (!epoll.tryAdd(fd, TCP_EVENTS, data, table.generation(flow))) {
    table.release(flow);
    return false;
  }
  const { words, bytes } = table;
  const at = flow * FLOW_WORDS;
  for (const word of [FlowWord.guestOur, FlowWord.guestEndpoint, FlowWord.hostEndpoint]) {
    bytes.set(address, flow * FLOW_SIZE + word * 4);
  }
  words[at] |= TcpState.established << 8;
  words[at + FlowWord.guestPorts] = (port << 16) | guestPort;
  words[at + FlowWord.hostPorts] = port;
  words[at + FlowWord.fd] = fd;
  words[at + TcpWord.mss] = 1460;
  table.insert(flow, Side.guest);
  return true;
}
