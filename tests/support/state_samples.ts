/** States to move: one made by hand, and any, for tests of properties. */
import fc from "fast-check";
import { parseAddress } from "../../src/wire/address.ts";
import type {
  MovedDevice,
  MovedRule,
  MovedState,
  MovedTcp,
} from "../../src/wire/state/model.ts";

/** An address of 16 bytes. */
export const address = (text: string): Uint8Array => parseAddress(text) as Uint8Array;

/** What an entry is made of; the numbers of words as flow_entry.ts has them. */
export interface EntrySample {
  /** Kind, state and flags. */
  readonly kind: number;
  readonly guest: readonly [our: string, endpoint: string, ports: number];
  readonly host: readonly [our: string, endpoint: string, ports: number];
  /** From word 20 on. */
  readonly own: readonly number[];
}

/** Lays entries in memory. */
export function entriesOf(samples: readonly EntrySample[]): Int32Array<ArrayBuffer> {
  const words = new Int32Array(samples.length * 32);
  const bytes = new Uint8Array(words.buffer);
  samples.forEach(({ kind, guest, host, own }, i) => {
    words[i * 32] = kind;
    [[guest, 1], [host, 10]].forEach(([side, at]) => {
      const [our, endpoint, ports] = side as EntrySample["guest"];
      const word = i * 32 + (at as number);
      words[word] = ports;
      bytes.set(address(our), word * 4 + 4);
      bytes.set(address(endpoint), word * 4 + 20);
    });
    words[i * 32 + 19] = -1;
    words.set(own, i * 32 + 20);
  });
  return words;
}

/** A TCP record with nothing special about it. */
export function tcpSample(flow: number, changes: Partial<MovedTcp> = {}): MovedTcp {
  return {
    flow,
    lost: "",
    state: 1,
    options: 7,
    sendScale: 7,
    receiveScale: 10,
    sendSequence: 0x9b2ae4b8,
    receiveSequence: 0xfadcea50,
    notSent: 0,
    mss: 1460,
    timestamp: 0xe4f0e004,
    sndWl1: 0xfadcea50,
    sndWnd: 65536,
    maxWindow: 65536,
    rcvWnd: 64512,
    rcvWup: 0xfadcea5c,
    keepIdle: 0,
    keepInterval: 0,
    keepCount: 0,
    device: "",
    idle: 1500,
    gap: 0,
    gapEnd: 0,
    recover: 0,
    sendQueue: new Uint8Array(),
    receiveQueue: new Uint8Array(),
    ...changes,
  };
}

/** A record as a reader gives it of a connection that is lost. */
export function lostSample(flow: number, lost: string): MovedTcp {
  const zeros = Object.fromEntries(
    Object.entries(tcpSample(flow)).map((
      [key, value],
    ) => [key, typeof value === "number" ? 0 : value]),
  );
  return { ...zeros as unknown as MovedTcp, flow, lost };
}

const TCP = 1 | 4 << 8;
const TCP_OWN = [1013, 1013, 1001, 2007, 2007, 2000, 0x01000100, 0x0807, 1460, 0];

/** Two TCP connections, a UDP flow, a ping, and two rules. */
export function sampleState(): MovedState {
  const text = (words: string) => new TextEncoder().encode(words);
  const entries = entriesOf([
    {
      kind: TCP | 1 << 21,
      guest: ["10.98.0.3", "10.98.0.1", 7000 << 16 | 40000],
      host: ["10.98.0.1", "10.98.0.3", 56706 << 16 | 7000],
      own: TCP_OWN,
    },
    {
      kind: TCP | 1 << 23,
      guest: ["fe80::1", "fd98::1", 55555 << 16 | 22],
      host: ["2001:db8::1", "2001:db8::2", 2222 << 16 | 55555],
      own: TCP_OWN,
    },
    {
      kind: 2 | 1 << 16,
      guest: ["10.98.0.2", "10.98.0.1", 53 << 16 | 5353],
      host: ["192.0.2.1", "192.0.2.53", 40001 << 16 | 53],
      own: [64, 1, 0, 0, 1452],
    },
    {
      kind: 3,
      guest: ["192.0.2.9", "10.98.0.1", 77],
      host: ["0.0.0.0", "192.0.2.9", 0],
      own: [64, 2],
    },
  ]);
  return {
    device: deviceSample(),
    entries,
    tcp: [
      tcpSample(0, {
        receiveQueue: text("unacked-data"),
        sendQueue: text("sent and not"),
        notSent: 4,
        device: "eth0",
        keepIdle: 60,
        keepInterval: 15,
        keepCount: 9,
      }),
      tcpSample(1, { receiveQueue: text("twelve bytes") }),
    ],
    udp: [{ flow: 2, idle: 20 }],
    ping: [{ flow: 3, idle: 0 }],
    rules: [
      { protocol: "tcp", first: 2222, last: 2222, guestFirst: 22, weak: false },
      {
        protocol: "udp",
        address: address("192.0.2.1"),
        interface: "eth0",
        first: 5000,
        last: 5010,
        guestFirst: 6000,
        guestAddress: address("10.98.0.1"),
        weak: true,
      },
    ],
  };
}

