/** When rings start, stop and move, whatever the order of what sets them up. */
import { assert, assertEquals } from "@std/assert";
import { eventfdRead } from "../../ffi/event.ts";
import {
  Ask,
  asU64,
  memoryTable,
  payload,
  region,
  state,
  u64,
  vringAddress,
} from "../support/frontend.ts";
import {
  GUEST_BASE,
  joined,
  PROTOCOL_FEATURES,
  RAM_SIZE,
} from "../support/vhost_session.ts";

joined("rings run once kicked when the frontend knows no protocol features", (pair) => {
  const { ask, backend } = pair;
  ask(Ask.SET_OWNER);
  ask(Ask.SET_FEATURES, u64(0));
  const ram = pair.shareMemory();
  backend.take();
  pair.setUpRing(0, ram);
  assertEquals(backend.take(), ["start 0 at 7"]);
  const ring = backend.running.get(0)!;
  const at = backend.memory.translate(GUEST_BASE, 1);
  assertEquals(ring.size, 256);
  assertEquals(ring.descOffset, at);
  assertEquals(ring.availOffset, at + 0x1000);
  assertEquals(ring.usedOffset, at + 0x2000);
  assertEquals(ring.usedLogAddress, -1);
  assert(ring.kickFd >= 0);
  assertEquals([ring.callFd, ring.errFd], [-1, -1]);
});

joined("rings run disabled until enabled when protocol features are accepted", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  pair.setUpRing(1, ram);
  ask(Ask.SET_VRING_ENABLE, state(1, 1));
  ask(Ask.SET_VRING_ENABLE, state(1, 1));
  ask(Ask.SET_VRING_ENABLE, state(1, 0));
  assertEquals(backend.take(), [
    "start 1 at 7 disabled",
    "update 1",
    "update 1 disabled",
  ]);
  ask(Ask.SET_VRING_ENABLE, state(3, 1));
  pair.setUpRing(3, ram);
  assertEquals(backend.take(), ["start 3 at 7"]);
});

joined("a ring starts only when everything is there, in any order", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.ram();
  const at = ram.userAddress;
  ask(Ask.SET_VRING_KICK, u64(0x100));
  ask(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x2000, at + 0x1000));
  ask(Ask.SET_VRING_NUM, state(0, 16));
  assertEquals(backend.take(), []);
  ask(Ask.SET_MEM_TABLE, memoryTable(region(0, RAM_SIZE, at, 0)), { fds: [ram.fd] });
  assertEquals(backend.take(), ["start 0 at 0 disabled"]);
  assertEquals(backend.running.get(0)!.kickFd, -1, "to be polled");
});

joined("GET_VRING_BASE stops the ring and tells the next entry", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  backend.progress = 0xfffa;
  assertEquals(ask(Ask.GET_VRING_BASE, state(0, 0))?.payload, state(0, 1), "16 bits");
  assertEquals(backend.take(), ["stop 0"]);
  assertEquals(ask(Ask.GET_VRING_BASE, state(0, 0))?.payload, state(0, 1), "stays");
  assertEquals(ask(Ask.GET_VRING_BASE, state(2, 0))?.payload, state(2, 0), "never ran");
  ask(Ask.SET_VRING_NUM, state(0, 256));
  assertEquals(backend.take(), []);
  ask(Ask.SET_VRING_KICK, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["start 0 at 1 disabled"]);
});

joined("a running ring moves with memory, its kick and its addresses", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  backend.progress = 5;
  const at = ram.userAddress;
  const table = memoryTable(region(0x5000_0000, RAM_SIZE, at, 0));
  ask(Ask.SET_MEM_TABLE, table, { fds: [ram.fd] });
  assertEquals(backend.take(), ["stop 0", "start 0 at 12 disabled"]);
  assertEquals(
    backend.running.get(0)!.descOffset,
    backend.memory.translate(0x5000_0000, 1),
  );
  ask(Ask.SET_VRING_KICK, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["stop 0", "start 0 at 17 disabled"]);
  ask(Ask.SET_VRING_ADDR, vringAddress(0, at, at + 0x3000, at + 0x1000, 1, 0x1234_5000));
  assertEquals(backend.take(), ["stop 0", "start 0 at 22 disabled"]);
  assertEquals(backend.running.get(0)!.usedLogAddress, 0x1234_5000);
});

