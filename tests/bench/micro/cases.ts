/** What is measured: each case sets up a world and runs rounds of a few packets. */
import { TcpFlag } from "../../../src/wire/tcp.ts";
import { FRAME } from "../../../src/virtio/frame_source.ts";
import { FLOW_WORDS, FlowKind, FlowWord, Side } from "../../../src/flow/table.ts";
import {
  ARP_FRAME,
  prepareArp,
  prepareTcp,
  prepareUdp,
  TCP_HEAD,
  UDP_HEAD,
} from "./frames.ts";
import type { Meter } from "./meter.ts";
import type { Role } from "./peer.ts";
import { GUEST_SCALE, portOf, TcpGuest } from "./tcp_guest.ts";
import { World, type WorldOptions } from "./world.ts";

/** Runs one round; returns how many packets (or what `unit` says) it was. */
export type Round = () => number;

export interface Case {
  readonly name: string;
  readonly unit: string;
  /** Payload bytes of a packet, for the throughput; 0: it makes no sense. */
  readonly payload: number;
  /** What the flows talk to, if anything. */
  readonly peer?: Role;
  /** @param port of the peer */
  readonly start: (meter: Meter, port: number) => Round;
}

/** Frames that the guest sends before it looks again: what Linux polls at once. */
const BATCH = 64;
const GUEST_PORT = 40_000;
/** Bytes that Linux merges before it acknowledges. */
const MERGED = 65_536;
/** Datagrams come slower than they are taken: in this time some dozens have come. */
const GATHER_MS = 0.2;
const LARGE_PAYLOAD = 65_535 - 40;

/** The peer sends, the guest acknowledges each 64 KiB. */
function tcpToGuest(name: string, options: WorldOptions): Case {
  const mss = (options.mtu ?? 1500) - 40;
  // The last frame of a read is shorter: the throughput counts what a full one carries.
  const payload = options.largeReceive ? LARGE_PAYLOAD - LARGE_PAYLOAD % mss : mss;
  const start = (meter: Meter, port: number) => {
    const world = new World(meter, options);
    const { rx, tx } = world;
    prepareTcp(tx, 0, mss);
    const guest = new TcpGuest(world, GUEST_PORT, port);
    guest.connect();
    let merged = 0;
    return () => {
      world.turn();
      let frames = 0;
      rx.poll();
      while (rx.take()) {
        if (portOf(world) < 0) continue;
        merged += guest.take();
        frames++;
        if (merged < MERGED || tx.free === 0) continue;
        merged = 0;
        guest.sendBare(TcpFlag.ack);
      }
      if (merged > 0) guest.sendBare(TcpFlag.ack);
      merged = 0;
      rx.refill();
      tx.publish();
      return frames;
    };
  };
  return { name, unit: "frame", payload, peer: "tcp-source", start };
}

/** The guest sends as the window allows. */
function tcpFromGuest(name: string, payload: number): Case {
  const start = (meter: Meter, port: number) => {
    const world = new World(meter, { longestSent: TCP_HEAD + payload });
    const { rx, tx, path } = world;
    prepareTcp(tx, 0, 1460);
    const guest = new TcpGuest(world, GUEST_PORT, port);
    guest.connect();
    while (tx.free < tx.size) world.turn();
    prepareTcp(tx, payload, 1460);
    return () => {
      guest.sendData(BATCH, payload);
      tx.publish();
      const before = path.source.taken;
      world.turn();
      rx.poll();
      while (rx.take()) if (portOf(world) >= 0) guest.take();
      rx.refill();
      return path.source.taken - before;
    };
  };
  return { name, unit: "frame", payload, peer: "tcp-sink", start };
}

