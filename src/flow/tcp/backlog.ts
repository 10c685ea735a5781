/**
 * Bytes of the guest that were acknowledged to it and that the socket of its moved
 * connection has no room for: they wait here, and what the guest sends next waits for
 * them.
 */
import { Errno, errno } from "../../../ffi/errno.ts";
import {
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  SHUT_WR,
  shutdownSocket,
} from "../../../ffi/socket.ts";
import { sendBytes } from "../../../ffi/tcp_repair.ts";
import { FLOW_WORDS, FlowWord } from "../table.ts";
import { TcpFlow } from "./layout.ts";
import type { TcpShared } from "./shared.ts";

/** Gives the socket what it takes of the backlog, and the guest's FIN after the last. */
export function drainBacklog(t: TcpShared, flow: number): void {
  const backlog = t.backlogs.get(flow);
  if (backlog === undefined) return;
  const fd = t.words[flow * FLOW_WORDS + FlowWord.fd];
  while (backlog.bytes.length > 0) {
    const sent = sendBytes(fd, backlog.bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      const number = errno();
      if (number === Errno.EAGAIN || number === Errno.ENOBUFS) return;
      if (t.isSwitchedLate(flow)) return;
      t.letGo(flow);
      t.mark(flow, TcpFlow.failed | TcpFlow.readable);
      return;
    }
    backlog.bytes = backlog.bytes.subarray(sent);
  }
  if (backlog.fin) shutdownSocket(fd, SHUT_WR);
  t.letGo(flow);
}
