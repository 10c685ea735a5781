/** TCP flows as the data path drives them; the rules are in the modules of this folder. */
import { FlowKind, Side } from "../table.ts";
import type { FlowContext, FlowHandler } from "../context.ts";
import { Accepted, acceptOne, release, resetPeer, takeStray } from "./open.ts";
import { untilPoll } from "./acknowledge.ts";
import { finish, Gathered, takeSegment } from "./from_guest.ts";
import { pollAcknowledgements, serviceReady, takeEvents, takeTimer } from "./service.ts";
import { type TcpCounters, TcpShared } from "./shared.ts";

/** Connections accepted for one event, before others have their turn. */
const ACCEPTS_PER_TURN = 64;

export class TcpFlows implements FlowHandler {
  readonly #t: TcpShared;
  readonly #gathered = new Gathered();

  constructor(context: FlowContext) {
    this.#t = new TcpShared(context);
  }

  get counters(): TcpCounters {
    return this.#t.counters;
  }

  /** Whether the guest takes segments larger than its MTU (GUEST_TSO4, GUEST_TSO6). */
  setLargeReceive(four: boolean, six: boolean): void {
    this.#t.largeReceive4 = four;
    this.#t.largeReceive6 = six;
  }

  /** Whether MSG_PEEK follows SO_PEEK_OFF, which was found out already: for tests. */
  setPeekOffset(usable: boolean): void {
    this.#t.peekOffset4 = this.#t.peekOffset6 = usable;
  }

  fromGuest(): void {
    const { packet, table } = this.#t.context;
    packet.keyPorts();
    const flow = table.find(FlowKind.tcp, Side.guest);
    if (flow !== this.#gathered.flow) {
      finish(this.#t, this.#gathered);
    }
    if (flow < 0) {
      takeStray(this.#t);
      return;
    }
    this.#gathered.flow = flow;
    takeSegment(this.#t, this.#gathered, flow);
  }

  flush(): void {
    finish(this.#t, this.#gathered);
  }

  onSocket(flow: number, events: number): void {
    takeEvents(this.#t, flow, events);
  }

  onTimer(flow: number): void {
    takeTimer(this.#t, flow);
  }

  /**
   * Connections wait on a listening socket that forwards to `guestPort`, of the address
   * that the guest uses or of the given one.
   *
   * @returns false if one waits that the host has no descriptor or memory for
   */
  onListener(fd: number, guestPort: number, guestAddress?: Uint8Array): boolean {
    for (let i = 0; i < ACCEPTS_PER_TURN; i++) {
      const result = acceptOne(this.#t, fd, guestPort, guestAddress);
      if (result !== Accepted.one) return result === Accepted.none;
    }
    return true;
  }

  /** Looks at acknowledgements of peers that are due. */
  poll(): void {
    if (this.#t.polledCount > 0) pollAcknowledgements(this.#t);
  }

  /** Milliseconds, with fractions, until {@link poll} has something to do; -1: never. */
  untilPoll(): number {
    return this.#t.polledCount > 0 ? untilPoll(this.#t) : -1;
  }

  /** Flows wait for {@link resume}. */
  get waiting(): number {
    return this.#t.readyCount;
  }

  resume(): void {
    const t = this.#t;
    for (let left = t.readyCount; left > 0; left--) {
      const flow = t.takeReady();
      if (t.context.table.kind(flow) === FlowKind.tcp) serviceReady(t, flow);
      if (t.context.sink.starved) return;
    }
  }

  /** The guest is gone: its peers are told. */
  drop(flow: number): void {
    resetPeer(this.#t, flow);
  }

  /** Closes without a word to the peer. */
  abandon(flow: number): void {
    release(this.#t, flow);
  }
}
