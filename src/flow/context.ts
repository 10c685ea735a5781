/** What all kinds of flows of one queue pair share. */
import type { Epoll } from "../../ffi/event.ts";
import type { Config } from "../config.ts";
import type { GuestState } from "../services/guest_state.ts";
import type { FrameSink } from "../virtio/frame_sink.ts";
import type { FrameSource } from "../virtio/frame_source.ts";
import type { GuestMemory } from "../virtio/guest_memory.ts";
import type { AddressMap } from "./address_map.ts";
import type { Packet } from "./packet.ts";
import type { FlowTable } from "./table.ts";
import type { FlowTimers } from "./timers.ts";

/** Upper 8 bits of an epoll event's data word; the lower 24 are an index. */
export const EventKind = {
  control: 0,
  tcp: 1,
  udp: 2,
  ping: 3,
  tcpListener: 4,
  udpListener: 5,
} as const;

/** An epoll data word. The flow's generation goes into the second word. */
export function eventData(kind: number, index: number): number {
  return ((kind << 24) | index) >>> 0;
}

/** Why frames of the guest, or datagrams for it, went nowhere. */
export interface DropCounters {
  malformed: number;
  fragment: number;
  /** Neither ARP nor IP, or an IP protocol that is not carried. */
  protocol: number;
  /** Multicast or broadcast that no service here answers. */
  multicast: number;
  /** There may be no more flows, or sockets. */
  flows: number;
  /** Flows that nobody had answered and that made room for others. */
  evicted: number;
  /** A socket could not be made or refused the data. */
  socket: number;
  /** A datagram did not fit the guest's MTU. */
  tooBig: number;
  /** The guest had no receive buffer for a frame that is not kept anywhere. */
  noBuffer: number;
  /** Another thread was to have a frame or flow, and had no room for it. */
  passing: number;
}

/** Counters at 0. */
export function noDrops(): DropCounters {
  return {
    malformed: 0,
    fragment: 0,
    protocol: 0,
    multicast: 0,
    flows: 0,
    evicted: 0,
    socket: 0,
    tooBig: 0,
    noBuffer: 0,
    passing: 0,
  };
}

/** What the driver accepted, as far as it concerns frames. */
export interface Offloads {
  readonly mergeable: boolean;
  readonly guestChecksum: boolean;
  readonly largeReceive4: boolean;
  readonly largeReceive6: boolean;
  /** Datagrams of one length as one frame, of both families. */
  readonly largeDatagrams?: boolean;
  readonly eventIdx: boolean;
}

/** The data path as its flows see it. */
export interface FlowContext {
  readonly config: Config;
  readonly memory: GuestMemory;
  readonly source: FrameSource;
  readonly sink: FrameSink;
  readonly packet: Packet;
  readonly table: FlowTable;
  readonly timers: FlowTimers;
  readonly epoll: Epoll;
  readonly map: AddressMap;
  readonly guest: GuestState;
  readonly drops: DropCounters;
  /** Key of initial sequence numbers: four random words. */
  readonly sequenceKey: Uint32Array;
  /** MTU of the guest's link: what its interface uses at most, 68 to 65535. */
  mtu: number;
  /** Milliseconds of the monotonic clock, read once per turn of the loop. */
  now: number;
  /**
   * Sends Destination Unreachable for the guest's packet whose first `length` bytes,
   * Ethernet header on, are in `original`; false if it could not be sent.
   */
  sendUnreachable(original: DataView, length: number, code: number): boolean;
  /**
   * Of the current packet, whose flow was just looked for in vain: whether another thread
   * has the flow, which gets the packet.
   */
  elsewhere(): boolean;
  /** Shows the guest what was committed so far, before the end of the turn. */
  showFrames(): void;
}

/** One kind of flow, as the data path drives it. */
export interface FlowHandler {
  /** The current packet is of this kind; its headers are parsed, its key is set. */
  fromGuest(): void;
  /** Sends what {@link fromGuest} gathered; before frames are given back to the guest. */
  flush(): void;
  /** Events of a flow's socket (EPOLL* bits). */
  onSocket(flow: number, events: number): void;
  /** The flow's timer has expired. */
  onTimer(flow: number): void;
  /** The guest has receive buffers again: goes on with what had to wait for them. */
  resume(): void;
  /** Closes the flow's socket and frees it, telling nobody. */
  drop(flow: number): void;
}
