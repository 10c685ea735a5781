/**
 * One queue pair at work: frames of the guest go to the services and flows they are for,
 * sockets and timers to the flows they belong to, and what all of them send goes back to
 * the guest, published and signalled once a turn.
 */
import { type Epoll, EPOLLET, EPOLLIN } from "../../ffi/event.ts";
import { type Config, DEFAULT_LIMITS } from "../config.ts";
import { GuestState } from "../services/guest_state.ts";
import type { Vring } from "../vhost_user/backend.ts";
import { NO_FD } from "../vhost_user/backend.ts";
import { interrupt } from "../vhost_user/interrupt.ts";
import { BROKEN, FRAME, FrameSource } from "../virtio/frame_source.ts";
import { FrameSink } from "../virtio/frame_sink.ts";
import type { Mesh } from "../mesh/mesh.ts";
import type { SharedParts } from "../mesh/shared.ts";
import type { GuestMemory } from "../virtio/guest_memory.ts";
import { makeQueue } from "../virtio/make_queue.ts";
import type { Pcap } from "../virtio/pcap.ts";
import { isMulticast } from "../wire/address.ts";
import { DHCP_SERVER_PORT } from "../wire/dhcpv4.ts";
import { DHCPV6_SERVER_PORT } from "../wire/dhcpv6.ts";
import { isGroupMac } from "../wire/ethernet.ts";
import { IcmpV6Type } from "../wire/icmpv6.ts";
import { Protocol } from "../wire/ip.ts";
import { AddressMap } from "./address_map.ts";
import { FlowBounds } from "./bounds.ts";
import {
  type DropCounters,
  eventData,
  EventKind,
  type FlowContext,
  noDrops,
  type Offloads,
} from "./context.ts";
import { LinkServices } from "./link_services.ts";
import { Packet, Parsed } from "./packet.ts";
import { Ping } from "./ping.ts";
import { Others } from "./others.ts";
import { RingFaults } from "./ring_faults.ts";
import { summarize } from "./summary.ts";
import { FlowKind, FlowTable, KEY_OUR_AT } from "./table.ts";
import { TcpFlows } from "./tcp/tcp.ts";
import { FlowTimers } from "./timers.ts";
import { UdpFlows } from "./udp.ts";

const RX = 0;
const TX = 1;
/** Index of an event of kind control that is the kick of queue RX or TX. */
export const KICK_INDEX = 0xff_ff00;

/** The shorter of two times, of which a negative one is none. */
function sooner(a: number, b: number): number {
  if (a < 0) return b;
  return b < 0 || a < b ? a : b;
}

/** A queue pair with all its flows; the threads of a guest have one each. */
export class DataPath implements FlowContext {
  /** Frames of the guest. */
  readonly source: FrameSource;
  /** Frames to the guest. */
  readonly sink: FrameSink;
  /** The headers of the frame that is handled. */
  readonly packet: Packet;
  /** All flows. */
  readonly table: FlowTable;
  /** How many flows and sockets there may be, and are. */
  readonly bounds: FlowBounds;
  /** One timer for each flow. */
  readonly timers: FlowTimers;
  /** Which addresses of the guest's are the host's own. */
  readonly map: AddressMap;
  /** What the guest has told of itself. */
  readonly guest: GuestState;
  /** Why frames and datagrams went nowhere. */
  readonly drops: DropCounters = noDrops();
  /** Key of initial sequence numbers: four random words. */
  readonly sequenceKey: Uint32Array;
  /** The other threads of the data path, if there are any. */
  readonly others: Others | undefined;
  /** MTU of the guest's link in bytes. */
  mtu: number;
  /** Milliseconds of the monotonic clock, read once per turn of the loop. */
  now: number;
  /** All TCP connections. */
  readonly tcp: TcpFlows;
  /** All UDP flows. */
  readonly udp: UdpFlows;
  /** All pings. */
  readonly ping: Ping;
  /** What is said of rings that the driver broke. */
  readonly faults: RingFaults;

