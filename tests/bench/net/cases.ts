/** What is measured where the guest is a namespace. */
import { until } from "../../support/lab_process.ts";
import type { Work } from "../load/client.ts";
import type { Reading } from "../load/counters.ts";
import type { Running } from "./contender.ts";
import { FORWARDED } from "./contender.ts";
import type { GuestSpace } from "./frontend.ts";
import { descriptorsOfOne } from "./limits.ts";
import type { Load } from "./load.ts";
import { ADDRESS } from "./network.ts";
import type { Figures } from "./results.ts";

/** A back-end with its guest, ready to be measured. */
export interface Session {
  readonly backend: Running;
  readonly space: GuestSpace;
  readonly guest: Load;
  readonly peer: Load;
  readonly seconds: number;
  /** How many connections are idle where that is the case. */
  readonly idle: number;
}

export interface NetCase {
  readonly name: string;
  /** Of the guest's link; all if undefined. */
  readonly mtus?: readonly number[];
  readonly measure: (session: Session) => Promise<Figures>;
}

/** Where the peer serves streams, more than one port for many connections. */
export const PEER_PORTS = [7100, 7101, 7102, 7103];
export const PEER_DATAGRAMS = [7110];
export const GUEST_PORTS = [FORWARDED.first];
export const GUEST_DATAGRAMS = [FORWARDED.first + 1];
const GIB = 2 ** 30;
const WARM_UP_MS = 400;
/** A socket's queue is empty when nothing came for this long. */
const QUIET_MS = 100;
/** A lost SYN comes again after 1 s, then 2 s and so on. */
const CONNECTING_MS = 8000;
/** All idle connections are there by then, or some are lost. */
const OPENING_MS = 240_000;
/** A back-end that opens no more in this time opens no more at all. */
const STANDSTILL_MS = 5000;
/** A back-end may need a timer for each connection, besides its socket. */
const EACH = 2;
/** Descriptors that are left for all else. */
const SPARE = 1000;

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

type Side = "guest" | "peer";
type Order = Partial<Work> & Pick<Work, "kind">;

/** What one side does to the other. */
function work(from: Side, order: Order): Work & { name: string } {
  const datagrams = order.kind === "flood";
  const guests = datagrams ? GUEST_DATAGRAMS : GUEST_PORTS;
  const peers = datagrams ? PEER_DATAGRAMS : PEER_PORTS;
  return {
    name: "work",
    address: from === "guest" ? ADDRESS.peer : ADDRESS.guest,
    ports: from === "guest" ? peers.slice(0, 1) : guests,
    count: 1,
    size: 0,
    ...order,
  };
}

interface Window {
  readonly guest: Reading;
  readonly peer: Reading;
  readonly cpuSeconds: number;
}

/** Counts at both ends, and the back-end's CPU, over the session's time. */
async function observe(session: Session): Promise<Window> {
  const { backend, guest, peer } = session;
  await Promise.all([guest.call("mark", {}), peer.call("mark", {})]);
  const before = backend.cpuSeconds();
  await sleep(session.seconds * 1000);
  const cpuSeconds = backend.cpuSeconds() - before;
  const [inside, outside] = await Promise.all([
    guest.call("read", {}),
    peer.call("read", {}),
  ]);
  if (backend.ended) throw new Error("it is gone");
  return { guest: inside, peer: outside, cpuSeconds };
}

/** Has `from` work while it is observed, once it is under way. */
async function during(session: Session, from: Side, order: Order): Promise<Window> {
  const load = session[from];
  await load.call("mark", {});
  await load.call("start", work(from, order));
  const connections = order.kind === "once" ? 1 : order.count ?? 1;
  try {
    await until(`${connections} connections are open`, async () => {
      const { operations, failed } = await load.call("read", {});
      return operations + failed >= connections;
    }, CONNECTING_MS);
    await sleep(WARM_UP_MS);
    return await observe(session);
  } finally {
    await load.call("stop", { name: "work" });
  }
}

function throughput({ guest, peer, cpuSeconds }: Window): Figures {
  const bytes = guest.received + peer.received;
  if (bytes === 0) throw new Error("nothing arrived");
  const rate = guest.received / guest.seconds + peer.received / peer.seconds;
  return { throughput: rate * 8 / 1e9, "CPU per GiB": cpuSeconds / (bytes / GIB) };
}

const DIRECTIONS = { up: "sink", down: "source", both: "both" } as const;

function streams(direction: keyof typeof DIRECTIONS, count: number): NetCase {
  const kind = DIRECTIONS[direction];
  return {
    name: `TCP ${direction}, ${count} ${count === 1 ? "stream" : "streams"}`,
    measure: async (session) =>
      throughput(await during(session, "guest", { kind, count })),
  };
}

