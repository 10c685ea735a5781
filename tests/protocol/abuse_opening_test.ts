/**
 * Segments with every combination of flags while a connection is opened, by the guest
 * (SYN-RECEIVED) or towards it (SYN-SENT): RFC 9293, sections 3.10.7.3 and 3.10.7.4.
 */
import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { parseAddress } from "../../src/wire/address.ts";
import { abuses, type AbuseWorld } from "../support/abuse_world.ts";
import { HostListener, HostTcp } from "../support/host_tcp.ts";
import { until } from "../support/lab_process.ts";
import { letters, Probe } from "../support/probe.ts";
import {
  BATCH,
  batches,
  type Case,
  everyCase,
  NEW,
  START,
} from "../support/segment_places.ts";
import { synOptions } from "../support/tcp_segment.ts";

const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];
const FIRST_PORT = 20_000;
/** An address of loopback of this process alone, whose ports nobody else takes. */
const HOST = `127.${Deno.pid >> 14 & 63 | 128}.${Deno.pid >> 7 & 127}.${
  1 + Deno.pid % 128
}`;
const ADDRESS = parseAddress(HOST) as Uint8Array;
/** Forwarded to the same ports of the guest. */
const FORWARDED = 7000;

interface Tried extends Case {
  readonly probe: Probe;
}

/** Flags of what has come, but of SYNs: those are repeated by the clock. */
function answers({ got }: Probe): string[] {
  return got.map(({ flags }) => flags).filter((flags) => !flags.includes("S"));
}

/** Whether the guest's segment without data may be looked at, and ends the handshake. */
function completes({ flags, place }: Case): boolean {
  return (flags & (SYN | RST | ACK)) === ACK && place.ack === 0 && isInside(place.seq);
}

/** No place lies inside the window but for its beginning; none reaches into it. */
function isInside(seq: number): boolean {
  return seq >= 0 && seq < 65535;
}

/** What is said to a segment that does not open the connection. */
function answersToClosed({ flags, place }: Case): string[] {
  if ((flags & RST) !== 0) return place.seq !== 0 && isInside(place.seq) ? ["A"] : [];
  if ((flags & SYN) !== 0) return []; // SYN and ACK, once more
  if (!isInside(place.seq)) return ["A"];
  return (flags & ACK) === 0 ? [] : ["R"];
}

/** The peer has accepted, the guest has not yet said that it knows. */
async function synReceived(world: AbuseWorld): Promise<void> {
  const { to, good, guest } = world;
  const listener = new HostListener();
  for (const cases of batches(everyCase(0))) {
    const tried: Tried[] = cases.map((one, i) => {
      const probe = new Probe(to, FIRST_PORT + i, listener.port, START);
      return { ...one, probe };
    });
    for (const { probe } of tried) await probe.syn();
    await until("answers", () => {
      to.pump();
      return tried.every(({ probe }) => probe.takeSyn() || probe.ack !== 0);
    });
    for (const { probe, flags, place } of tried) {
      const [seq, ack] = [probe.seq + place.seq, probe.ack + place.ack];
      await guest.send(probe.frame(flags, { seq, ack }));
    }
    await good.roundTrip(100);
    for (const one of tried) await judgeReceived(one, world);
    for (let host = listener.accept(); host !== undefined; host = listener.accept()) {
      host.close();
    }
    await good.roundTrip(100);
  }
  listener.close();
}

