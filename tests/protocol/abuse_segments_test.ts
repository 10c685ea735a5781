/**
 * Segments with every combination of flags, in every state of a connection, with sequence
 * numbers that are right, overlap, wrap, or lie outside of the window: by RFC 9293, section
 * 3.10.7, and RFC 5961.
 */
import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { abuses, type AbuseWorld, LONG } from "../support/abuse_world.ts";
import { HostListener } from "../support/host_tcp.ts";
import { until } from "../support/lab_process.ts";
import { letters, openProbes, Probe } from "../support/probe.ts";

/** CWR, ECE, URG, ACK, PSH, RST, SYN, FIN; in the long form also with and without NS. */
const COMBINATIONS = LONG ? 512 : 256;
const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];
/** Connections at once. */
const BATCH = 64;
const FIRST_PORT = 20_000;
/** Where numbering starts: what follows soon goes over 2 ** 32. */
const START = 0xffff_fffd;
const EMPTY = new Uint8Array(0);
const NEW = Uint8Array.of(1, 2, 3, 4, 5, 6, 7);
const WRONG = 0xee;

/** A segment's place: what it says, from what would be right. */
interface Place {
  readonly name: string;
  readonly seq: number;
  readonly ack: number;
  /** Its payload, of which what the peer has already is wrong. */
  readonly data: Uint8Array;
}

function overlapping(before: number): Uint8Array {
  return Uint8Array.from([...new Uint8Array(before).fill(WRONG), ...NEW]);
}

/** Far outside of any window that the guest ever offered. */
const PLACES: readonly Place[] = [
  { name: "next, no data", seq: 0, ack: 0, data: EMPTY },
  { name: "next", seq: 0, ack: 0, data: NEW },
  { name: "overlaps what has come", seq: -2, ack: 0, data: overlapping(2) },
  { name: "all of it has come", seq: -2, ack: 0, data: overlapping(2).subarray(0, 2) },
  { name: "behind a hole", seq: 5, ack: 0, data: NEW },
  { name: "beyond the window", seq: 2 ** 24 + 70_000, ack: 0, data: NEW },
  { name: "before all", seq: -100_000, ack: 0, data: NEW },
  { name: "half the numbers away", seq: 2 ** 31, ack: 0, data: NEW },
  { name: "acknowledges what was never sent", seq: 0, ack: 2, data: NEW },
  { name: "acknowledges what was never sent, by far", seq: 0, ack: 2 ** 30, data: NEW },
  { name: "acknowledges long ago", seq: 0, ack: -(2 ** 30), data: NEW },
];

/** What comes of a segment in a connection that is open on the guest's side. */
interface Outcome {
  readonly reset: boolean;
  readonly data: Uint8Array;
  readonly fin: boolean;
}
const IGNORED: Outcome = { reset: false, data: EMPTY, fin: false };

function outcome(flags: number, place: Place): Outcome {
  if ((flags & RST) !== 0) return { ...IGNORED, reset: place.seq === 0 };
  if ((flags & SYN) !== 0 || (flags & ACK) === 0) return IGNORED;
  if (place.ack !== 0) return IGNORED; // RFC 5961, section 5.2
  const old = -place.seq;
  const end = place.seq + place.data.length;
  if (old < 0 || end < 0) return IGNORED;
  return {
    reset: false,
    data: place.data.subarray(old),
    fin: (flags & FIN) !== 0 && end >= 0,
  };
}

type Prepare = (probes: readonly Probe[], world: AbuseWorld) => Promise<void>;

/** States in which both sides know of the connection. */
const STATES: readonly (readonly [name: string, prepare: Prepare])[] = [
  ["ESTABLISHED", async () => {}],
  ["FIN-WAIT-2", async (probes, { to }) => {
    for (const { host } of probes) host!.shutdown();
    await until("FIN", () => {
      to.pump();
      return probes.every(({ got }) => got.some(({ flags }) => flags.includes("F")));
    });
    for (const probe of probes) {
      probe.ack = probe.ack + 1 >>> 0;
      await probe.send("A");
      probe.got = [];
    }
  }],
  ["FIN-WAIT-1", async (probes, { to }) => {
    for (const { host } of probes) host!.shutdown();
    await until("FIN", () => {
      to.pump();
      return probes.every(({ got }) => got.some(({ flags }) => flags.includes("F")));
    });
    for (const probe of probes) probe.got = [];
  }],
];

/** All that a host's end has got by now. */
function drain(probe: Probe): { bytes: number[]; end: boolean; failed: number } {
  const bytes: number[] = [];
  for (;;) {
    const got = probe.host!.receive();
    if (typeof got === "number") return { bytes, end: false, failed: got };
    if (got === "end") return { bytes, end: true, failed: 0 };
    if (got.length === 0) return { bytes, end: false, failed: 0 };
    bytes.push(...got);
  }
}

