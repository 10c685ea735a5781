/**
 * Peers that flood forwarded ports. SYNs with forged addresses are the business of the
 * host's kernel (tcp_syncookies): what comes to vuelo are connections that are made, and
 * never answered by the guest.
 */
import { assert, assertEquals } from "@std/assert";
import { parseAddress } from "../../src/wire/address.ts";
import { abuses, type AbuseWorld, LONG } from "../support/abuse_world.ts";
import { ENDS } from "../support/good_flow.ts";
import { HostTcp } from "../support/host_tcp.ts";
import { HostUdp } from "../support/host_udp.ts";
import { countDescriptors, until } from "../support/lab_process.ts";
import { Probe } from "../support/probe.ts";
import { synOptions } from "../support/tcp_segment.ts";
import { readPacket } from "../support/guest_packets.ts";

/** An address of loopback of this process alone, whose ports nobody else takes. */
const HOST = `127.${Deno.pid >> 14 & 63 | 64}.${Deno.pid >> 7 & 127}.${
  1 + Deno.pid % 128
}`;
const ADDRESS = parseAddress(HOST) as Uint8Array;
const PORT = 7000;
const GUEST_PORT = 80;
const CONNECTIONS = LONG ? 6000 : 300;
/** Connections that the guest may leave unanswered. */
const PENDING = CONNECTIONS / 3;
const DATAGRAMS = LONG ? 1_000_000 : 20_000;

/** Opens connections that the guest never answers, beside the good flow. */
async function unanswered(world: AbuseWorld): Promise<void> {
  const { good } = world;
  const before = countDescriptors(world.process.pid);
  const open: HostTcp[] = [];
  for (let i = 0; i < CONNECTIONS; i++) {
    open.push(HostTcp.connect(ADDRESS, PORT));
    if (i % 10 === 9) await good.roundTrip();
  }
  const kept = countDescriptors(world.process.pid) - before;
  assert(kept <= PENDING + 32, `${kept} connections wait for the guest`);
  await served(world);
  for (const one of open) one.close();
}

/** A connection from outside to the forwarded port, which the guest answers. */
async function served(world: AbuseWorld): Promise<void> {
  const { to } = world;
  const host = HostTcp.connect(ADDRESS, PORT);
  // Its SYN comes to the guest with the port that it has at the host.
  const probe = new Probe(to, GUEST_PORT, host.port, 0xffff_ff00);
  await until("a SYN of it", () => {
    to.pump();
    probe.got = probe.got.filter(({ fromPort }) => fromPort === host.port);
    return probe.takeSyn();
  });
  await probe.send("SA", { options: synOptions(1460, 0) });
  probe.seq = probe.seq + 1 >>> 0;
  await probe.send("PA", { data: Uint8Array.of(1, 2, 3) });
  let got: unknown;
  await until("what the guest says", () => {
    to.pump();
    got = host.receive();
    return got instanceof Uint8Array && got.length > 0;
  });
  assertEquals(got, Uint8Array.of(1, 2, 3));
  await probe.send("RA", { seq: probe.seq + 3 });
  host.close();
  probe.close();
}

/** Datagrams to a forwarded port from one peer, or from many. */
async function datagrams(world: AbuseWorld, peers: number): Promise<void> {
  const { good, to } = world;
  const address = parseAddress("127.0.0.1") as Uint8Array;
  const hosts = Array.from({ length: peers }, () => new HostUdp(address));
  let seen = 0;
  to.other = (frame) => {
    if (frame[12] === 8 && frame[13] === 0 && frame[23] === 17 && seen++ === 0) {
      assertEquals(readPacket(frame).to, ENDS.from);
    }
  };
  const data = new Uint8Array(500);
  for (let i = 0; i < DATAGRAMS; i++) {
    hosts[i % peers].send(data, ADDRESS, PORT);
    if (i % 256 === 255) await good.roundTrip();
  }
  assert(seen > 0, "none of them reached the guest");
  for (const host of hosts) host.close();
}

abuses("peers that flood forwarded ports", {
  args: [
    ...["-t", `${HOST}/${PORT}:${GUEST_PORT}`, "-u", `${HOST}/${PORT}:${GUEST_PORT}`],
    ...["--max-pending", `${PENDING}`],
  ],
}, [
  { name: `${CONNECTIONS} connections that the guest never answers`, run: unanswered },
  { name: "datagrams of one peer", run: (world) => datagrams(world, 1) },
  { name: "datagrams of 200 peers", run: (world) => datagrams(world, 200) },
]);
