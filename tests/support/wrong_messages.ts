/**
 * Every vhost-user message in every way that breaks the specification, as a table: each
 * type with each kind of wrongness, for a session in which memory is shared and ring 0
 * runs. What becomes of a message is the same for all: the reply says so if one is due,
 * else the connection ends.
 */
import { payload, region, state, u64, vringAddress } from "./frontend.ts";

/** Descriptors that come with a message. */
export type FdKind = "event" | "ram" | "file";

export interface WrongMessage {
  readonly what: string;
  readonly request: number;
  readonly bytes: Uint8Array;
  readonly fds: readonly FdKind[];
  /** In place of version 1. */
  readonly flags?: number;
  /** In the header, in place of the payload's own size. */
  readonly size?: number;
  /** Nothing can be told: the message has a reply of its own, or is none. */
  readonly ends?: true;
}

/** What the session was told before. */
export interface Scene {
  readonly featuresLo: number;
  readonly featuresHi: number;
  readonly protocolFeatures: number;
  readonly queues: number;
  /** The one region that is shared, and ring 0 in it, of 256 entries. */
  readonly guest: number;
  readonly user: number;
  readonly size: number;
  /** Bytes of the file that the region is in. */
  readonly file: number;
}

/** Size of the payload and number of descriptors of each request, from the spec. */
export const SHAPES: readonly {
  readonly request: number;
  readonly size: number;
  readonly fds: number;
  readonly kind?: FdKind;
  /** It has a reply of its own, so that an error ends the connection. */
  readonly replies?: true;
  /** Bit of the protocol feature it needs negotiated. */
  readonly needs?: number;
  /** Longer payloads, or more descriptors, are fine. */
  readonly longer?: true;
  readonly moreFds?: true;
}[] = [
  { request: 1, size: 0, fds: 0, replies: true },
  { request: 2, size: 8, fds: 0 },
  { request: 3, size: 0, fds: 0, longer: true },
  { request: 4, size: 0, fds: 0 },
  { request: 5, size: 40, fds: 1, kind: "ram", longer: true },
  { request: 6, size: 16, fds: 1, kind: "ram", replies: true, needs: 1 },
  { request: 7, size: 0, fds: 1, longer: true },
  { request: 8, size: 8, fds: 0 },
  { request: 9, size: 40, fds: 0 },
  { request: 10, size: 8, fds: 0 },
  { request: 11, size: 8, fds: 0, replies: true },
  { request: 12, size: 8, fds: 1 },
  { request: 13, size: 8, fds: 1 },
  { request: 14, size: 8, fds: 1 },
  { request: 15, size: 0, fds: 0, replies: true },
  { request: 16, size: 8, fds: 0 },
  { request: 17, size: 0, fds: 0, replies: true },
  { request: 18, size: 8, fds: 0 },
  { request: 19, size: 8, fds: 0 },
  { request: 20, size: 8, fds: 0 },
  { request: 21, size: 0, fds: 1 },
  { request: 24, size: 16, fds: 0, replies: true, needs: 9 },
  { request: 25, size: 16, fds: 0, needs: 9 },
  { request: 34, size: 0, fds: 0 },
  { request: 36, size: 0, fds: 0, replies: true, needs: 15 },
  { request: 37, size: 40, fds: 1, kind: "ram", needs: 15 },
  { request: 38, size: 40, fds: 0, needs: 15, moreFds: true },
  { request: 39, size: 8, fds: 0, needs: 16 },
  { request: 40, size: 0, fds: 0, replies: true, needs: 16 },
  { request: 42, size: 8, fds: 1, replies: true, needs: 19 },
  { request: 43, size: 0, fds: 0, replies: true, needs: 19 },
];

/** Requests that vuelo has no use for, or that there are not. */
export const UNSUPPORTED: readonly number[] = [
  ...[0, 22, 23, 26, 27, 28, 29, 30, 31, 32, 33, 35, 41],
  ...[44, 45, 255, 256 + 2, 2 ** 16 + 2, 2 ** 31, 2 ** 32 - 1],
];

const MAX_PAYLOAD = 1024;