function deviceSample(): MovedDevice {
  return {
    mac: Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56),
    ourMac: Uint8Array.of(0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55),
    address4: address("10.98.0.1"),
    address6: address("fd98::1"),
    linkLocal6: address("fe80::5054:ff:fe12:3456"),
    mtu: 1500,
    featuresLo: 0x10b0_8000,
    featuresHi: 1,
    lease4: address("10.98.0.1"),
    lease4Prefix: 24,
    lease6: new Uint8Array(16),
    lease6Prefix: 0,
    savedAt: 1_795_000_000,
  };
}

const word = fc.nat(0xffffffff);
const octet = fc.nat(0xff);
const four = fc.tuple(fc.integer({ min: 1, max: 223 }), octet, octet, octet)
  .map((quad) => quad.join("."));
const six = fc.array(fc.nat(0xffff), { minLength: 7, maxLength: 7 })
  .map((groups) => ["2001", ...groups.map((group) => group.toString(16))].join(":"));
const pair = fc.oneof(fc.tuple(four, four), fc.tuple(six, six));
const sides = fc.oneof(
  fc.tuple(four, four, four, four),
  fc.tuple(six, six, six, six),
);
const queue = fc.uint8Array({ maxLength: 40 });
/** Fits a time of 32 bits. */
const time = fc.nat(0x7fffffff);
const window = fc.nat(2 ** 30);
const interfaceName = fc.stringMatching(/^[a-z][a-z0-9@._-]{0,14}$/);

/** A TCP connection: the flags of an established one and its record. */
const tcpFlow = fc.record({
  state: fc.constantFrom(2, 3, 4, 4, 4),
  flags: fc.nat(0xffff),
  fins: fc.constantFrom(0, 1 << 27, 1 << 27 | 1 << 17, 1 << 27 | 1 << 17 | 1 << 18),
  acknowledged: word,
  flying: fc.nat(40),
  rewound: fc.boolean(),
  fromGuest: fc.tuple(word, fc.nat(1 << 20), word),
  windows: word,
  counts: fc.tuple(fc.nat(14), fc.nat(14), octet),
  mss: fc.integer({ min: 1, max: 65535 }),
  scope: word,
  lost: fc.oneof({ weight: 5, arbitrary: fc.constant("") }, fc.constant("Grund: ä")),
  record: fc.record({
    state: fc.constantFrom(1, 4, 5, 7, 8, 9, 11),
    options: octet,
    sendScale: fc.nat(14),
    receiveScale: fc.nat(14),
    sendSequence: word,
    receiveSequence: word,
    mss: fc.integer({ min: 1, max: 65535 }),
    timestamp: word,
    sndWl1: word,
    sndWnd: window,
    maxWindow: window,
    rcvWnd: window,
    rcvWup: word,
    keepIdle: fc.nat(32767),
    keepInterval: fc.nat(32767),
    keepCount: fc.nat(127),
    device: fc.oneof(fc.constant(""), interfaceName),
    idle: time,
    gap: fc.nat(1),
    gapEnd: word,
    recover: word,
    sendQueue: queue,
  }),
  unsent: fc.double({ min: 0, max: 1, noNaN: true }),
  extra: queue,
});

type TcpChoice = typeof tcpFlow extends fc.Arbitrary<infer T> ? T : never;

const FIN_BITS = 1 << 27 | 1 << 17 | 1 << 18;

function tcpEntry(choice: TcpChoice): Pick<EntrySample, "kind" | "own"> {
  const { state, flags, fins, acknowledged, flying, fromGuest, counts } = choice;
  const established = state === 4;
  const highest = acknowledged + flying;
  const [sequence, taken, initial] = fromGuest;
  return {
    kind: 1 | state << 8 | flags << 16 & ~FIN_BITS | (established ? fins : 0),
    own: [
      choice.rewound ? acknowledged : highest,
      highest,
      acknowledged,
      sequence,
      sequence - taken,
      initial,
      choice.windows,
      counts[0] | counts[1] << 8 | counts[2] << 16,
      choice.mss,
      choice.scope,
    ],
  };
}