  readonly #rings: (Vring | undefined)[] = [undefined, undefined];
  readonly #kickFds = [NO_FD, NO_FD];
  readonly #services: LinkServices;
  /** Frames of the guest in one turn, before sockets and timers have theirs. */
  readonly #budget: number;
  #txPending = false;
  /** Something has happened since the last turn. */
  #busy = false;
  #eventIdx = false;
  #pcap: Pcap | undefined;

  constructor(
    readonly config: Config,
    readonly memory: GuestMemory,
    readonly epoll: Epoll,
    maxFlows: number,
    threads?: { readonly mesh: Mesh; readonly shared: SharedParts },
  ) {
    this.now = performance.now();
    this.mtu = config.mtu === 0 ? 1500 : config.mtu;
    this.source = new FrameSource(memory, makeQueue(memory, false));
    this.sink = new FrameSink(memory, makeQueue(memory, false));
    this.faults = new RingFaults(this.source, this.sink);
    const limits = config.limits ?? DEFAULT_LIMITS;
    this.bounds = new FlowBounds(limits, threads?.shared.bounds);
    this.#budget = limits.budget;
    this.table = new FlowTable(maxFlows, threads?.shared.hashKey, this.bounds);
    this.sequenceKey = threads?.shared.sequenceKey ??
      crypto.getRandomValues(new Uint32Array(4));
    this.timers = new FlowTimers(maxFlows, this.now);
    this.packet = new Packet(this.source, this.table);
    this.guest = new GuestState(config, threads?.shared.guest);
    this.map = new AddressMap(config, this.guest);
    this.tcp = new TcpFlows(this);
    this.udp = new UdpFlows(this);
    this.ping = new Ping(this);
    this.#services = new LinkServices(this);
    this.others = threads === undefined ? undefined : new Others(this, threads.mesh);
  }

  /** Takes what the driver accepted, before queues start. */
  setOffloads(offloads: Offloads): void {
    this.sink.mergeable = offloads.mergeable;
    this.sink.guestChecksum = offloads.guestChecksum;
    this.tcp.setLargeReceive(offloads.largeReceive4, offloads.largeReceive6);
    this.udp.setLargeReceive(offloads.largeDatagrams ?? false);
    this.#eventIdx = offloads.eventIdx;
  }

  /** Captures every frame from now on. */
  capture(pcap: Pcap): void {
    this.#pcap = pcap;
    this.sink.capture = pcap;
  }

  /** Whether the guest can be sent frames. */
  get receiving(): boolean {
    return this.sink.queue.running && this.#rings[RX]?.enabled === true;
  }