function repeat(kind: FdKind, count: number): FdKind[] {
  return new Array<FdKind>(count).fill(kind);
}

/** Wrong in size or number of descriptors. */
function wrongShapes(): WrongMessage[] {
  const all: WrongMessage[] = [];
  for (const { request, size, fds, kind = "event", ...shape } of SHAPES) {
    const add = (what: string, length: number, count: number) => {
      const bytes = new Uint8Array(length);
      if (request === 5 && length > 0) bytes[0] = 1; // one region
      if (request === 24 || request === 25) bytes[4] = 4; // of configuration space
      const ends = shape.replies;
      all.push({ what, request, bytes, fds: repeat(kind, count), ends });
    };
    if (size > 0) {
      add("a byte less", size - 1, fds);
      add("no payload", 0, fds);
    }
    if (!shape.longer) add("a byte more", size + 1, fds);
    add("the longest payload", MAX_PAYLOAD, fds);
    if (!shape.moreFds) add("one descriptor more", size, fds + 1);
    add("eight descriptors", size, 8);
    if (fds > 0) add("no descriptor", size, 0);
  }
  return all;
}

/** Wrong in the header; what follows cannot be told apart any more. */
function wrongHeaders(): WrongMessage[] {
  return SHAPES.flatMap(({ request, size, fds, kind = "event" }) => {
    const message = {
      request,
      bytes: new Uint8Array(size),
      fds: repeat(kind, fds),
      ends: true,
    } as const;
    return [
      ...[0, 2, 3].map((flags) => ({ ...message, what: `version ${flags}`, flags })),
      { ...message, what: "the reply flag", flags: 0x5 },
      { ...message, what: "reply and need_reply flags", flags: 0xd },
      { ...message, what: "a flag that there is not", flags: 0x11 },
      { ...message, what: "the uppermost flag", flags: 0x8000_0001 },
      { ...message, what: "more than the longest payload", size: MAX_PAYLOAD + 1 },
      { ...message, what: "a payload of 4 GiB", size: 2 ** 32 - 1 },
      { ...message, what: "nine descriptors", fds: repeat(kind, 9) },
    ];
  });
}

function bitsOutside(offered: number): number[] {
  return Array.from({ length: 32 }, (_, bit) => bit)
    .filter((bit) => (offered >>> bit & 1) === 0);
}

const words = (lo: number, hi: number) => payload(["u32", lo], ["u32", hi]);

function wrongFeatures(scene: Scene): WrongMessage[] {
  const { featuresLo: lo, featuresHi: hi, protocolFeatures } = scene;
  const add = (what: string, request: number, bytes: Uint8Array) => ({
    what,
    request,
    bytes,
    fds: [],
  });
  const packed = 1 << 2;
  return [
    ...bitsOutside(lo).map((bit) =>
      add(`feature ${bit}, not offered`, 2, words(lo | 1 << bit, hi))
    ),
    ...bitsOutside(hi).map((bit) =>
      add(`feature ${32 + bit}, not offered`, 2, words(lo, hi | 1 << bit))
    ),
    add("packed rings without VERSION_1", 2, words(lo, packed)),
    add("packed rings while a split one runs", 2, words(lo, packed | 1)),
    ...bitsOutside(protocolFeatures).map((bit) =>
      add(`protocol feature ${bit}, not offered`, 16, words(1 << bit, 0))
    ),
    ...[0, 7, 31].map((bit) =>
      add(`protocol feature ${32 + bit}`, 16, words(protocolFeatures, 1 << bit))
    ),
  ];
}