/** The guest acknowledges every second segment of what it got before. */
function tcpAcks(): Case {
  const mss = 1460;
  const segments = BATCH;
  const burst = segments * mss;
  const start = (meter: Meter, port: number) => {
    const world = new World(meter);
    const { rx, tx } = world;
    prepareTcp(tx, 0, mss);
    const guest = new TcpGuest(world, GUEST_PORT, port);
    guest.window = 0;
    guest.connect();
    const takeAll = () => {
      rx.poll();
      while (rx.take()) if (portOf(world) >= 0) guest.take();
      rx.refill();
    };
    const receive = () => {
      const before = guest.receiveNext;
      guest.window = (burst >> GUEST_SCALE) + 1;
      guest.sendBare(TcpFlag.ack);
      tx.publish();
      while (guest.receiveNext === before) {
        world.turn();
        takeAll();
      }
    };
    let acknowledged = guest.receiveNext;
    return () => {
      meter.aside(receive);
      // The window closes as the acknowledgements come: nothing new is sent.
      const end = guest.receiveNext;
      let count = 0;
      // Sequence numbers wrap around, once in the 4 GiB that a run may move.
      for (let left = end - acknowledged | 0; left > 0; left = end - acknowledged | 0) {
        acknowledged = acknowledged + Math.min(2 * mss, left) | 0;
        guest.receiveNext = acknowledged;
        // Rounded up, as Linux does: rounded down, it would shrink a little (RFC 7323, 2.4).
        guest.window = Math.ceil((end - acknowledged | 0) / (1 << GUEST_SCALE));
        guest.sendBare(TcpFlag.ack);
        count++;
      }
      tx.publish();
      world.turn();
      while (tx.free < tx.size) world.turn();
      takeAll(); // what came while the window was still open
      return count;
    };
  };
  return {
    name: "TCP acknowledgement from guest",
    unit: "ACK",
    payload: 0,
    peer: "tcp-source",
    start,
  };
}

/** The guest connects, the peer closes, the guest closes; several at once. */
function tcpConnect(): Case {
  const each = 16;
  const ports = 16_384;
  const start = (meter: Meter, port: number) => {
    const world = new World(meter);
    const { rx, tx, path } = world;
    prepareTcp(tx, 0, 1460);
    const guests = Array.from({ length: each }, () => new TcpGuest(world, 0, port));
    let first = 0;
    const take = () => {
      rx.poll();
      while (rx.take()) {
        const to = portOf(world);
        if (to < 0) continue;
        const guest = guests[to - GUEST_PORT - first];
        const { established, finished } = guest;
        guest.take();
        if (!established) guest.sendBare(TcpFlag.ack);
        if (guest.finished && !finished) guest.sendBare(TcpFlag.fin | TcpFlag.ack);
      }
      rx.refill();
      tx.publish();
    };
    return () => {
      first = (first + each) % ports;
      for (let i = 0; i < each; i++) {
        guests[i].restart(GUEST_PORT + first + i);
        guests[i].sendSyn();
      }
      tx.publish();
      do {
        world.turn();
        take();
      } while (path.table.count > 0);
      return each;
    };
  };
  return {
    name: "TCP connect and close",
    unit: "connection",
    payload: 0,
    peer: "tcp-close",
    start,
  };
}

function udpFromGuest(payload: number): Case {
  const start = (meter: Meter, port: number) => {
    const world = new World(meter);
    const { tx } = world;
    prepareUdp(tx, GUEST_PORT, port, payload);
    return () => {
      for (let i = 0; i < BATCH; i++) tx.send(UDP_HEAD + payload);
      tx.publish();
      world.turn();
      while (tx.free < tx.size) world.turn();
      world.discard();
      return BATCH;
    };
  };
  const name = `UDP from guest, ${payload} bytes`;
  return { name, unit: "datagram", payload, peer: "udp-sink", start };
}