  /** Starts a ring: index 0 is the guest's receive ring, 1 its transmit ring. */
  startQueue(ring: Vring): void {
    const which = ring.index & 1;
    const queue = makeQueue(this.memory, ring.packed);
    if (which === RX) this.sink.queue = queue;
    else this.source.queue = queue;
    this.#rings[which] = ring;
    queue.start({ ...ring, eventIdx: this.#eventIdx });
    if (ring.kickFd !== NO_FD) {
      // Edge-triggered: the counter need not be read for the next kick to be seen.
      this.epoll.add(
        ring.kickFd,
        EPOLLIN + EPOLLET,
        eventData(EventKind.control, KICK_INDEX + which),
      );
      this.#kickFds[which] = ring.kickFd;
    }
    if (which === RX) this.#advertise();
    this.kicked(which);
  }

  /** Stops a ring; returns the base index of what was not used up. */
  stopQueue(index: number): number {
    const which = index & 1;
    if (which === TX) this.#flushSource();
    else this.showFrames();
    if (this.#kickFds[which] !== NO_FD) this.epoll.tryRemove(this.#kickFds[which]);
    this.#kickFds[which] = NO_FD;
    this.#rings[which] = undefined;
    if (which === TX) this.#txPending = false;
    return (which === RX ? this.sink.queue : this.source.queue).stop();
  }

  /** A ring that runs was enabled or disabled, or has another descriptor. */
  updateQueue(ring: Vring): void {
    const which = ring.index & 1;
    this.#rings[which] = ring;
    if (which === RX && !this.#services.advertising) this.#advertise();
    this.kicked(which);
  }

  /** The driver kicked a queue. */
  kicked(which: number): void {
    this.#busy = true;
    if (which === TX) this.#txPending = true;
    else this.sink.starved = false;
  }

  /** Events of a socket, given the words it was added to epoll with. */
  onSocket(kind: number, flow: number, generation: number, events: number): void {
    this.#busy = true;
    if (flow >= this.table.capacity || this.table.generation(flow) !== generation) return;
    switch (kind) {
      case EventKind.tcp:
        if (this.table.kind(flow) === FlowKind.tcp) this.tcp.onSocket(flow, events);
        break;
      case EventKind.udp:
        if (this.table.kind(flow) === FlowKind.udp) this.udp.onSocket(flow, events);
        break;
      case EventKind.ping:
        if (this.table.kind(flow) >= FlowKind.ping4) this.ping.onSocket(flow, events);
    }
  }

  /** The part of a turn after events: the guest's frames, timers, what had to wait. */
  turn(): void {
    if (this.others !== undefined) this.others.turn();
    if (this.#txPending) this.#transmit();
    this.#services.turn();
    for (
      let flow = this.timers.expired(this.now);
      flow >= 0;
      flow = this.timers.expired(this.now)
    ) {
      this.handler(flow)?.onTimer(flow);
    }
    this.tcp.poll();
    this.udp.poll();
    if (!this.sink.starved) {
      this.tcp.resume();
      this.udp.resume();
      this.ping.resume();
    }
    if (this.sink.starved && this.sink.queue.wantNotification()) {
      this.sink.starved = false;
    }
    this.showFrames();
    if (this.sink.broken) {
      this.sink.broken = false;
      this.faults.stopped(RX);
    }
    this.faults.look();
    if (!this.#busy && this.tcp.idles) this.tcp.idle();
    this.#busy = false;
  }

  /** Has routers advertised unasked, by one of the threads. */
  #advertise(): void {
    const { others } = this;
    if (others === undefined || others.mesh.self === 0) this.#services.advertise();
  }

  /** The guest has come from elsewhere, and is told so a little later. */
  announce(): void {
    this.#services.announce();
  }

  /** What drives a flow of its kind. */
  handler(flow: number): TcpFlows | UdpFlows | Ping | undefined {
    switch (this.table.kind(flow)) {
      case FlowKind.tcp:
        return this.tcp;
      case FlowKind.udp:
        return this.udp;
      case FlowKind.ping4:
      case FlowKind.ping6:
        return this.ping;
      default:
        return undefined;
    }
  }

  /** Milliseconds until {@link turn} has something to do; 0: now, -1: nothing waits. */
  timeout(): number {
    if (this.#txPending || this.tcp.idles) return 0;
    const waiting = this.tcp.waiting + this.udp.waiting + this.ping.waiting;
    if (!this.sink.starved && this.receiving && waiting > 0) return 0;
    const polls = sooner(this.tcp.untilPoll(), this.udp.untilPoll());
    return sooner(this.timers.untilNext(this.now), polls);
  }

  /** Takes frames from the guest until there is none left, or its share is used up. */
  #transmit(): void {
    this.source.queue.declineNotification();
    const discard = this.#rings[TX]?.enabled !== true;
    for (let count = 0; count < this.#budget; count++) {
      const result = this.source.next();
      if (result === FRAME) {
        if (this.#pcap !== undefined) this.#pcap.fromGuest(this.source);
        if (!discard) this.fromGuest();
        continue;
      }
      if (result === BROKEN) {
        this.flushFlows();
        this.#txPending = false;
        this.faults.stopped(TX);
        return;
      }
      if (this.source.full) break;
      if (this.source.queue.wantNotification()) {
        this.source.queue.declineNotification();
        continue;
      }
      this.#txPending = false;
      break;
    }
    if (this.#txPending) this.bounds.noteBudget();
    this.flushFlows();
    this.#flushSource();
  }

  /** Sends what frames of the guest have left gathered. */
  flushFlows(): void {
    this.tcp.flush();
    this.udp.flush();
    this.ping.flush();
  }

  #flushSource(): void {
    const ring = this.#rings[TX];
    if (this.source.flush() && ring !== undefined) interrupt(ring);
  }

  /** See FlowContext.showFrames(). */
  showFrames(): void {
    const ring = this.#rings[RX];
    if (this.sink.flush() && ring !== undefined) interrupt(ring);
  }

  /** Hands the current frame to whom it is for. */
  fromGuest(): void {
    const parsed = this.packet.parse();
    switch (parsed) {
      case Parsed.ip:
        this.#fromGuestIp();
        break;
      case Parsed.arp:
        this.guest.learn(this.source.head, this.source.headLength);
        this.#services.serve(this.#services.arp);
        break;
      case Parsed.malformed:
        this.drops.malformed++;
        break;
      case Parsed.fragment:
        this.drops.fragment++;
        break;
      default:
        this.drops.protocol++;
    }
  }

  #fromGuestIp(): void {
    const { packet, source } = this;
    const head = source.head;
    this.guest.learn(head, source.headLength);
    const port = head.getUint16(packet.transportAt + 2);
    switch (packet.protocol) {
      case Protocol.tcp:
        if (this.#isGroup()) this.drops.multicast++;
        else if (this.config.tcp) this.tcp.fromGuest();
        break;
      case Protocol.udp:
        if (packet.version === 4 && port === DHCP_SERVER_PORT) {
          this.#services.serve(this.#services.dhcpv4);
        } else if (packet.version === 6 && port === DHCPV6_SERVER_PORT) {
          this.#services.serve(this.#services.dhcpv6);
        } else if (this.#isGroup()) this.drops.multicast++;
        else if (this.config.udp) this.udp.fromGuest();
        break;
      case Protocol.icmp:
        if (this.#isGroup()) this.drops.multicast++;
        else if (this.config.icmp) this.ping.fromGuest();
        break;
      case Protocol.icmpv6: {
        const type = head.getUint8(packet.transportAt);
        if (type > IcmpV6Type.echoReply) this.#services.serve(this.#services.ndp);
        else if (this.#isGroup()) this.drops.multicast++;
        else if (this.config.icmp) this.ping.fromGuest();
        break;
      }
      default:
        this.drops.protocol++;
    }
  }

  /** Multicast and broadcast are answered by services or by nobody. */
  #isGroup(): boolean {
    return isGroupMac(this.source.head, 0) ||
      isMulticast(this.table.keyBytes, KEY_OUR_AT);
  }

  /** See FlowContext.sendUnreachable(). */
  sendUnreachable(original: DataView, length: number, code: number): boolean {
    return this.#services.sendUnreachable(original, length, code);
  }

  /** See FlowContext.elsewhere(). */
  elsewhere(): boolean {
    return this.others !== undefined && this.others.elsewhere();
  }

  /** Ends all flows: the guest they belonged to is gone. */
  dropAll(): void {
    for (let flow = 0; flow < this.table.limit; flow++) this.handler(flow)?.drop(flow);
    this.showFrames();
  }

  /** A new guest may come: nothing learnt of the last one counts. */
  forgetGuest(): void {
    this.guest.reset();
  }

  /** Counters by name: all that has happened here. */
  counts(): Record<string, number> {
    const { tcp, udp, drops, source, sink, others } = this;
    return {
      ...tcp.counters,
      "UDP opened": udp.counters.opened,
      "UDP accepted": udp.counters.accepted,
      "UDP sent": udp.counters.sent,
      "UDP received": udp.counters.received,
      ...drops,
      badTx: source.badChains,
      badRx: sink.badChains,
      brokenRings: this.faults.broken,
      taken: source.taken,
      committed: sink.committed,
      flowsNow: this.table.count,
      ...others?.counters,
      unregistered: others?.mesh.owners.unregistered ?? 0,
    };
  }

  /** One line of counters for the log. */
  summary(): string {
    return summarize(this.counts());
  }
}