function tcpRecord(choice: TcpChoice, flow: number): MovedTcp {
  if (choice.lost !== "") return lostSample(flow, choice.lost);
  const { record, extra, unsent, flying } = choice;
  const receiveQueue = new Uint8Array(flying + extra.length);
  receiveQueue.set(extra, flying);
  const notSent = Math.floor(unsent * record.sendQueue.length);
  return { ...record, flow, lost: "", notSent, receiveQueue };
}

const datagramFlow = fc.record({
  ping: fc.boolean(),
  flags: fc.nat(3),
  ttl: octet,
  second: fc.nat(5),
  listener: fc.nat(100),
  scope: word,
  size: fc.nat(65535),
  idle: time,
});

const ports = fc.tuple(
  fc.integer({ min: 1, max: 65535 }),
  fc.integer({ min: 1, max: 65535 }),
);
const flow = fc.record({
  what: fc.oneof(tcpFlow, datagramFlow),
  sides,
  guestPort: fc.nat(65535),
  ports,
});

const device: fc.Arbitrary<MovedDevice> = fc.record({
  mac: fc.uint8Array({ minLength: 6, maxLength: 6 }),
  ourMac: fc.uint8Array({ minLength: 6, maxLength: 6 }),
  address4: fc.oneof(fc.constant(new Uint8Array(16)), four.map(address)),
  address6: fc.oneof(fc.constant(new Uint8Array(16)), six.map(address)),
  linkLocal6: fc.constantFrom(new Uint8Array(16), address("fe80::1:2:3")),
  mtu: fc.nat(65535),
  featuresLo: word,
  featuresHi: word,
  lease4: fc.oneof(fc.constant(new Uint8Array(16)), four.map(address)),
  lease4Prefix: fc.nat(32),
  lease6: fc.oneof(fc.constant(new Uint8Array(16)), six.map(address)),
  lease6Prefix: fc.nat(128),
  savedAt: time,
});

const rule: fc.Arbitrary<MovedRule> = fc.record({
  protocol: fc.constantFrom("tcp", "udp"),
  addresses: fc.option(pair),
  device: fc.option(interfaceName),
  first: fc.integer({ min: 1, max: 60000 }),
  extent: fc.nat(5000),
  guestFirst: fc.integer({ min: 1, max: 60000 }),
  target: fc.boolean(),
  weak: fc.boolean(),
}).map(({ protocol, addresses, device, first, extent, guestFirst, target, weak }) => ({
  protocol: protocol as "tcp" | "udp",
  ...addresses === null ? {} : { address: address(addresses[0]) },
  ...device === null ? {} : { interface: device },
  first,
  last: first + extent,
  guestFirst,
  ...addresses === null || !target ? {} : { guestAddress: address(addresses[1]) },
  weak,
}));

/** Any state that may be moved; its times fit 32 bits. */
export const anyState: fc.Arbitrary<MovedState> = fc.record({
  device,
  flows: fc.array(flow, { maxLength: 6 }),
  rules: fc.array(rule, { maxLength: 3 }),
}).map(({ device, flows, rules }) => {
  const tcp: MovedTcp[] = [];
  const udp: { flow: number; idle: number }[] = [];
  const ping: { flow: number; idle: number }[] = [];
  const samples = flows.map(({ what, sides: addresses, guestPort, ports }, i) => {
    const [guestOur, guestEndpoint, hostOur, hostEndpoint] = addresses;
    const sides = {
      // Each guest side is its own.
      guest: [guestOur, guestEndpoint, guestPort << 16 | i + 1] as const,
      host: [hostOur, hostEndpoint, ports[0] << 16 | ports[1]] as const,
    };
    if ("record" in what) {
      tcp.push(tcpRecord(what, i));
      return { ...tcpEntry(what), ...sides };
    }
    const kind = !what.ping ? 2 : guestOur.includes(":") ? 4 : 3;
    const { flags, ttl, second, listener, scope, size, idle } = what;
    (kind === 2 ? udp : ping).push({ flow: i, idle });
    const rest = kind === 2 ? [listener, scope, size] : [];
    return { kind: kind | flags << 16, own: [ttl, second, ...rest], ...sides };
  });
  return { device, entries: entriesOf(samples), tcp, udp, ping, rules };
});