joined("a ring whose memory is removed waits until it comes back", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  const slot = payload(["u64", 0], region(GUEST_BASE, RAM_SIZE, ram.userAddress, 0));
  ask(Ask.REM_MEM_REG, slot);
  assertEquals(backend.take(), ["stop 0"]);
  ask(Ask.ADD_MEM_REG, slot, { fds: [ram.fd] });
  assertEquals(backend.take(), ["start 0 at 7 disabled"]);
});

joined("a refused memory table leaves memory and rings as they were", (pair) => {
  const { acknowledged, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  const before = backend.running.get(0)!.descOffset;
  const table = memoryTable(region(0, RAM_SIZE * 2, 0, 0));
  assertEquals(acknowledged(Ask.SET_MEM_TABLE, table, [ram.fd]), 1);
  assertEquals(backend.take(), ["stop 0", "start 0 at 7 disabled"]);
  assertEquals(backend.running.get(0)!.descOffset, before);
});

joined("CALL and ERR may change while a ring runs", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  ask(Ask.SET_VRING_CALL, u64(0), { fds: [pair.fds.event()] });
  pair.setUpRing(0, ram);
  assertEquals(backend.take(), ["start 0 at 7 disabled"]);
  const ring = backend.running.get(0)!;
  assert(ring.callFd >= 0);
  const call = pair.fds.event();
  ask(Ask.SET_VRING_CALL, u64(0), { fds: [call] });
  assertEquals(eventfdRead(call), 1, "what the old one was told may have been lost");
  ask(Ask.SET_VRING_ERR, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["update 0 disabled", "update 0 disabled"]);
  assert(ring.callFd >= 0 && ring.errFd >= 0);
  ask(Ask.SET_VRING_CALL, u64(0x100));
  assertEquals(ring.callFd, -1);
});

joined("a driver of virtio_uml sets disabled rings up anew", (pair) => {
  const { acknowledged, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  acknowledged(Ask.SET_VRING_ENABLE, state(0, 1));
  pair.setUpRing(0, ram);
  assertEquals(acknowledged(Ask.SET_VRING_NUM, state(0, 128)), 1, "it runs");
  assertEquals(acknowledged(Ask.SET_VRING_BASE, state(0, 0)), 1, "it runs");
  acknowledged(Ask.SET_VRING_ENABLE, state(0, 0));
  backend.take();
  assertEquals(acknowledged(Ask.SET_VRING_NUM, state(0, 128)), 0);
  assertEquals(acknowledged(Ask.SET_VRING_BASE, state(0, 0)), 0);
  assertEquals(backend.take(), ["stop 0"]);
  assertEquals(acknowledged(Ask.SET_VRING_KICK, u64(0), [pair.fds.event()]), 0);
  assertEquals(backend.take(), ["start 0 at 0 disabled"]);
});

joined("RESET_OWNER disables rings; old frontends' rings run on", (pair) => {
  const { ask, backend } = pair;
  ask(Ask.SET_FEATURES, u64(0));
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  ask(Ask.RESET_OWNER);
  assertEquals(backend.take(), []);
  ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
  ask(Ask.RESET_OWNER);
  assertEquals(backend.take(), ["features 0 0", "update 0 disabled"]);
});

joined("RESET_DEVICE stops and forgets rings, and keeps memory", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  ask(Ask.SET_VRING_ENABLE, state(0, 1));
  pair.setUpRing(0, ram);
  ask(Ask.SET_STATUS, u64(0xf));
  backend.take();
  ask(Ask.RESET_DEVICE);
  assertEquals(backend.take(), ["stop 0", "reset"]);
  assertEquals(asU64(ask(Ask.GET_STATUS)!.payload), 0);
  assertEquals(backend.memory.regions.length, 1);
  ask(Ask.SET_VRING_KICK, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), [], "size and addresses are gone");
  assertEquals(
    ask(Ask.GET_VRING_BASE, state(0, 0))?.payload,
    state(0, 0),
    "and so is the base",
  );
  ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
  pair.setUpRing(0, ram);
  assertEquals(backend.take(), ["features 0 0", "start 0 at 7 disabled"]);
});
