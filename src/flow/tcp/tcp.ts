/** TCP flows as the data path drives them; the rules are in the modules of this folder. */
import type { RepairSwitch } from "../../repair/switch.ts";
import type { MovedTcp } from "../../wire/state/model.ts";
import { FlowKind, Side } from "../table.ts";
import type { FlowContext, FlowHandler } from "../context.ts";
import { Accepted, acceptOne, release, resetPeer, takeStray } from "./open.ts";
import { untilPoll } from "./acknowledge.ts";
import { takeSegment } from "./from_guest.ts";
import { finish, Gathered } from "./gathered.ts";
import { closeFrozenTcp, countMovable, freezeTcp, resetFrozenTcp } from "./freeze.ts";
import { canHandOver, join, leave, writeSideState } from "./handover.ts";
import { catchLate } from "./hold.ts";
import { type RestoreOptions, restoreTcp } from "./restore.ts";
import { saveTcp } from "./save.ts";
import { pollAcknowledgements, serviceReady, takeEvents, takeTimer } from "./service.ts";
import { Frozen, type TcpCounters, TcpShared } from "./shared.ts";
import { endLost, thawTcp } from "./thaw.ts";

/**
 * Share of the frames in a turn that connections accepted for one event may be: each costs
 * as much as dozens of frames, and what is left raises the next turn's event at once.
 */
const ACCEPTS_SHARE = 64;

/** All TCP connections of one data path. */
export class TcpFlows implements FlowHandler {
  readonly #t: TcpShared;
  readonly #gathered = new Gathered();
  /** Connections accepted for one event, before others have their turn. */
  readonly #accepts: number;

  constructor(context: FlowContext) {
    this.#t = new TcpShared(context);
    this.#accepts = Math.ceil(context.table.bounds.limits.budget / ACCEPTS_SHARE);
  }

  /** What has happened so far. */
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
    this.#t.spares.clear();
  }

  fromGuest(): void {
    const { packet, table } = this.#t.context;
    packet.keyPorts();
    const flow = table.find(FlowKind.tcp, Side.guest);
    if (flow !== this.#gathered.flow) {
      finish(this.#t, this.#gathered);
    }
    // The guest repeats what it sends before its connections have thawed.
    if (this.#t.frozenCount > 0 && flow >= 0 && this.#t.frozen[flow] !== 0) return;
    if (flow < 0) {
      if (this.#t.context.elsewhere()) return;
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
    if (this.#t.frozen[flow] !== 0) return;
    takeEvents(this.#t, flow, events);
  }

  onTimer(flow: number): void {
    if (this.#t.frozen[flow] !== 0) return;
    takeTimer(this.#t, flow);
  }

  /**
   * Connections wait on a listening socket that forwards to `guestPort`, of the address
   * that the guest uses or of the given one.
   *
   * @returns false if one has to wait: see {@link acceptOne}
   */
  onListener(fd: number, guestPort: number, guestAddress?: Uint8Array): boolean {
    for (let i = 0; i < this.#accepts; i++) {
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

  /** Whether {@link idle} has something to do. */
  get idles(): boolean {
    return this.#t.spares.waiting;
  }

  /** Does what can wait until there is nothing else. */
  idle(): void {
    this.#t.spares.work(this.#t.peekOffset4, this.#t.peekOffset6);
  }

  /** Flows wait for {@link resume}. */
  get waiting(): number {
    return this.#t.readyCount;
  }

  resume(): void {
    const t = this.#t;
    for (let left = t.readyCount; left > 0; left--) {
      const flow = t.takeReady();
      if (t.context.table.kind(flow) !== FlowKind.tcp) continue;
      if (t.frozen[flow] === Frozen.no) serviceReady(t, flow);
      else if (t.frozen[flow] === Frozen.lost) endLost(t, flow);
      if (t.context.sink.starved) return;
    }
  }

  /** The guest is gone: its peers are told, but of what has moved. */
  drop(flow: number): void {
    if (this.#t.frozen[flow] !== 0) release(this.#t, flow);
    else resetPeer(this.#t, flow);
  }

  /** Closes without a word to the peer. */
  abandon(flow: number): void {
    release(this.#t, flow);
  }

  /** Whether a flow can go to another thread now: see {@link canHandOver}. */
  canHandOver(flow: number): boolean {
    return canHandOver(this.#t, flow);
  }
  /** What is kept of a flow beside its entry, see {@link writeSideState}. */
  write(flow: number, to: Float64Array): number {
    return writeSideState(this.#t, flow, to);
  }
  /** The flow goes to another thread, its socket stays open: see {@link leave}. */
  leave(flow: number): void {
    leave(this.#t, flow);
  }
  /** Takes over a flow of another thread; false if that cannot be: see {@link join}. */
  join(flow: number, from: Float64Array): boolean {
    return join(this.#t, flow, from);
  }

  /** Connections that a migration has to carry. */
  get movable(): number {
    return countMovable(this.#t);
  }
  /** Holds all connections still; 0, or an error number: see {@link freezeTcp}. */
  freeze(repair: RepairSwitch | undefined): number {
    return freezeTcp(this.#t, repair);
  }
  /** Holds still what is switched late; whether there is any: see {@link catchLate}. */
  catchLate(): boolean {
    return catchLate(this.#t);
  }
  /** Saves what is frozen, see {@link saveTcp}. */
  save(indexOf: (flow: number) => number): MovedTcp[] {
    return saveTcp(this.#t, indexOf);
  }
  /** Takes connections over, frozen, see {@link restoreTcp}. */
  restore(
    records: readonly MovedTcp[],
    flows: ArrayLike<number>,
    repair: RepairSwitch | undefined,
    options?: RestoreOptions,
  ): number {
    return restoreTcp(this.#t, records, flows, repair, options);
  }
  /** What is frozen goes on; 0, or an error number: see {@link thawTcp}. */
  thaw(repair: RepairSwitch | undefined): number {
    return thawTcp(this.#t, repair);
  }
  /** Ends what is frozen without a word to anybody. */
  discard(): void {
    closeFrozenTcp(this.#t);
  }
  /** Gives up what is frozen, see {@link resetFrozenTcp}. */
  resetFrozen(): void {
    resetFrozenTcp(this.#t);
  }
}