/** One segment on each of a batch of connections; then what became of them. */
async function batch(
  world: AbuseWorld,
  prepare: Prepare,
  cases: readonly { flags: number; place: Place }[],
): Promise<void> {
  const { to, good, guest } = world;
  const listener = new HostListener();
  const ports = cases.map((_, i) => FIRST_PORT + i);
  const probes = await openProbes(to, listener, ports, (i) => START + i % 2);
  await prepare(probes, world);
  for (const [i, { flags, place }] of cases.entries()) {
    const probe = probes[i];
    const seq = probe.seq + place.seq;
    const ack = probe.ack + place.ack;
    await guest.send(probe.frame(flags, { seq, ack, data: place.data }));
  }
  await good.roundTrip(100);
  for (const [i, one] of cases.entries()) await judge(probes[i], one);
  for (const probe of probes) {
    await probe.send("RA"); // by now in sequence, whatever has come of it
    probe.close();
  }
  await good.roundTrip(100);
  listener.close();
}

async function judge(
  probe: Probe,
  { flags, place }: { flags: number; place: Place },
): Promise<void> {
  const what = `${letters(flags)}, ${place.name}`;
  const wanted = outcome(flags, place);
  const found = drain(probe);
  assertEquals(found.bytes, [...wanted.data], what);
  assertEquals(found.end, wanted.fin, what);
  assertEquals(found.failed, wanted.reset ? Errno.ECONNRESET : 0, what);
  probe.seq = probe.seq + wanted.data.length + (wanted.fin ? 1 : 0) >>> 0;
  if (wanted.reset || wanted.fin) return;
  // The connection goes on where it was.
  await probe.send("PA", { data: NEW });
  probe.seq = probe.seq + NEW.length >>> 0;
  const more: number[] = [];
  await until(`${what}: data after it`, () => {
    more.push(...drain(probe).bytes);
    return more.length >= NEW.length;
  });
  assertEquals(more, [...NEW], what);
}

async function known(world: AbuseWorld, prepare: Prepare, shift: number): Promise<void> {
  const cases = [];
  for (let flags = 0; flags < COMBINATIONS; flags++) {
    const places = LONG ? PLACES : [PLACES[(flags * 7 + shift) % PLACES.length]];
    for (const place of places) cases.push({ flags, place });
  }
  for (let i = 0; i < cases.length; i += BATCH) {
    await batch(world, prepare, cases.slice(i, i + BATCH));
  }
}

/** Without a connection: RFC 9293, section 3.10.7.1; each answer is told in full. */
async function closed(world: AbuseWorld): Promise<void> {
  const { to, good, guest } = world;
  const listener = new HostListener();
  const { port } = listener;
  listener.close();
  for (let flags = 0; flags < COMBINATIONS; flags++) {
    const { seq, data } = PLACES[flags % PLACES.length];
    const probe = new Probe(to, FIRST_PORT + flags, port, START + seq);
    probe.ack = flags * 0x12_3456 >>> 0;
    await guest.send(probe.frame(flags, { data }));
    if (flags % 32 === 31) await good.roundTrip(100);
    if ((flags & RST) !== 0) {
      await good.roundTrip(10);
      assertEquals(probe.got, [], letters(flags));
    } else {
      await until(`an answer to ${letters(flags)}`, () => {
        to.pump();
        return probe.got.length > 0;
      });
      const [answer] = probe.got;
      const length = data.length + ((flags & SYN) >> 1) + (flags & FIN);
      // Whoever opens a connection sends no data that would count (section 3.10.7.1).
      const counted = (flags & (SYN | ACK | FIN)) === SYN ? 1 : length;
      const acked = (flags & ACK) !== 0;
      assertEquals(answer.flags, acked ? "R" : "RA", letters(flags));
      assertEquals(answer.seq, acked ? probe.ack : 0, letters(flags));
      if (!acked) assertEquals(answer.ack, probe.seq + counted >>> 0, letters(flags));
    }
    probe.close();
  }
}

/** The peer has accepted, the guest has not yet said that it knows. */
async function synReceived(world: AbuseWorld): Promise<void> {
  const { to, good, guest } = world;
  const listener = new HostListener();
  for (let first = 0; first < COMBINATIONS; first += BATCH) {
    const probes: { probe: Probe; flags: number; place: Place }[] = [];
    for (let flags = first; flags < first + BATCH; flags++) {
      const place = PLACES[flags % PLACES.length];
      const probe = new Probe(to, FIRST_PORT + flags, listener.port, START);
      probes.push({ probe, flags, place });
      await probe.syn();
    }
    await until("answers", () => {
      to.pump();
      return probes.every(({ probe }) => probe.takeSyn() || probe.ack !== 0);
    });
    for (const { probe, flags, place } of probes) {
      const [seq, ack] = [probe.seq + place.seq, probe.ack + place.ack];
      await guest.send(probe.frame(flags, { seq, ack }));
    }
    await good.roundTrip(100);
    for (const { probe, flags, place } of probes) {
      const reset = (flags & RST) !== 0 && place.seq === 0;
      await probe.send("A");
      await probe.send("PA", { data: NEW });
      const what = `${letters(flags)}, ${place.name}`;
      probe.got = [];
      const fin = (flags & (FIN | SYN | RST | ACK)) === (FIN | ACK) && place.ack === 0 &&
        place.seq <= 0;
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
    for (let host = listener.accept(); host !== undefined; host = listener.accept()) {
      host.close();
    }
  }
  listener.close();
}

abuses("segments with every combination of flags", {}, [
  { name: "CLOSED", run: closed },
  { name: "SYN-RECEIVED", run: synReceived },
  ...STATES.map(([name, prepare], i) => ({
    name,
    run: (world: AbuseWorld) => known(world, prepare, i),
  })),
]);
