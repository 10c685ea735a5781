/** What a guest sends, or is sent, beside its good flow. */
import { type AbuseWorld, noise, noiseBytes } from "../support/abuse_world.ts";
import { address } from "../support/dhcp.ts";
import { KINDS, LONGEST } from "../support/frame_lengths.ts";
import { ENDS } from "../support/good_flow.ts";
import { type Addresses, echoPacket, udpPacket } from "../support/guest_packets.ts";
import { HostListener, LOOPBACK6 } from "../support/host_tcp.ts";
import { malformed } from "../support/malformed.ts";
import { openProbes, Probe } from "../support/probe.ts";
import { everyCase, START } from "../support/segment_places.ts";
import { synOptions, tcpFrame } from "../support/tcp_segment.ts";

/** Nobody listens there. */
const CLOSED = 9;
const EMPTY = new Uint8Array(0);
const ENDS6 = { from: address("2001:db8::5"), to: address("fe80::1") };
/** Connections at once, of those that are open. */
const OPEN = 32;
const FIRST_PORT = 10_000;
const CONNECTIONS = 200_000;
const [FIN, RST, ACK] = [1, 4, 16];

/** An abuse that goes on. */
export interface Storm {
  /** The next packet of the guest; undefined where somebody else has done something. */
  next(i: number): Uint8Array | undefined;
  end?(): void;
}

/** How an abuse begins. */
export interface Begin {
  /** What it has done stays while it pauses. */
  readonly stays?: boolean;
  start(world: AbuseWorld): Promise<Storm> | Storm;
}

/** The same frame from many ports, or with many identifiers. */
function varied(frame: Uint8Array, count: number, at: number): Storm {
  const view = new DataView(frame.buffer);
  return {
    next: (i) => {
      view.setUint16(at, FIRST_PORT + i % count);
      return frame;
    },
  };
}

/** Where the port of the guest lies. */
function portAt({ from }: Addresses): number {
  return from[10] === 255 ? 34 : 54;
}

function segments(ends: Addresses, port: number, flags: string): Storm {
  const options = flags === "S" ? synOptions(1460, 7) : EMPTY;
  const segment = { flags, seq: 1, ack: 0, window: 65535, data: EMPTY, options };
  return varied(tcpFrame(ends, 1, port, segment), 50_000, portAt(ends));
}

function datagrams(ends: Addresses, count: number): Storm {
  return varied(udpPacket(ends, 1, CLOSED, EMPTY), count, portAt(ends));
}

/** SYNs to somebody who listens, and does not accept. */
function accepted(six: boolean): Begin {
  return {
    start: ({ good }) => {
      if (!six) return segments(ENDS, good.listener!.port, "S");
      const listener = new HostListener(LOOPBACK6);
      return { ...segments(ENDS6, listener.port, "S"), end: () => listener.close() };
    },
  };
}

/** As many connections as can be had; then the guest goes on with it. */
const connections: Begin = {
  stays: true,
  start: async ({ guest, to, good }) => {
    const listener = new HostListener();
    const frame = new Probe(to, 0, listener.port, START).frame(2, { ack: 0 });
    const view = new DataView(frame.buffer);
    const next = (i: number) => {
      // Different ports that lead nowhere, beyond the ports that the guest has.
      view.setUint16(34, 1024 + i % 60_000);
      view.setUint16(36, listener.port - Math.floor(i / 60_000) % 4);
      if (i % 16 === 0) {
        for (let one = listener.accept(); one !== undefined; one = listener.accept()) {
          one.close();
        }
      }
      return frame;
    };
    for (let i = 0; i < CONNECTIONS; i++) {
      await guest.send(next(i));
      if (i % 256 === 0) await good.roundTrip(100);
    }
    await guest.drained();
    return { next, end: () => listener.close() };
  },
};

/** Connections of which nobody in the guest hears any more. */
async function opened(
  { to }: AbuseWorld,
  listener: HostListener,
  scale = 0,
): Promise<Probe[]> {
  const ports = Array.from({ length: OPEN }, (_, i) => FIRST_PORT + i);
  const probes = await openProbes(to, listener, ports, () => START, scale);
  for (const { port } of probes) to.off(port);
  return probes;
}

function ended(probes: readonly Probe[], listener: HostListener): () => void {
  return () => {
    for (const probe of probes) probe.close();
    listener.close();
  };
}

