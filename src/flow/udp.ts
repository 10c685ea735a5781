/**
 * UDP flows (RFC 768, RFC 4787). A flow that the guest opens has a connected socket of
 * its own. Datagrams that come in through a forwarded port are told apart by sender and
 * answered through that port's socket, with the address they were sent to as the source:
 * a socket per sender would let anybody use up the descriptors of the process with forged
 * source addresses, and would see datagrams of others between its bind and its connect.
 */
import { EPOLLERR, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { lastAddress, localAddress } from "../../ffi/socket.ts";
import { UDP_DESTINATION_PORT_AT, udpLength } from "../wire/udp.ts";
import { eventData, EventKind, type FlowContext, type FlowHandler } from "./context.ts";
import { admit, reopen, scopeHere } from "./datagram_move.ts";
import { PendingRing } from "./pending.ts";
import { FLOW_WORDS, FlowKind, FlowWord, Side } from "./table.ts";
import { joinThread, leaveThread } from "./thread_change.ts";
import { Received, receiveFlow, receiveListener } from "./udp_receive.ts";
import { ETHERNET_PAYLOAD, UdpWord } from "./udp_layout.ts";
import { UdpSend } from "./udp_send.ts";
import {
  MAX_LISTENERS,
  openFromGuest,
  release,
  type UdpCounters,
  UdpShared,
} from "./udp_shared.ts";

/** All UDP flows of one data path. */
export class UdpFlows implements FlowHandler {
  readonly #u: UdpShared;
  readonly #send: UdpSend;
  readonly #pendingListeners = new PendingRing(MAX_LISTENERS);

  constructor(context: FlowContext) {
    this.#u = new UdpShared(context);
    this.#send = new UdpSend(this.#u);
  }

  /** What has happened so far. */
  get counters(): UdpCounters {
    return this.#u.counters;
  }

  fromGuest(): void {
    const { packet, table, source, drops } = this.#u.context;
    const at = packet.transportAt;
    const length = udpLength(source.head, at, packet.transportLength);
    if (length < 0 || source.head.getUint16(at + UDP_DESTINATION_PORT_AT) === 0) {
      drops.malformed++;
      return;
    }
    packet.keyPorts();
    let flow = table.find(FlowKind.udp, Side.guest);
    if (flow < 0) {
      if (this.#u.context.elsewhere()) return;
      flow = openFromGuest(this.#u);
      if (flow < 0) return;
    }
    this.#send.add(flow);
  }

  flush(): void {
    this.#send.flush();
  }

  onSocket(flow: number, events: number): void {
    const u = this.#u;
    if ((events & EPOLLERR) !== 0) {
      u.errors.drain(flow, u.words[flow * FLOW_WORDS + FlowWord.fd]);
    }
    if ((events & (EPOLLIN | EPOLLERR)) === 0) return;
    this.#receive(flow);
    const { table, now } = u.context;
    const data = eventData(EventKind.udp, flow);
    u.paced.note(table.fd(flow), data, table.generation(flow), u.taken, now);
  }

  #receive(flow: number): void {
    if (receiveFlow(this.#u, flow) === Received.more) this.#u.pending.push(flow);
  }

  onTimer(flow: number): void {
    const u = this.#u;
    const due = u.activeAt[flow] + u.idleLimit(flow);
    if (due <= u.context.now) release(u, flow);
    else u.context.timers.set(flow, due);
  }

  /**
   * Datagrams wait on a forwarded port. Its socket is watched edge-triggered: what the
   * guest has no buffer for is taken in {@link resume}. The kernel tells the address that
   * a datagram was sent to (IP_PKTINFO, IPV6_RECVPKTINFO).
   *
   * @param index of the listener, the same as long as it is open
   * @param fd its socket, bound; it may serve both families
   * @param guestPort port of the guest that it is forwarded to
   * @param guestAddress of the guest, unless it is the one it uses
   * @param events EPOLL* bits; with EPOLLERR, errors of what the guest answered wait
   */
  onListener(
    index: number,
    fd: number,
    guestPort: number,
    guestAddress?: Uint8Array,
    events: number = EPOLLERR,
  ): void {
    if (!this.#note(index, fd, guestPort, guestAddress)) return;
    const u = this.#u;
    const { [index]: listener } = u.listeners;
    if ((events & EPOLLERR) !== 0 && listener !== undefined) {
      u.errors.drainListener(fd, listener.port);
    }
    this.#listen(index);
    const data = eventData(EventKind.udpListener, index);
    u.paced.note(fd, data, 0, u.taken, u.context.now);
  }

  #note(
    index: number,
    fd: number,
    guestPort: number,
    guestAddress?: Uint8Array,
  ): boolean {
    const { listeners } = this.#u;
    if (index >= MAX_LISTENERS) return false;
    if (listeners[index]?.fd === fd) return true;
    if (!localAddress(fd)) return false;
    if (this.#u.joined) this.#u.setJoined(fd);
    const { port } = lastAddress;
    const expected = { four: true, hint: 1, size: ETHERNET_PAYLOAD };
    listeners[index] = { fd, guestPort, guestAddress, port, ...expected };
    return true;
  }

  /** The forwarded port `index` is closed; no flow of it is left, or it can't send. */
  forgetListener(index: number): void {
    const { [index]: listener } = this.#u.listeners;
    if (listener !== undefined) this.#u.paced.forget(listener.fd);
    this.#u.listeners[index] = undefined;
  }

  /** Milliseconds since a flow carried something. */
  idle(flow: number): number {
    return this.#u.context.now - this.#u.activeAt[flow];
  }

  /**
   * Whether the guest takes datagrams of one sender and length as one frame
   * (VIRTIO_NET_F_GUEST_USO4 and _USO6); then the kernel may hand them on as one.
   */
  setLargeReceive(joined: boolean): void {
    const u = this.#u;
    if (joined === u.joined) return;
    u.joined = joined;
    const { table } = u.context;
    for (let flow = 0; flow < table.limit; flow++) {
      if (this.#ownsSocket(flow)) u.setJoined(table.fd(flow));
    }
    for (const listener of u.listeners) {
      if (listener !== undefined) u.setJoined(listener.fd);
    }
  }

  /**
   * Takes a flow that was moved here, whose entry is filled in and in no hash yet.
   *
   * @param idle milliseconds since it carried something
   * @param listener the forwarded port it came through; undefined gives it its own socket
   * @returns 0, or the error number for which it was released
   */
  adopt(
    flow: number,
    idle: number,
    listener?: {
      readonly index: number;
      readonly fd: number;
      readonly guestPort: number;
      readonly guestAddress?: Uint8Array;
    },
  ): number {
    const u = this.#u;
    const { table, timers, now } = u.context;
    const at = flow * FLOW_WORDS;
    const refused = admit(u.context, flow, listener !== undefined);
    if (refused !== 0) {
      table.release(flow);
      return refused;
    }
    u.words[at + FlowWord.fd] = -1;
    u.words[at + UdpWord.listener] = 0;
    u.words[at + UdpWord.scope] = scopeHere(u.context, flow);
    u.words[at + UdpWord.hint] = 1;
    u.words[at + UdpWord.size] = ETHERNET_PAYLOAD;
    u.setUnsegmented(flow, false);
    if (listener !== undefined) {
      const { index, fd, guestPort, guestAddress } = listener;
      if (this.#note(index, fd, guestPort, guestAddress)) {
        u.words[at + UdpWord.listener] = index + 1;
        table.insert(flow, Side.host);
      }
    }
    if (u.words[at + UdpWord.listener] === 0) {
      const number = reopen(u.context, flow);
      if (number !== 0) {
        table.release(flow);
        return number;
      }
      if (u.joined) u.setJoined(table.fd(flow));
    }
    table.insert(flow, Side.guest);
    u.activeAt[flow] = now - idle;
    timers.set(flow, Math.max(now, u.activeAt[flow] + u.idleLimit(flow)));
    return 0;
  }

  /** Whether a flow can go to another thread: one with a socket of its own. */
  canHandOver(flow: number): boolean {
    return this.#u.words[flow * FLOW_WORDS + UdpWord.listener] === 0;
  }
  /** What is kept of a flow beside its entry; how many numbers. */
  write(flow: number, to: Float64Array): number {
    to[0] = this.#u.activeAt[flow];
    return 1;
  }
  /** The flow goes to another thread, its socket stays open. */
  leave(flow: number): void {
    this.#u.paced.forget(this.#u.context.table.fd(flow));
    leaveThread(this.#u.context, flow);
  }
  /** Takes over a flow of another thread; false if that cannot be. */
  join(flow: number, from: Float64Array): boolean {
    this.#u.activeAt[flow] = from[0];
    this.#u.setUnsegmented(flow, false);
    return joinThread(this.#u.context, flow, EventKind.udp, EPOLLIN + EPOLLET);
  }

  #listen(index: number): void {
    const more = receiveListener(this.#u, index) === Received.more;
    if (more) this.#pendingListeners.push(index);
  }

  /** Looks into the sockets that raise no events while datagrams come fast. */
  poll(): void {
    const { paced, context } = this.#u;
    if (context.sink.starved || !paced.due(context.now)) return;
    for (let i = paced.count - 1; i >= 0; i--) {
      const data = paced.data(i);
      const index = data & 0xffffff;
      if (data >>> 24 === EventKind.udp) this.#receive(index);
      else this.#listen(index);
      paced.looked(i, this.#u.taken);
    }
  }

  /** Milliseconds, with fractions, until {@link poll} has something to do; -1: never. */
  untilPoll(): number {
    const { paced, context } = this.#u;
    return context.sink.starved ? -1 : paced.untilDue(context.now);
  }

  /** Flows and listeners wait for {@link resume}. */
  get waiting(): number {
    return this.#u.pending.count + this.#pendingListeners.count;
  }

  resume(): void {
    const { pending, context } = this.#u;
    const listening = this.#pendingListeners;
    for (let left = pending.count; left > 0 && !context.sink.starved; left--) {
      const flow = pending.take();
      if (this.#ownsSocket(flow)) this.#receive(flow);
    }
    for (let left = listening.count; left > 0 && !context.sink.starved; left--) {
      this.#listen(listening.take());
    }
  }

  /** Not so for an entry that was released, or taken again, while it waited. */
  #ownsSocket(flow: number): boolean {
    const { table } = this.#u.context;
    return table.kind(flow) === FlowKind.udp && table.fd(flow) !== -1;
  }

  drop(flow: number): void {
    release(this.#u, flow);
  }
}