async function judgeReceived(one: Tried, { to }: AbuseWorld): Promise<void> {
  const { probe, flags, place } = one;
  const what = `${letters(flags)}, ${place.name}`;
  const reset = (flags & RST) !== 0 && place.seq === 0;
  const open = completes(one);
  if (!open) assertEquals(answers(probe), answersToClosed(one), what);
  if (!reset) {
    probe.got = [];
    await probe.send("S", { seq: START, ack: 0 });
    await until(`${what}: whether it is open`, () => {
      to.pump();
      return probe.got.some(({ flags }) => flags === (open ? "A" : "SA"));
    });
    assert(!open || !probe.got.some(({ flags }) => flags === "SA"), what);
  }
  probe.got = [];
  await probe.send("A");
  await probe.send("PA", { data: NEW });
  const fin = open && (flags & FIN) !== 0 && place.seq === 0;
  await until(`${what}: an answer`, () => {
    to.pump();
    return probe.got.some((segment) =>
      reset ? segment.flags === "R" : segment.ack !== probe.seq || fin
    );
  });
  assert(reset || !probe.got.some(({ flags }) => flags === "R"), what);
  probe.seq = probe.got.at(-1)!.ack;
  if (!reset) await probe.send("RA");
  probe.close();
}

/** A connection from outside to a forwarded port each, for which the guest got a SYN. */
async function offered(to: AbuseWorld["to"], cases: readonly Case[]): Promise<Tried[]> {
  const tried = cases.map((one, i) => {
    const host = HostTcp.connect(ADDRESS, FORWARDED + i);
    const probe = new Probe(to, FORWARDED + i, host.port, START);
    probe.host = host;
    return { ...one, probe };
  });
  await until("SYNs", () => {
    to.pump();
    return tried.every(({ probe }) => probe.takeSyn() || probe.ack !== 0);
  });
  return tried;
}

/** A peer's connection was accepted, and the guest was sent a SYN. */
async function synSent(world: AbuseWorld): Promise<void> {
  const { to, good, guest } = world;
  for (const cases of batches(everyCase(1))) {
    const tried = await offered(to, cases);
    for (const { probe, flags, place } of tried) {
      const [seq, ack] = [probe.seq + place.seq, probe.ack + place.ack];
      await guest.send(probe.frame(flags, { seq, ack, data: place.data }));
    }
    await good.roundTrip(100);
    for (const one of tried) await judgeSent(one, world);
    for (const { probe } of tried) {
      await probe.send("RA");
      probe.close();
    }
    await good.roundTrip(100);
  }
}

async function judgeSent({ probe, flags, place }: Tried, { to }: AbuseWorld) {
  const what = `${letters(flags)}, ${place.name}`;
  const right = (flags & ACK) !== 0 && place.ack === 0;
  const opened = right && (flags & (SYN | RST)) === SYN;
  const refused = (flags & (RST | ACK)) === ACK && place.ack !== 0;
  assertEquals(answers(probe), opened ? ["A"] : refused ? ["R"] : [], what);
  if (refused) {
    const { seq } = probe.got.find(({ flags }) => flags === "R")!;
    assertEquals(seq, probe.ack + place.ack >>> 0, what);
  }
  const failed = right && (flags & RST) !== 0;
  assertEquals(
    probe.host!.receive(),
    failed ? Errno.ECONNRESET : new Uint8Array(0),
    what,
  );
  if (failed) return;
  if (opened) probe.seq = probe.seq + place.seq >>> 0;
  else {
    await probe.send("SA", { options: synOptions(1460, 0) });
    await until(`${what}: an acknowledgement`, () => {
      to.pump();
      return probe.got.some(({ flags, ack }) => flags === "A" && ack !== probe.seq);
    });
  }
  probe.seq = probe.seq + 1 >>> 0;
  await probe.send("PA", { data: NEW });
  probe.seq = probe.seq + NEW.length >>> 0;
  let got: ReturnType<HostTcp["receive"]> = new Uint8Array(0);
  await until(`${what}: data after it`, () => {
    got = probe.host!.receive();
    return !(got instanceof Uint8Array) || got.length > 0;
  });
  assertEquals(got, NEW, what);
}

const LAST = FORWARDED + BATCH - 1;
const PORTS = `${HOST}/${FORWARDED}-${LAST}`;

abuses("segments with every combination of flags while a connection is opened", {
  args: ["-t", PORTS],
}, [
  { name: "SYN-RECEIVED", run: synReceived },
  { name: "SYN-SENT", run: synSent },
]);
