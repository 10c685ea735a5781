/**
 * Each type of message with each kind of wrongness: refused in the reply where one is due,
 * else by the end of the connection, with all descriptors closed. Nothing else changes.
 */
import { assert, assertEquals } from "@std/assert";
import { addSeals, F_SEAL_SHRINK, memfdCreate } from "../../ffi/memory.ts";
import { openDescriptors, payload, region, state, u64 } from "../support/frontend.ts";
import {
  ALL_FEATURES,
  GUEST_BASE,
  Joined,
  joined,
  PROTOCOL_FEATURES,
  RAM_SIZE,
} from "../support/vhost_session.ts";
import {
  type FdKind,
  SHAPES,
  type WrongMessage,
  wrongMessages,
} from "../support/wrong_messages.ts";

const REPLY_ACK = 2 ** 3;
const VERSION_1 = 2 ** 32;
/** VHOST_F_LOG_ALL, bits 3 and 5; VERSION_1 and RING_PACKED. */
const OFFERED = { lo: (1 << 26) | (1 << 5) | (1 << 3), hi: 1 | 1 << 2 };

/** A session whose memory is shared and whose ring 0 runs, and what it would notice. */
class Set {
  readonly pair = new Joined();
  readonly ram;
  readonly #fds: Readonly<Record<FdKind, number>>;

  constructor(protocolFeatures: number) {
    const { pair } = this;
    pair.backend.deviceFeatures = OFFERED;
    pair.ask(16, u64(protocolFeatures));
    pair.ask(2, u64(PROTOCOL_FEATURES + VERSION_1));
    this.ram = pair.shareMemory();
    pair.ask(18, state(0, 1));
    pair.setUpRing(0, this.ram);
    this.#fds = {
      event: pair.fds.event(),
      ram: this.ram.fd,
      file: pair.fds.keep(memfdCreate("file", 4096)),
    };
    pair.backend.take();
  }

  get scene() {
    return {
      featuresLo: OFFERED.lo | 1 << 30,
      featuresHi: OFFERED.hi,
      protocolFeatures: ALL_FEATURES,
      queues: this.pair.backend.maxQueues,
      guest: GUEST_BASE,
      user: this.ram.userAddress,
      size: RAM_SIZE,
      file: RAM_SIZE,
    };
  }

  /** Sends a message; what its reply holds, or null if the connection has ended. */
  send({ request, bytes, flags, size, ...wrong }: WrongMessage, needReply: boolean) {
    const fds = wrong.fds.map((kind) => this.#fds[kind]);
    const options = { fds, needReply, flags, size };
    return this.pair.ask(request, bytes, options);
  }

  /** Ring 0 runs, enabled, and memory is what it was. */
  unharmed(): void {
    const { backend } = this.pair;
    assertEquals(backend.running.size, 1);
    assertEquals(backend.running.get(0)?.size, 256);
    assertEquals(backend.running.get(0)?.enabled, true);
    assertEquals(backend.memory.regions.length, 1);
    assertEquals(backend.memory.regions[0].size, RAM_SIZE);
  }

  ended(): void {
    const { pair } = this;
    assert(pair.frontend.ended, "the connection goes on");
    assertEquals(pair.backend.running.size, 0);
    assertEquals(pair.backend.memory.regions.length, 0);
    assertEquals(pair.backend.events.at(-1), "closed");
  }
}

/** Runs `body` with a fresh session; no descriptor may be lost. */
function withSet(protocolFeatures: number, body: (set: Set) => void): void {
  const before = openDescriptors();
  const set = new Set(protocolFeatures);
  try {
    body(set);
  } finally {
    set.pair[Symbol.dispose]();
  }
  assertEquals(openDescriptors(), before, "descriptors");
}

function table(): readonly WrongMessage[] {
  let all: readonly WrongMessage[] = [];
  withSet(ALL_FEATURES, (set) => all = wrongMessages(set.scene));
  return all;
}

/** Names the message that `body` fails with. */
function named(message: WrongMessage, body: () => void): void {
  try {
    body();
  } catch (error) {
    const reason = (error as Error).message;
    throw new Error(`request ${message.request}, ${message.what}: ${reason}`);
  }
}

/** A fresh session for each of the messages, whose addresses are those of its memory. */
function forEach(
  indexes: readonly number[],
  protocolFeatures: number,
  body: (set: Set, message: WrongMessage) => void,
): void {
  for (const i of indexes) {
    withSet(protocolFeatures, (set) => {
      const message = wrongMessages(set.scene)[i];
      named(message, () => body(set, message));
    });
  }
}

const all = table();
const fatal = [...all.keys()].filter((i) => all[i].ends);
/** One of each type. */
const samples = [...new Map(all.map(({ request }, i) => [request, i])).values()];