/** All that was sent has come, or is lost. */
async function settled(load: Load): Promise<number> {
  let before = -1;
  let now = (await load.call("read", {})).datagramsReceived;
  await until("the datagrams have come", async () => {
    before = now;
    await sleep(QUIET_MS);
    now = (await load.call("read", {})).datagramsReceived;
    return now === before;
  });
  return now;
}

function datagrams(from: Side, size: number): NetCase {
  const to = from === "guest" ? "peer" : "guest";
  return {
    name: `UDP ${from === "guest" ? "up" : "down"}, ${size} bytes`,
    mtus: [1500],
    measure: async (session) => {
      const { backend, space } = session;
      const [sender, receiver] = [session[from], session[to]];
      const order = work(from, { kind: "flood", size });
      // The first datagrams make the flow.
      await sender.call("start", order);
      await sleep(WARM_UP_MS);
      await sender.call("stop", { name: "work" });
      await settled(receiver);
      const lost = await space.dropped();
      const before = backend.cpuSeconds();
      await Promise.all([sender.call("mark", {}), receiver.call("mark", {})]);
      await sender.call("start", order);
      await sleep(session.seconds * 1000);
      await sender.call("stop", { name: "work" });
      const { datagramsSent, seconds } = await sender.call("read", {});
      const received = await settled(receiver);
      const cpuSeconds = backend.cpuSeconds() - before;
      if (received === 0) throw new Error("nothing arrived");
      const offered = datagramsSent - (await space.dropped() - lost);
      return {
        datagrams: received / seconds / 1e3,
        loss: Math.max(0, 100 * (1 - received / offered)),
        "CPU per million": cpuSeconds / received * 1e6,
      };
    },
  };
}

function requests(what: "echo" | "once", from: Side, count: number): NetCase {
  const many = count === 1 ? "" : `, ${count} at once`;
  const name = what === "echo" ? "TCP request-response" : "TCP connect-request-response";
  return {
    name: `${name}${from === "peer" ? ", forwarded" : ""}${many}`,
    mtus: [1500],
    measure: async (session) => {
      const window = await during(session, from, { kind: what, count });
      const { operations, failed, seconds, p50, p99, p999 } = window[from];
      if (operations === 0) throw new Error("nothing was answered");
      return {
        failed: 100 * failed / (operations + failed),
        requests: operations / seconds / 1e3,
        p50: p50 * 1e3,
        p99: p99 * 1e3,
        "p99.9": p999 * 1e3,
        "CPU per million": window.cpuSeconds / operations * 1e6,
      };
    },
  };
}

/** Opens idle connections, as many as the machine lets a process have; how many it were. */
async function openIdle({ guest, idle }: Session): Promise<number> {
  await guest.call("mark", {});
  const count = Math.min(idle, Math.floor((await descriptorsOfOne() - SPARE) / EACH));
  const order = work("guest", { kind: "idle", count, ports: PEER_PORTS });
  await guest.call("start", { ...order, name: "idle" });
  let done = 0;
  let since = performance.now();
  await until("idle connections are open", async () => {
    await sleep(QUIET_MS);
    const { operations, failed } = await guest.call("read", {});
    if (operations + failed > done) since = performance.now();
    done = operations + failed;
    return done >= count || performance.now() - since > STANDSTILL_MS;
  }, OPENING_MS);
  return (await guest.call("read", {})).operations;
}

/** What many connections cost that do nothing, and what one that is busy loses by them. */
const besideIdle: NetCase = {
  name: "TCP down, 1 stream beside many idle connections",
  mtus: [1500],
  measure: async (session) => {
    const { backend } = session;
    const busy = async () => (await streams("down", 1).measure(session)).throughput!;
    const [alone, before] = [await busy(), backend.memory().anonymous];
    try {
      const opened = await openIdle(session);
      if (opened === 0) throw new Error("no idle connection could be opened");
      const [beside, after] = [await busy(), backend.memory().anonymous];
      return {
        "idle connections": opened / 1000,
        "kept beside idle": 100 * beside / alone,
        "memory per idle": (after - before) * 2 ** 20 / opened,
      };
    } finally {
      await session.guest.call("stop", { name: "idle" });
    }
  },
};

export const NET_CASES: readonly NetCase[] = [
  ...[1, 8, 64].flatMap((count) =>
    (["up", "down", "both"] as const).map((direction) => streams(direction, count))
  ),
  ...[64, 1400].flatMap((size) =>
    (["guest", "peer"] as const).map((from) => datagrams(from, size))
  ),
  requests("echo", "guest", 1),
  requests("echo", "guest", 32),
  requests("once", "guest", 1),
  requests("once", "guest", 32),
  requests("once", "peer", 32),
  besideIdle,
];
