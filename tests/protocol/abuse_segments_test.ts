/**
 * Segments with every combination of flags, in the states of a connection that both
 * sides know of, and without one, with sequence numbers that are right, overlap, wrap, or lie outside of the window: by RFC 9293, section
 * 3.10.7, and RFC 5961.
 */
import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { abuses, type AbuseWorld } from "../support/abuse_world.ts";
import { HostListener } from "../support/host_tcp.ts";
import { until } from "../support/lab_process.ts";
import { letters, openProbes, Probe } from "../support/probe.ts";
import {
  batches,
  type Case,
  COMBINATIONS,
  everyCase,
  NEW,
  type Place,
  PLACES,
  START,
} from "../support/segment_places.ts";

const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];
const EMPTY = new Uint8Array(0);
const FIRST_PORT = 20_000;
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
/** Looks at what came of a segment, and whether the connection goes on where it was. */
type Judge = (probe: Probe, one: Case, world: AbuseWorld) => Promise<void>;

/** The peer ends its side, and the guest gets to know of it. */
async function peerEnds(probes: readonly Probe[], { to }: AbuseWorld): Promise<void> {
  for (const { host } of probes) host!.shutdown();
  await until("FIN", () => {
    to.pump();
    return probes.every(({ got }) => got.some(({ flags }) => flags.includes("F")));
  });
}

/** A state in which both sides know of the connection, the guest's side of it. */
interface State {
  readonly name: string;
  readonly prepare: Prepare;
  readonly judge: Judge;
}

const STATES: readonly State[] = [
  { name: "ESTABLISHED", prepare: async () => {}, judge },
  {
    name: "FIN-WAIT-2",
    prepare: async (probes, world) => {
      await peerEnds(probes, world);
      for (const probe of probes) {
        probe.ack = probe.ack + 1 >>> 0;
        await probe.send("A");
        probe.got = [];
      }
    },
    judge,
  },
  {
    name: "FIN-WAIT-1",
    prepare: async (probes, world) => {
      await peerEnds(probes, world);
      for (const probe of probes) probe.got = [];
    },
    judge,
  },
  {
    name: "CLOSE-WAIT",
    prepare: async (probes, { to }) => {
      for (const probe of probes) {
        await probe.send("FA");
        probe.seq = probe.seq + 1 >>> 0;
      }
      await until("FIN at the peers", () => {
        to.pump();
        return probes.every((probe) => drain(probe).end);
      });
    },
    judge: judgeEnded,
  },
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
  judge: Judge,
  cases: readonly Case[],
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
  for (const [i, one] of cases.entries()) await judge(probes[i], one, world);
  for (const probe of probes) {
    await probe.send("RA"); // by now in sequence, whatever has come of it
    probe.close();
  }
  await good.roundTrip(100);
  listener.close();
}

async function judge(probe: Probe, { flags, place }: Case): Promise<void> {
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

/** The guest has ended its side: nothing of it counts any more but RST. */
async function judgeEnded(
  probe: Probe,
  { flags, place }: Case,
  { to }: AbuseWorld,
): Promise<void> {
  const what = `${letters(flags)}, ${place.name}`;
  const reset = (flags & RST) !== 0 && place.seq === 0;
  const { bytes, end } = drain(probe);
  assertEquals(bytes, [], what);
  assert(end, what);
  // What Linux makes of RST in CLOSE-WAIT.
  assertEquals(probe.host!.error, reset ? Errno.EPIPE : 0, what);
  if (reset) return;
  assertEquals(probe.host!.send(NEW), NEW.length, what);
  await until(`${what}: data after it`, () => {
    to.pump();
    return probe.got.some(({ seq, data }) => seq === probe.ack && data.length > 0);
  });
  const { ack, data } = probe.got.find(({ data }) => data.length > 0)!;
  assertEquals(data, NEW, what);
  assertEquals(ack, probe.seq, what);
}

async function known(
  world: AbuseWorld,
  { prepare, judge }: State,
  shift: number,
): Promise<void> {
  for (const cases of batches(everyCase(shift))) {
    await batch(world, prepare, judge, cases);
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

abuses("segments with every combination of flags", {}, [
  { name: "CLOSED", run: closed },
  ...STATES.map((state, i) => ({
    name: state.name,
    run: (world: AbuseWorld) => known(world, state, i),
  })),
]);
