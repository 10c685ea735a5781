/** A guest that takes all it can get, or takes nothing, or says nonsense to services. */
import { assert } from "@std/assert";
import {
  type Abuse,
  abuses,
  type AbuseWorld,
  LONG,
  noise,
} from "../support/abuse_world.ts";
import { ENDS } from "../support/good_flow.ts";
import { echoPacket, udpPacket } from "../support/guest_packets.ts";
import { HostListener } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { LOOPBACK4 } from "../support/host_tcp.ts";
import { countDescriptors } from "../support/lab_process.ts";
import { malformed } from "../support/malformed.ts";
import { openProbes, Probe } from "../support/probe.ts";

/** Descriptors that vuelo may have where it is to run out of them. */
const FEW = 600;
const CONNECTIONS = LONG ? 200_000 : 4000;
const DATAGRAMS = LONG ? 1_000_000 : 20_000;
const MUTATIONS = LONG ? 1_000_000 : 20_000;

const EMPTY = new Uint8Array(0);

/** SYNs from as many ports and to as many addresses as it takes to be all different. */
async function manyConnections(world: AbuseWorld): Promise<void> {
  const { to, guest } = world;
  const listener = new HostListener();
  const probe = new Probe(to, 0, listener.port, 1);
  const frame = probe.frame(2, { ack: 0 });
  const view = new DataView(frame.buffer);
  await world.beside(CONNECTIONS, (i) => {
    // Different addresses of loopback beyond the ports that there are.
    view.setUint16(34, 1024 + i % 60_000);
    view.setUint16(36, listener.port - Math.floor(i / 60_000));
    return frame;
  }, 64);
  await guest.drained();
  const open = countDescriptors(world.process.pid);
  assert(open > FEW / 2 && open < FEW - 20, `${open} of ${FEW}: there is a reserve`);
  assert(world.process.output.includes("--max-sockets"), "the log tells");
  listener.close();
  probe.close();
}

/** A guest that opens connections, is sent a lot over them, and says nothing to it. */
async function guestIgnores(world: AbuseWorld, window: number): Promise<void> {
  const { to, good } = world;
  const listener = new HostListener();
  const ports = Array.from({ length: 32 }, (_, i) => 10_000 + i);
  const probes = await openProbes(to, listener, ports, (i) => 0xffff_fff0 + i);
  for (const probe of probes) {
    probe.window = window;
    await probe.send("A");
  }
  const data = new Uint8Array(1 << 20).fill(7);
  for (const { host } of probes) while (host!.send(data) > 0);
  for (let trip = 0; trip < 100; trip++) await good.roundTrip();
  for (const probe of probes) probe.close();
  listener.close();
}

/** A guest whose receive ring is full: nothing can be said to it for a while. */
async function ringIsFull(world: AbuseWorld): Promise<void> {
  const { to, guest, good } = world;
  const listener = new HostListener();
  const probes = await openProbes(to, listener, [10_000, 10_001], () => 5);
  const data = new Uint8Array(1 << 20).fill(7);
  const frame = udpPacket(ENDS, 6000, 9, EMPTY);
  for (const { host } of probes) while (host!.send(data) > 0);
  const refused = probes[0].frame(16, { seq: 0, ack: 0 });
  new DataView(refused.buffer).setUint16(34, 77); // of no connection: RST
  for (let i = 0; guest.waiting < 256; i++) {
    if (i > 2000) throw new Error("the receive ring does not fill");
    await guest.send(i % 2 === 0 ? refused : frame);
    await guest.drained();
  }
  for (let i = 0; i < 2000; i++) await guest.send(i % 2 === 0 ? refused : frame);
  await guest.drained();
  for (const probe of probes) probe.close();
  for (let trip = 0; trip < 10; trip++) await good.roundTrip();
  listener.close();
}

/** The guest sends on and on to somebody who never reads, whatever the window is. */
async function peerIgnores(world: AbuseWorld): Promise<void> {
  const { to } = world;
  const listener = new HostListener(undefined, 4096);
  const ports = Array.from({ length: 16 }, (_, i) => 10_000 + i);
  const probes = await openProbes(to, listener, ports, (i) => 0xffff_0000 + i);
  const data = new Uint8Array(1400).fill(9);
  await world.beside(DATAGRAMS >> 2, (i) => {
    const probe = probes[i % probes.length];
    const frame = probe.frame(24, { data });
    probe.seq = probe.seq + data.length >>> 0;
    probe.got = [];
    return frame;
  });
  for (const probe of probes) probe.close();
  listener.close();
}

/** Datagrams from `ports` ports of the guest, of which a host's socket gets all it can. */
async function datagrams(world: AbuseWorld, ports: number): Promise<void> {
  const host = new HostUdp(LOOPBACK4);
  const frame = udpPacket(ENDS, 1, host.port, new Uint8Array(200));
  const view = new DataView(frame.buffer);
  view.setUint16(40, 0);
  await world.beside(DATAGRAMS, (i) => {
    view.setUint16(34, 1024 + i % ports);
    return frame;
  });
  assert(host.receive() !== undefined);
  host.close();
}

async function pings(world: AbuseWorld): Promise<void> {
  const next = noise(3);
  await world.beside(5000, () => echoPacket(ENDS, next() & 0xffff, 1, EMPTY), 64);
}

/** Questions with some bytes changed, some cut off, and lengths and sums as they are. */
async function malformedQuestions(world: AbuseWorld): Promise<void> {
  const next = noise(20);
  let answers = 0;
  world.to.other = () => void answers++;
  await world.beside(MUTATIONS, (i) => malformed(next, i));
  assert(answers > 0, "nothing was understood at all");
}

const FLOODS: readonly Abuse[] = [
  { name: `${CONNECTIONS} connections`, run: manyConnections },
  { name: "datagrams from 3,000 ports", run: (world) => datagrams(world, 3000) },
  { name: "pings with 5,000 identifiers", run: pings },
];

abuses("a guest that uses up descriptors", { descriptors: FEW }, FLOODS);

abuses("a guest that takes nothing, or talks nonsense", {}, [
  { name: "it never acknowledges", run: (world) => guestIgnores(world, 65535) },
  { name: "its windows are closed", run: (world) => guestIgnores(world, 0) },
  { name: "its receive ring is full", run: ringIsFull },
  { name: "its peers never read", run: peerIgnores },
  { name: "datagrams from one port", run: (world) => datagrams(world, 1) },
  { name: "malformed DHCP, NDP and DHCPv6", run: malformedQuestions },
]);