function udpToGuest(payload: number, checksumOffload: boolean): Case {
  const start = (meter: Meter, port: number) => {
    const world = new World(meter, { checksumOffload });
    const { tx } = world;
    prepareUdp(tx, GUEST_PORT, port, payload);
    tx.send(UDP_HEAD + payload);
    tx.publish();
    const nothing = new Int32Array(new SharedArrayBuffer(4));
    const wait = () => Atomics.wait(nothing, 0, 0, GATHER_MS);
    return () => {
      meter.aside(wait);
      world.turn();
      return world.discard();
    };
  };
  const how = checksumOffload ? "" : ", checksums here";
  const name = `UDP to guest, ${payload} bytes${how}`;
  return { name, unit: "datagram", payload, peer: "udp-source", start };
}

/** Any request that a service answers at once. */
function arp(): Case {
  const start = (meter: Meter) => {
    const world = new World(meter);
    const { tx } = world;
    prepareArp(tx);
    return () => {
      for (let i = 0; i < BATCH; i++) tx.send(ARP_FRAME);
      tx.publish();
      world.turn();
      while (tx.free < tx.size) world.turn();
      return world.discard();
    };
  };
  return { name: "ARP request and reply", unit: "request", payload: 0, start };
}

/** Taking a frame off the ring and its headers apart, and nothing else. */
function parse(): Case {
  const start = (meter: Meter) => {
    const world = new World(meter);
    const { tx, path } = world;
    prepareTcp(tx, 0, 1460);
    return () => {
      for (let i = 0; i < BATCH; i++) tx.send(TCP_HEAD);
      tx.publish();
      meter.enter();
      let frames = 0;
      while (path.source.next() === FRAME) {
        path.packet.parse();
        path.packet.keyPorts();
        frames++;
      }
      path.source.flush();
      meter.leave();
      if (frames !== BATCH || tx.free !== tx.size) throw new Error("frames went astray");
      return frames;
    };
  };
  return { name: "Frame taken and parsed", unit: "frame", payload: 0, start };
}

/** Finding one of many flows, never the same twice in a row. */
function lookup(flows: number): Case {
  const start = (meter: Meter) => {
    const { table } = new World(meter).path;
    const { key } = table;
    for (let i = 0; i < flows; i++) {
      const flow = table.allocate(FlowKind.tcp);
      table.words[flow * FLOW_WORDS + FlowWord.guestPorts] = i;
      table.insert(flow, Side.guest);
    }
    key.fill(0);
    let at = 0;
    return () => {
      let found = 0;
      meter.enter();
      for (let i = 0; i < 256; i++) {
        at = (at + 7919) % flows;
        key[1] = at;
        if (table.find(FlowKind.tcp, Side.guest) >= 0) found++;
      }
      meter.leave();
      if (found !== 256) throw new Error("a flow was not found");
      return found;
    };
  };
  const name = `Flow found among ${flows} (SipHash)`;
  return { name, unit: "lookup", payload: 0, start };
}

export const CASES: readonly Case[] = [
  tcpToGuest("TCP to guest, MTU 1500", {}),
  tcpToGuest("TCP to guest, MTU 1500, checksums here", { checksumOffload: false }),
  tcpToGuest("TCP to guest, MTU 1500, TSO", { largeReceive: true }),
  tcpToGuest("TCP to guest, MTU 65520", { mtu: 65520 }),
  tcpToGuest("TCP to guest, MTU 65520, checksums here", {
    mtu: 65520,
    checksumOffload: false,
  }),
  tcpToGuest("TCP to guest, MTU 65520, TSO", { mtu: 65520, largeReceive: true }),
  tcpFromGuest("TCP from guest, 1460 bytes", 1460),
  tcpFromGuest("TCP from guest, TSO 64 KiB", LARGE_PAYLOAD - LARGE_PAYLOAD % 1460),
  tcpAcks(),
  tcpConnect(),
  udpFromGuest(64),
  udpFromGuest(1400),
  udpToGuest(64, true),
  udpToGuest(1400, true),
  udpToGuest(1400, false),
  arp(),
  parse(),
  lookup(1000),
  lookup(100_000),
];