function wrongMemory({ guest, user, size, file }: Scene): WrongMessage[] {
  const all: WrongMessage[] = [];
  const one = (what: string, bytes: Uint8Array, kind: FdKind = "ram") => {
    const fds = [kind];
    all.push({ what, request: 5, bytes: payload(["u64", 1], bytes), fds });
    all.push({ what, request: 37, bytes: payload(["u64", 0], bytes), fds });
  };
  const page = 4096;
  const elsewhere = guest + 4 * size;
  const high = -page; // the last page of 2^64
  one("an empty region", region(elsewhere, 0, elsewhere, 0));
  one("a region that the file does not have", region(elsewhere, file + page, 0, 0));
  one("a region behind the file's end", region(elsewhere, page, 0, file));
  one("a region that wraps round in its file", region(elsewhere, page, 0, high));
  one("a region of almost 2^64 bytes", region(elsewhere, high, 0, 0));
  one("a region of 2^63 bytes", region(elsewhere, 2 ** 63, 0, 0));
  one("guest addresses that wrap round", region(high, 2 * page, 0, 0));
  one("guest addresses beyond 2^53", region(2 ** 53, page, 0, 0));
  one("user addresses that wrap round", region(elsewhere, 2 * page, high, 0));
  one("memory in an eventfd", region(elsewhere, page, elsewhere, 0), "event");
  const table = (what: string, bytes: Uint8Array, count: number) =>
    all.push({ what, request: 5, bytes, fds: repeat("ram", count) });
  const first = region(guest, page, user, 0);
  const two = (second: Uint8Array) => payload(["u64", 2], first, second);
  table("regions that overlap", two(region(guest + page - 1, page, 0, 0)), 2);
  table("user addresses that overlap", two(region(0, page, user + page - 1, 0)), 2);
  table("a region that is twice there", two(first), 2);
  table("fewer descriptors than regions", two(region(0, page, 0, 0)), 1);
  table("more descriptors than regions", two(region(0, page, 0, 0)), 3);
  table("more regions than the payload has", payload(["u64", 2], first), 2);
  table("nine regions", payload(["u64", 9], new Uint8Array(9 * 32)), 8);
  const many = payload(["u32", 2 ** 32 - 1], ["u32", 0], new Uint8Array(256));
  table("2^32 - 1 regions", many, 8);
  const slot = (what: string, request: number, bytes: Uint8Array, fds: FdKind[]) =>
    all.push({ what, request, bytes: payload(["u64", 0], bytes), fds });
  slot("a slot that overlaps", 37, region(guest + size - 1, page, 0, 0), ["ram"]);
  slot("a slot within another", 37, region(0, page, user + page, 0), ["ram"]);
  for (
    const [what, bytes] of [
      ["a slot that there is not", region(elsewhere, size, user, 0)],
      ["a slot of another size", region(guest, size - page, user, 0)],
      ["a slot at another user address", region(guest, size, user + page, 0)],
    ] as const
  ) slot(what, 38, bytes, []);
  return all;
}

function wrongLogs({ file }: Scene): WrongMessage[] {
  const log = (what: string, length: number, offset: number, kind: FdKind = "ram") => ({
    what,
    request: 6,
    bytes: payload(["u64", length], ["u64", offset]),
    fds: [kind],
    ends: true as const,
  });
  return [
    log("a log of 0 bytes", 0, 0),
    log("a log longer than its file", file + 1, 0),
    log("a log behind its file's end", 8, file),
    log("a log that wraps round", 4096, -4096),
    log("a log of 2^63 bytes", 2 ** 63, 0),
    log("a log in an eventfd", 8, 0, "event"),
  ];
}

/** Requests that begin with the number of a ring, as a vring state has it. */
function wrongRings(scene: Scene): WrongMessage[] {
  const { queues, user } = scene;
  const all: WrongMessage[] = [];
  const add = (
    what: string,
    request: number,
    bytes: Uint8Array,
    fds: readonly FdKind[] = [],
  ) => all.push({ what, request, bytes, fds, ends: request === 11 ? true : undefined });
  for (const index of [queues, 255, 256, 2 ** 16, 2 ** 31, 2 ** 32 - 1]) {
    const what = `ring ${index}`;
    for (const [request, value] of [[8, 16], [10, 0], [11, 0], [18, 1]]) {
      add(what, request, state(index, value));
    }
    add(what, 9, vringAddress(index, user, user, user));
  }
  for (const request of [12, 13, 14]) {
    for (const index of [queues, 255]) {
      add(`ring ${index}`, request, u64(index), ["event"]);
      add(`ring ${index}, no descriptor`, request, u64(index | 0x100));
    }
    for (const bit of [9, 16, 31, 32, 63]) {
      add(`bit ${bit}`, request, u64(2 ** bit + 1), ["event"]);
    }
    add("a descriptor that should not be there", request, u64(0x101), ["event"]);
    add("no descriptor, though told", request, u64(1));
    add("a descriptor of a plain file", request, u64(1), ["file"]);
  }
  for (const size of [0, 3, 48, 255, 32769, 65535, 65536, 2 ** 31, 2 ** 32 - 1]) {
    add(`a ring of ${size}`, 8, state(1, size));
  }
  for (const base of [65536, 2 ** 31, 2 ** 32 - 1]) {
    add(`a ring that starts at ${base}`, 10, state(1, base));
  }
  add("another size for a ring that runs", 8, state(0, 128));
  add("another base for a ring that runs", 10, state(0, 0));
  for (const value of [2, 256, 2 ** 32 - 1]) {
    add(`enable to ${value}`, 18, state(1, value));
  }
  return all;
}