Deno.test("a wrong message is refused in its reply where one is due", () => {
  assert(all.length > 600, `${all.length} messages`);
  withSet(ALL_FEATURES, (set) => {
    const open = openDescriptors();
    for (const message of wrongMessages(set.scene)) {
      if (message.ends) continue;
      named(message, () => {
        const reply = set.send(message, message.flags === undefined);
        assertEquals(reply?.request, message.request);
        assertEquals(reply?.flags, 5);
        assertEquals(reply?.payload, u64(1));
        assertEquals(openDescriptors(), open, "descriptors");
        set.unharmed();
      });
    }
    assertEquals(set.pair.acknowledged(3), 0, "the connection goes on");
  });
});

Deno.test("a wrong message ends the connection where its refusal cannot be told", () => {
  forEach(fatal, ALL_FEATURES, (set, message) => {
    assertEquals(set.send(message, message.flags === undefined), null);
    set.ended();
  });
});

Deno.test("a wrong message ends the connection if no reply was asked for", () => {
  forEach(samples, ALL_FEATURES, (set, message) => {
    assertEquals(set.send(message, false), null);
    set.ended();
  });
});

Deno.test("a wrong message ends the connection without REPLY_ACK, asked for or not", () => {
  forEach(samples, ALL_FEATURES - REPLY_ACK, (set, message) => {
    assertEquals(set.send(message, true), null);
    set.ended();
  });
});

Deno.test("each message that belongs to a protocol feature needs it accepted", () => {
  for (const { request, size, fds, kind = "event", needs } of SHAPES) {
    if (needs === undefined) continue;
    withSet(ALL_FEATURES - 2 ** needs, (set) => {
      const bytes = new Uint8Array(size);
      const sent = new Array<FdKind>(fds).fill(kind);
      set.send({ what: "", request, bytes, fds: sent }, false);
      set.ended();
    });
  }
});

joined("rings are enabled only by who knows of protocol features", (pair) => {
  pair.backend.deviceFeatures = OFFERED;
  pair.ask(18, state(0, 1));
  assert(pair.frontend.ended, "nothing was said of them");
  assertEquals(pair.backend.take(), ["closed"]);
});

joined("QEMU enables rings before it sets features, having set protocol ones", (pair) => {
  pair.ask(16, u64(ALL_FEATURES));
  assertEquals(pair.acknowledged(18, state(0, 1)), 0);
  assertEquals(pair.acknowledged(2, u64(VERSION_1)), 0);
  assertEquals(pair.acknowledged(18, state(0, 1)), 1, "they were not accepted");
});

joined("a driver that the device cannot serve gets no rings, and the reason", (pair) => {
  pair.negotiate();
  pair.backend.useless = "it is too old";
  assertEquals(pair.acknowledged(2, u64(PROTOCOL_FEATURES)), 0);
  const ram = pair.shareMemory();
  pair.backend.take();
  pair.setUpRing(0, ram);
  assertEquals(pair.backend.take(), []);
  assertEquals(pair.log.lines.at(-1), "ring 0 does not run: it is too old");
  pair.backend.useless = undefined;
  pair.ask(2, u64(PROTOCOL_FEATURES + VERSION_1));
  pair.setUpRing(0, ram);
  assertEquals(pair.backend.take().at(-1), "start 0 at 7 disabled");
});

joined("memory that could be made shorter is logged once, or refused", (pair) => {
  const { backend: { memory }, log } = pair;
  memory.files.shrinkable = memory.files.shrinkableTold = false;
  pair.negotiate();
  pair.shareMemory();
  pair.shareMemory();
  assertEquals(log.lines.filter((line) => line.includes("--sealed-memory")).length, 1);
  memory.files.sealedOnly = true;
  try {
    const ram = pair.ram();
    const table = payload(["u64", 1], region(0, RAM_SIZE, 0, 0));
    assertEquals(pair.acknowledged(5, table, [ram.fd]), 1);
    assertEquals(memory.regions[0].guestAddress, GUEST_BASE, "what was there stays");
    addSeals(ram.fd, F_SEAL_SHRINK);
    assertEquals(pair.acknowledged(5, table, [ram.fd]), 0);
  } finally {
    memory.files.sealedOnly = false;
  }
});

joined("the form of rings may change while none is in use", (pair) => {
  pair.negotiate();
  pair.backend.deviceFeatures = OFFERED;
  const ram = pair.shareMemory();
  const packed = u64(PROTOCOL_FEATURES + 5 * VERSION_1);
  pair.setUpRing(0, ram);
  assertEquals(pair.acknowledged(2, packed), 0, "it runs, but is disabled");
  assertEquals(pair.acknowledged(18, state(0, 1)), 0);
  assertEquals(pair.acknowledged(2, u64(PROTOCOL_FEATURES + VERSION_1)), 1);
  pair.ask(11, state(0, 0));
  assertEquals(pair.acknowledged(2, u64(PROTOCOL_FEATURES + VERSION_1)), 0);
});
