/** Packed rings as vhost-user sets them up, once VIRTIO_F_RING_PACKED is accepted. */
import { assert, assertEquals } from "@std/assert";
import { Ask, payload, state, u64, vringAddress } from "../support/frontend.ts";
import {
  ALL_FEATURES,
  GUEST_BASE,
  type Joined,
  joined,
  PROTOCOL_FEATURES,
} from "../support/vhost_session.ts";

/** With VERSION_1, without which there are none. */
const RING_PACKED = 2 ** 34 + 2 ** 32;
/** Place 7 in the first round, of what is available and of what is used. */
const BASE = 0x8007_8007;

/** Accepts packed rings; a ring of 100 entries is set up in the first pages of memory. */
function packed(pair: Joined): number {
  pair.backend.deviceFeatures = { lo: 1 << 26, hi: 1 + 4 };
  pair.ask(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
  pair.ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES + RING_PACKED));
  return pair.shareMemory().userAddress;
}

function setUp(pair: Joined, at: number, size = 100, base = BASE): void {
  assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, size)), 0);
  assertEquals(pair.acknowledged(Ask.SET_VRING_BASE, state(0, base)), 0);
  assertEquals(
    pair.acknowledged(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x2004, at + 0x1004)),
    0,
  );
  pair.ask(Ask.SET_VRING_KICK, u64(0), { fds: [pair.fds.event()] });
}

joined("a packed ring has any size, and 32 bits to say where it goes on", (pair) => {
  const { backend, ask } = pair;
  const at = packed(pair);
  backend.take();
  setUp(pair, at);
  assertEquals(backend.take(), [`start 0 at ${BASE} disabled`]);
  const ring = backend.running.get(0)!;
  const place = backend.memory.translate(GUEST_BASE, 1);
  assertEquals([ring.packed, ring.size, ring.descOffset], [true, 100, place]);
  assertEquals([ring.availOffset, ring.usedOffset], [place + 0x1004, place + 0x2004]);
  backend.progress = 0x0002_0002;
  const base = state(0, BASE + 0x0002_0002);
  assertEquals(ask(Ask.GET_VRING_BASE, state(0, 0))?.payload, base);
  assertEquals(ask(Ask.GET_VRING_BASE, state(0, 0))?.payload, base, "stays");
});

joined("a packed ring ends with its descriptors, and an area is four bytes", (pair) => {
  const at = packed(pair);
  const end = at + 0x40000;
  assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, 32768)), 0);
  const address = (desc: number, used: number, avail: number) =>
    pair.acknowledged(Ask.SET_VRING_ADDR, vringAddress(0, desc, used, avail));
  assertEquals(address(at, end - 4, end - 8), 1, "32768 entries take more than there is");
  assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, 0x3fff)), 0);
  assertEquals(address(at, end - 4, end - 8), 0);
  assertEquals(address(at, end, end - 8), 1, "the device area is outside");
  assertEquals(address(at, end - 4, end), 1, "the driver area is outside");
  assertEquals(address(at, end - 4, end - 6), 1, "the driver area is not aligned");
  assertEquals(address(at, end - 6, end - 8), 1, "the device area is not aligned");
  assertEquals(address(at + 8, end - 4, end - 8), 1, "descriptors are not aligned");
  for (const size of [0, 32769, 65536]) {
    assertEquals(
      pair.acknowledged(Ask.SET_VRING_NUM, state(0, size)),
      1,
      `${size} entries`,
    );
  }
});

joined("a split ring takes none of that", (pair) => {
  pair.negotiate();
  const at = pair.shareMemory().userAddress;
  assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, 100)), 1);
  assertEquals(pair.acknowledged(Ask.SET_VRING_BASE, state(0, BASE)), 1);
  assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, 16)), 0);
  assertEquals(
    pair.acknowledged(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x2000, at + 0x1002)),
    0,
  );
});

joined("a packed ring does not start at a place that it hasn't got", (pair) => {
  const { backend, log } = pair;
  const at = packed(pair);
  for (const base of [0x8064, 0x8064_8000]) {
    backend.take();
    setUp(pair, at, 100, base);
    assertEquals(backend.take(), []);
    const text = `100 entries and start at 0x${base.toString(16)}`;
    assert(log.lines.some((line) => line.includes(text)), log.lines.join("; "));
    pair.ask(Ask.GET_VRING_BASE, state(0, 0));
  }
  setUp(pair, at, 100, 0x8063_8063);
  assertEquals(backend.take().length, 1);
});

joined("a ring that was set up as packed does not run as a split one", (pair) => {
  const { backend, ask } = pair;
  const at = packed(pair);
  setUp(pair, at);
  ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
  backend.take();
  // Everything is there for it to start again.
  ask(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x2004, at + 0x1004));
  assertEquals(backend.take(), ["stop 0"]);
  ask(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x2004, at + 0x1004));
  assertEquals(backend.take(), []);
});

joined(
  "packed rings are of the session that asked for them, until it is reset",
  (pair) => {
    const at = packed(pair);
    setUp(pair, at);
    pair.ask(Ask.RESET_DEVICE, payload());
    assertEquals(pair.acknowledged(Ask.SET_VRING_NUM, state(0, 100)), 1);
  },
);
