/** TCP connections of this process with itself, as if they were a guest's. */
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
import { parseAddress } from "../wire/address.ts";

const LOOPBACK = parseAddress("127.0.0.1") as Uint8Array;

/**
 * Opens `count` connections with flows of their own, fewer if not as many can be had.
 *
 * @returns the peers' sockets, the caller's
 */
export function connectToSelf(path: DataPath, count: number): number[] {
  const peers: number[] = [];
  if (count === 0) return peers;
  const listener = openSocket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  const ready = listener !== -1 && bindSocket(listener, LOOPBACK, 0, 0) === 0 &&
    listenSocket(listener, count) === 0 && localAddress(listener);
  const { port } = lastAddress;
  for (let i = 0; ready && i < count; i++) {
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