/** Peers send on and on over connections whose guest takes nothing. */
function guestNeverReads(window: number, who: "guest" | "peer"): Begin {
  return {
    start: async (world) => {
      const listener = new HostListener();
      const probes = await opened(world, listener);
      const data = new Uint8Array(1 << 17);
      for (const probe of probes) {
        probe.window = window;
        await probe.send("A");
        probe.host!.send(data);
      }
      const next = (i: number) => {
        const probe = probes[i % OPEN];
        if (who === "guest") return probe.frame(ACK);
        probe.host!.send(data.subarray(0, 64));
        return undefined;
      };
      return { next, end: ended(probes, listener) };
    },
  };
}

/** The guest sends on and on to somebody who never reads, whatever the window is. */
const peerNeverReads: Begin = {
  start: async (world) => {
    const listener = new HostListener(undefined, 4096);
    const probes = await opened(world, listener);
    const data = new Uint8Array(1400);
    const frames = probes.map((probe) => probe.frame(24, { data }));
    const next = (i: number) => {
      const probe = probes[i % OPEN];
      const frame = frames[i % OPEN];
      new DataView(frame.buffer).setUint32(38, probe.seq);
      probe.seq = probe.seq + data.length >>> 0;
      return frame;
    };
    return { next, end: ended(probes, listener) };
  },
};

/** All flags in all places but what ends a connection in good order, or by right. */
const everySegment: Begin = {
  start: async (world) => {
    const listener = new HostListener();
    const probes = await opened(world, listener);
    const cases = [0, 1, 2, 3].flatMap(everyCase).filter(({ flags, place }) =>
      (flags & RST) !== 0 ? place.seq !== 0 : (flags & (FIN | ACK)) !== (FIN | ACK)
    );
    const frames = cases.map(({ flags, place }, i) => {
      const probe = probes[i % OPEN];
      const [seq, ack] = [probe.seq + place.seq, probe.ack + place.ack];
      return probe.frame(flags, { seq, ack, data: place.data });
    });
    return { next: (i) => frames[i % frames.length], end: ended(probes, listener) };
  },
};

/** A step that comes to all lengths, as it has no divisor in common with their number. */
const STEP = 7919;

/** Frames of all lengths, of another kind each time. */
const everyLength: Begin = {
  start: () => {
    const bytes = noiseBytes(noise(77), LONGEST);
    const head = bytes.slice(0, 64);
    return {
      next: (i) => {
        const length = i * STEP % (LONGEST + 1);
        const frame = bytes.subarray(0, length);
        frame.set(head.subarray(0, length));
        KINDS[length % KINDS.length][1](frame, length);
        return frame;
      },
    };
  },
};

/** The abuses by their names. */
export const STORMS: Readonly<Record<string, Begin>> = {
  "frames of every length, of 14 kinds": everyLength,
  "noise of up to 2,000 bytes": {
    start: () => {
      const next = noise(5);
      const bytes = noiseBytes(next, 200_000);
      return {
        next: () => {
          const at = next() % 130_000;
          return bytes.subarray(at, at + next() % 2000);
        },
      };
    },
  },
  "malformed DHCP, NDP and DHCPv6": {
    start: () => {
      const next = noise(20);
      return { next: (i) => malformed(next, i) };
    },
  },
  "segments of no connection": { start: () => segments(ENDS, CLOSED, "A") },
  "segments of no connection, IPv6": { start: () => segments(ENDS6, CLOSED, "A") },
  "segments with all flags, in all places": everySegment,
  "SYNs that are refused": { start: () => segments(ENDS, CLOSED, "S") },
  "SYNs that are refused, IPv6": { start: () => segments(ENDS6, CLOSED, "S") },
  "SYNs that are accepted": accepted(false),
  "SYNs that are accepted, IPv6": accepted(true),
  "more than 200,000 connections to one who accepts": connections,
  "guest that never reads, acknowledges nothing": guestNeverReads(65535, "guest"),
  "guest that never reads, windows closed": guestNeverReads(0, "guest"),
  "peers that send to a guest that never reads": guestNeverReads(0, "peer"),
  "data to peers that never read": peerNeverReads,
  "datagrams from one port": { start: () => datagrams(ENDS, 1) },
  "datagrams from 50,000 ports": { start: () => datagrams(ENDS, 50_000) },
  "datagrams from 50,000 ports, IPv6": { start: () => datagrams(ENDS6, 50_000) },
  "pings with 50,000 identifiers": {
    start: () => varied(echoPacket(ENDS, 1, 1, EMPTY), 50_000, 38),
  },
};
