/** Every message as it should be; what the session makes of it and replies. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { close, eventfdCreate, eventfdRead } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import {
  asU64,
  GuestRam,
  payload,
  region,
  state,
  u64,
  vringAddress,
} from "../support/frontend.ts";
import {
  ALL_FEATURES,
  GUEST_BASE,
  joined,
  PROTOCOL_FEATURES,
  RAM_SIZE,
} from "../support/vhost_session.ts";

joined("GET_FEATURES adds bit 30 to the device's features", ({ ask, backend }) => {
  backend.deviceFeatures = { lo: 0x20, hi: 1 };
  const reply = ask(1);
  assertEquals(reply?.request, 1);
  assertEquals(reply?.flags, 5, "version 1 and the reply flag");
  assertEquals(reply?.payload.toHex(), "2000004001000000");
});

joined("SET_FEATURES tells the device and refuses what was not offered", (pair) => {
  const { ask, backend, frontend } = pair;
  assertEquals(ask(2, payload(["u32", 0x4000_0020], ["u32", 1])), null);
  assertEquals(backend.take(), ["features 20 1"]);
  assertEquals(ask(2, payload(["u32", 0x10], ["u32", 0])), null);
  assertEquals(backend.take(), ["closed"]);
  assert(frontend.ended);
  assertStringIncludes(pair.log.lines[0], "SET_FEATURES: features 0x10 were not offered");
});

joined("protocol features are exchanged before SET_FEATURES", ({ ask, frontend }) => {
  assertEquals(asU64(ask(15)!.payload), ALL_FEATURES);
  ask(16, u64(ALL_FEATURES));
  assert(!frontend.ended);
  ask(16, u64(2 ** 14));
  assert(frontend.ended, "INBAND_NOTIFICATIONS is not offered");
});

joined("SET_PROTOCOL_FEATURES that accepts REPLY_ACK is acknowledged itself", (pair) => {
  // virtio_uml asks so.
  assertEquals(pair.acknowledged(16, u64(ALL_FEATURES)), 0);
});

joined("need_reply is passed over unless REPLY_ACK was accepted", ({ ask, frontend }) => {
  ask(16, u64(1));
  assertEquals(ask(3, undefined, { needReply: true }), null);
  assert(!frontend.ended);
});

joined(
  "need_reply changes nothing for a message that has a reply",
  ({ ask, ...pair }) => {
    ask(16, u64(ALL_FEATURES));
    const reply = ask(1, undefined, { needReply: true });
    assertEquals(reply?.flags, 5);
    assert(!pair.frontend.ended);
  },
);

joined("every message without a reply of its own is acknowledged", (pair) => {
  const { acknowledged, fds } = pair;
  acknowledged(16, u64(ALL_FEATURES));
  const ram = pair.ram();
  const user = ram.userAddress;
  const config = payload(["u32", 6], ["u32", 2], ["u32", 1], Uint8Array.of(1, 0));
  const table = payload(["u64", 1], region(0, RAM_SIZE, user, 0));
  const other = payload(["u64", 0], region(RAM_SIZE, 4096, user + RAM_SIZE, 0));
  const messages: [number, Uint8Array | undefined, number[]][] = [
    [2, u64(PROTOCOL_FEATURES), []],
    [3, undefined, []],
    [4, undefined, []],
    [5, table, [ram.fd]],
    [7, undefined, [fds.event()]],
    [8, state(0, 128), []],
    [9, vringAddress(0, user, user + 0x2000, user + 0x1000), []],
    [10, state(0, 65535), []],
    [12, u64(0), [fds.event()]],
    [13, u64(0), [fds.event()]],
    [14, u64(0), [fds.event()]],
    [18, state(0, 1), []],
    [19, payload(Uint8Array.fromHex("5254001234560000")), []],
    [20, u64(1500), []],
    [21, undefined, [fds.event()]],
    [25, config, []],
    [34, undefined, []],
    [37, other, [ram.fd]],
    [38, other, []],
    [39, u64(1), []],
  ];
  for (const [request, bytes, sent] of messages) {
    assertEquals(acknowledged(request, bytes, sent), 0, `request ${request}`);
  }
});

joined("GET_QUEUE_NUM tells queue pairs", ({ ask, backend }) => {
  backend.maxQueues = 4;
  assertEquals(asU64(ask(17)!.payload), 2);
});

joined("SET_MEM_TABLE shares memory, with room for regions not used", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.ram();
  ram.view.setUint32(0x1004, 0xcafe_f00d);
  // As virtio_uml sends it: one region in a payload that holds two.
  const table = payload(
    ["u32", 1],
    ["u32", 0],
    region(GUEST_BASE, 0x2000, 0x7f0000001000, 0x1000),
    new Uint8Array(32),
  );
  ask(5, table, { fds: [ram.fd] });
  const at = backend.memory.translate(GUEST_BASE + 4, 4);
  assertEquals(backend.memory.view.getUint32(at), 0xcafe_f00d);
  assertEquals(backend.memory.translateUser(0x7f0000001004, 4), at);
});

joined("a message may come in pieces, its descriptors with any of them", (pair) => {
  const { frontend, session, backend } = pair;
  const ram = pair.ram();
  const bytes = payload(
    ["u32", 5],
    ["u32", 1],
    ["u32", 40],
    ["u64", 1],
    region(0, RAM_SIZE, 0, 0),
  );
  for (let i = 0; i < bytes.length; i++) {
    assert(frontend.sendRaw(bytes.subarray(i, i + 1), i === 20 ? [ram.fd] : []));
    assert(session.readable());
    assertEquals(backend.memory.regions.length, i === bytes.length - 1 ? 1 : 0);
  }
});

joined("messages that came at once are handled one by one", (pair) => {
  const ram = pair.ram();
  const table = payload(["u64", 1], region(0, RAM_SIZE, 0, 0));
  pair.frontend.send(1);
  pair.frontend.send(5, table, { fds: [ram.fd] });
  pair.frontend.send(13, u64(0), { fds: [pair.fds.event()] });
  pair.frontend.send(15);
  assert(pair.session.readable());
  assertEquals(pair.frontend.receive()?.request, 1);
  assertEquals(pair.frontend.receive()?.request, 15);
  assertEquals(pair.backend.memory.regions.length, 1);
});

joined("memory slots are added and removed", (pair) => {
  const { ask, backend, acknowledged } = pair;
  pair.negotiate();
  assertEquals(asU64(ask(36)!.payload), 509);
  const ram = pair.ram();
  const slot = (guest: number, offset: number) =>
    payload(["u64", 0], region(guest, 0x10000, guest, offset));
  assertEquals(acknowledged(37, slot(0, 0), [ram.fd]), 0);
  assertEquals(acknowledged(37, slot(0x10000, 0x10000), [ram.fd]), 0);
  assertEquals(acknowledged(37, slot(0x8000, 0x20000), [ram.fd]), 1, "overlaps");
  assertEquals(acknowledged(37, slot(0x20000, 0x38000), [ram.fd]), 1, "beyond the file");
  assertEquals(acknowledged(38, slot(0, 0x3000)), 0, "the offset does not count");
  assertEquals(acknowledged(38, slot(0, 0)), 1, "it is gone");
  assertEquals(
    acknowledged(38, slot(0x10000, 0), [ram.fd]),
    0,
    "a descriptor is allowed",
  );
  assertEquals(backend.memory.regions.length, 0);
});

joined("rings run once kicked when the frontend knows no protocol features", (pair) => {
  const { ask, backend } = pair;
  ask(3);
  ask(2, u64(0));
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
  ask(18, state(1, 1));
  ask(18, state(1, 1));
  ask(18, state(1, 0));
  assertEquals(backend.take(), [
    "start 1 at 7 disabled",
    "update 1",
    "update 1 disabled",
  ]);
  ask(18, state(3, 1));
  pair.setUpRing(3, ram);
  assertEquals(backend.take(), ["start 3 at 7"]);
});

joined("a ring starts only when everything is there, in any order", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.ram();
  const at = ram.userAddress;
  ask(12, u64(0x100));
  ask(9, vringAddress(0, at, at + 0x2000, at + 0x1000));
  ask(8, state(0, 16));
  assertEquals(backend.take(), []);
  ask(5, payload(["u64", 1], region(0, RAM_SIZE, at, 0)), { fds: [ram.fd] });
  assertEquals(backend.take(), ["start 0 at 0 disabled"]);
  assertEquals(backend.running.get(0)!.kickFd, -1, "to be polled");
});

joined("GET_VRING_BASE stops the ring and tells the next entry", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  backend.progress = 0xfffa;
  assertEquals(ask(11, state(0, 0))?.payload, state(0, 1), "16 bits");
  assertEquals(backend.take(), ["stop 0"]);
  assertEquals(ask(11, state(0, 0))?.payload, state(0, 1), "stays");
  assertEquals(ask(11, state(2, 0))?.payload, state(2, 0), "never ran");
  ask(8, state(0, 256));
  assertEquals(backend.take(), []);
  ask(12, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["start 0 at 1 disabled"]);
});

joined("a running ring moves with memory, its kick and its addresses", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  backend.progress = 5;
  const at = ram.userAddress;
  const table = payload(["u64", 1], region(0x5000_0000, RAM_SIZE, at, 0));
  ask(5, table, { fds: [ram.fd] });
  assertEquals(backend.take(), ["stop 0", "start 0 at 12 disabled"]);
  assertEquals(
    backend.running.get(0)!.descOffset,
    backend.memory.translate(0x5000_0000, 1),
  );
  ask(12, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["stop 0", "start 0 at 17 disabled"]);
  ask(9, vringAddress(0, at, at + 0x3000, at + 0x1000, 1, 0x1234_5000));
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
  ask(38, slot);
  assertEquals(backend.take(), ["stop 0"]);
  ask(37, slot, { fds: [ram.fd] });
  assertEquals(backend.take(), ["start 0 at 7 disabled"]);
});

joined("a refused memory table leaves memory and rings as they were", (pair) => {
  const { acknowledged, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  const before = backend.running.get(0)!.descOffset;
  const table = payload(["u64", 1], region(0, RAM_SIZE * 2, 0, 0));
  assertEquals(acknowledged(5, table, [ram.fd]), 1);
  assertEquals(backend.take(), ["stop 0", "start 0 at 7 disabled"]);
  assertEquals(backend.running.get(0)!.descOffset, before);
});

joined("CALL and ERR may change while a ring runs", (pair) => {
  const { ask, backend } = pair;
  const ram = pair.shareMemory();
  ask(13, u64(0), { fds: [pair.fds.event()] });
  pair.setUpRing(0, ram);
  assertEquals(backend.take(), ["start 0 at 7 disabled"]);
  const ring = backend.running.get(0)!;
  assert(ring.callFd >= 0);
  const call = pair.fds.event();
  ask(13, u64(0), { fds: [call] });
  assertEquals(eventfdRead(call), 1, "what the old one was told may have been lost");
  ask(14, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), ["update 0 disabled", "update 0 disabled"]);
  assert(ring.callFd >= 0 && ring.errFd >= 0);
  ask(13, u64(0x100));
  assertEquals(ring.callFd, -1);
});

joined("a driver of virtio_uml sets disabled rings up anew", (pair) => {
  const { acknowledged, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  acknowledged(18, state(0, 1));
  pair.setUpRing(0, ram);
  assertEquals(acknowledged(8, state(0, 128)), 1, "it runs");
  assertEquals(acknowledged(10, state(0, 0)), 1, "it runs");
  acknowledged(18, state(0, 0));
  backend.take();
  assertEquals(acknowledged(8, state(0, 128)), 0);
  assertEquals(acknowledged(10, state(0, 0)), 0);
  assertEquals(backend.take(), ["stop 0"]);
  assertEquals(acknowledged(12, u64(0), [pair.fds.event()]), 0);
  assertEquals(backend.take(), ["start 0 at 0 disabled"]);
});

joined("RESET_OWNER disables rings; old frontends' rings run on", (pair) => {
  const { ask, backend } = pair;
  ask(2, u64(0));
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  ask(4);
  assertEquals(backend.take(), []);
  ask(2, u64(PROTOCOL_FEATURES));
  ask(4);
  assertEquals(backend.take(), ["features 0 0", "update 0 disabled"]);
});

joined("RESET_DEVICE stops and forgets rings, and keeps memory", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  ask(18, state(0, 1));
  pair.setUpRing(0, ram);
  ask(39, u64(0xf));
  backend.take();
  ask(34);
  assertEquals(backend.take(), ["stop 0", "reset"]);
  assertEquals(asU64(ask(40)!.payload), 0);
  assertEquals(backend.memory.regions.length, 1);
  ask(12, u64(0), { fds: [pair.fds.event()] });
  assertEquals(backend.take(), [], "size and addresses are gone");
  assertEquals(ask(11, state(0, 0))?.payload, state(0, 0), "and so is the base");
  ask(2, u64(PROTOCOL_FEATURES));
  pair.setUpRing(0, ram);
  assertEquals(backend.take(), ["features 0 0", "start 0 at 7 disabled"]);
});

joined("SET_STATUS is told by GET_STATUS; 0 stops the rings", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  ask(39, u64(7));
  assertEquals(asU64(ask(40)!.payload), 7);
  assertEquals(pair.session.status, 7);
  pair.setUpRing(0, ram);
  backend.take();
  ask(39, u64(0));
  assertEquals(backend.take(), ["stop 0"]);
});

joined("SEND_RARP and NET_SET_MTU reach the device", (pair) => {
  pair.negotiate();
  const mac = Uint8Array.fromHex("5254001234560000");
  assertEquals(pair.acknowledged(19, mac), 0);
  assertEquals(pair.acknowledged(20, u64(9000)), 0);
  assertEquals(pair.backend.take(), ["rarp 525400123456", "mtu 9000"]);
  for (const mtu of [0, 67, 65536, 2 ** 32 + 1500, 1234]) {
    assertEquals(pair.acknowledged(20, u64(mtu)), 1, `${mtu}`);
  }
});

joined("GET_CONFIG gives what was asked for, or nothing", ({ ask, negotiate }) => {
  negotiate();
  const header = payload(["u32", 4], ["u32", 3], ["u32", 0]);
  const reply = ask(24, payload(header, new Uint8Array(3)));
  assertEquals(reply?.payload.toHex(), header.toHex() + "040506");
  const beyond = payload(["u32", 27], ["u32", 2], ["u32", 0], new Uint8Array(2));
  assertEquals(ask(24, beyond)?.payload.length, 0);
});

joined("SET_CONFIG of read-only space is refused unless the guest migrates", (pair) => {
  pair.negotiate();
  const message = (flags: number) =>
    payload(["u32", 2], ["u32", 2], ["u32", flags], Uint8Array.of(0xab, 0xcd));
  assertEquals(pair.acknowledged(25, message(0)), 1);
  assertEquals(pair.acknowledged(25, message(1)), 0);
  assertEquals(pair.acknowledged(25, message(2)), 1);
  assertEquals(pair.backend.take(), ["config 2 abcd", "config 2 abcd"]);
});

joined("SET_LOG_BASE and VHOST_F_LOG_ALL turn dirty logging on", (pair) => {
  const { ask, backend, fds } = pair;
  pair.negotiate();
  const log = new GuestRam(0x2000);
  fds.keep(log.fd);
  const reply = ask(6, payload(["u64", 0x1000], ["u64", 0x1000]), { fds: [log.fd] });
  assertEquals(reply?.request, 6);
  assert(!backend.memory.logging);
  ask(2, u64(PROTOCOL_FEATURES + 2 ** 26));
  assert(backend.memory.logging);
  backend.memory.markDirty(9 * 4096 + 5, 1);
  assertEquals(log.view.getUint16(0x1000, true), 1 << 9);
  ask(2, u64(PROTOCOL_FEATURES));
  assert(!backend.memory.logging);
});

joined("SET_LOG_BASE that cannot be kept ends the connection", (pair) => {
  pair.negotiate();
  const fd = pair.fds.keep(memfdCreate("log", 0x1000));
  pair.ask(6, payload(["u64", 0x1000], ["u64", 1]), { fds: [fd], needReply: true });
  assert(pair.frontend.ended);
});

joined("SET_BACKEND_REQ_FD gives a channel to tell of changed configuration", (pair) => {
  const { session, ask } = pair;
  assert(!session.notifyConfigChange());
  pair.negotiate();
  const fd = pair.fds.keep(memfdCreate("channel", 0));
  ask(21, undefined, { fds: [pair.fds.event()] });
  ask(21, undefined, { fds: [fd] });
  assert(session.notifyConfigChange());
  const bytes = Deno.readFileSync(`/proc/self/fd/${fd}`);
  assertEquals(bytes.toHex(), "020000000100000000000000");
});

joined("the device's state is moved as the backend says", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const fd = pair.fds.event();
  assertEquals(asU64(ask(42, state(0, 0), { fds: [fd] })!.payload), 0x100);
  assertEquals(asU64(ask(43)!.payload), 0);
  backend.transferInstead = eventfdCreate();
  const reply = ask(42, state(1, 0), { fds: [fd] })!;
  assertEquals(asU64(reply.payload), 0, "a descriptor comes along");
  assertEquals(reply.fds.length, 1);
  close(reply.fds[0]);
  backend.transferInstead = undefined;
  backend.acceptsTransfer = false;
  assertEquals(asU64(ask(42, state(1, 0), { fds: [fd] })!.payload), 0x101);
  assertEquals(asU64(ask(43)!.payload), 95);
  assertEquals(backend.take(), [
    "transfer 0 0",
    "check",
    "transfer 1 0",
    "transfer 1 0",
    "check",
  ]);
});

joined("the end of a connection stops rings and unmaps memory", (pair) => {
  const { backend, frontend, session } = pair;
  const ram = pair.shareMemory();
  pair.setUpRing(0, ram);
  backend.take();
  frontend.send(3);
  frontend.sendRaw(Uint8Array.of(1, 0, 0), [pair.fds.event()]);
  assert(!session.hungUp);
  frontend.close();
  assert(session.hungUp, "though there is something to read");
  assert(!session.readable());
  assertEquals(backend.take(), ["stop 0", "closed"]);
  assertEquals(backend.memory.regions.length, 0);
  assert(session.over && !session.readable());
  session.close();
  assertEquals(backend.take(), []);
});