/** Addresses of ring 0, whose size is set: 256 entries. */
function wrongAddresses({ user, guest, size }: Scene): WrongMessage[] {
  const end = user + size;
  const at = (what: string, ...places: Parameters<typeof vringAddress>) => ({
    what,
    request: 9,
    bytes: vringAddress(...places),
    fds: [],
  });
  const area = user + 0x2000;
  return [
    ...[1, 2, 4, 8].map((by) =>
      at(`descriptors off by ${by}`, 0, user + by, area, area + 0x1000)
    ),
    ...[1, 2].map((by) => at(`a used ring off by ${by}`, 0, user, area + by, area)),
    at("an available ring off by 1", 0, user, area, area + 1),
    at("descriptors before memory", 0, user - 16, area, area),
    at("descriptors that end behind memory", 0, end - 256 * 16 + 16, area, area),
    at("a used ring that ends behind memory", 0, user, end - 256 * 8 - 4, area),
    at("an available ring that ends behind it", 0, user, area, end - 256 * 2 - 4),
    at("guest addresses", 0, guest, guest + 0x1000, guest + 0x2000),
    at("addresses at the end of 2^64", 0, -16, area, area),
    at("addresses at 2^63", 0, 2 ** 63, 2 ** 63, 2 ** 63),
    at("null", 0, 0, 0, 0),
    ...[2, 3, 2 ** 31].map((flags) =>
      at(`flags ${flags}`, 0, user, user + 0x2000, user + 0x1000, flags)
    ),
    at("a used ring logged beyond 2^53", 0, user, area, area, 1, 2 ** 60),
  ];
}

function wrongSettings(): WrongMessage[] {
  const add = (what: string, request: number, bytes: Uint8Array) => ({
    what,
    request,
    bytes,
    fds: [],
    ends: request === 24 ? true as const : undefined,
  });
  const config = (offset: number, size: number, flags: number, room: number) =>
    payload(["u32", offset], ["u32", size], ["u32", flags], new Uint8Array(room));
  return [
    ...[0, 1, 67, 65536, 2 ** 32 + 1500, 2 ** 63].map((mtu) =>
      add(`an MTU of ${mtu}`, 20, u64(mtu))
    ),
    ...[0x100, 2 ** 32, 2 ** 63].map((bits) => add(`status ${bits}`, 39, u64(bits))),
    ...[24, 25].flatMap((request) => [
      add("less space than it says", request, config(0, 5, 0, 4)),
      add("more space than it says", request, config(0, 3, 0, 4)),
      add("4 GiB of space", request, config(0, 2 ** 32 - 1, 0, 4)),
    ]),
    add("flags 2", 25, config(0, 4, 2, 4)),
    add("space that can only be read", 25, config(0, 4, 0, 4)),
    ...UNSUPPORTED.map((request) => add("not supported", request, new Uint8Array(0))),
  ];
}

/** The whole table. */
export function wrongMessages(scene: Scene): readonly WrongMessage[] {
  return [
    ...wrongShapes(),
    ...wrongHeaders(),
    ...wrongFeatures(scene),
    ...wrongMemory(scene),
    ...wrongLogs(scene),
    ...wrongRings(scene),
    ...wrongAddresses(scene),
    ...wrongSettings(),
  ];
}
