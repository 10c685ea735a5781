/** Every message as it should be; what the session makes of it and replies. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { close, eventfdCreate } from "../../ffi/event.ts";
import { memfdCreate } from "../../ffi/memory.ts";
import {
  Ask,
  asU64,
  GuestRam,
  memoryTable,
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
  const reply = ask(Ask.GET_FEATURES);
  assertEquals(reply?.request, 1);
  assertEquals(reply?.flags, 5, "version 1 and the reply flag");
  assertEquals(reply?.payload.toHex(), "2000004001000000");
});

joined("SET_FEATURES tells the device and refuses what was not offered", (pair) => {
  const { ask, backend, frontend } = pair;
  assertEquals(ask(Ask.SET_FEATURES, payload(["u32", 0x4000_0020], ["u32", 1])), null);
  assertEquals(backend.take(), ["features 20 1"]);
  assertEquals(ask(Ask.SET_FEATURES, payload(["u32", 0x10], ["u32", 0])), null);
  assertEquals(backend.take(), ["closed"]);
  assert(frontend.ended);
  assertStringIncludes(pair.log.lines[0], "SET_FEATURES: features 0x10 were not offered");
});

joined("protocol features are exchanged before SET_FEATURES", ({ ask, frontend }) => {
  assertEquals(asU64(ask(Ask.GET_PROTOCOL_FEATURES)!.payload), ALL_FEATURES);
  ask(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
  assert(!frontend.ended);
  ask(Ask.SET_PROTOCOL_FEATURES, u64(2 ** 14));
  assert(frontend.ended, "INBAND_NOTIFICATIONS is not offered");
});

joined("SET_PROTOCOL_FEATURES that accepts REPLY_ACK is acknowledged itself", (pair) => {
  // virtio_uml asks so.
  assertEquals(pair.acknowledged(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES)), 0);
});

joined("need_reply is passed over unless REPLY_ACK was accepted", ({ ask, frontend }) => {
  ask(Ask.SET_PROTOCOL_FEATURES, u64(1));
  assertEquals(ask(Ask.SET_OWNER, undefined, { needReply: true }), null);
  assert(!frontend.ended);
});

joined(
  "need_reply changes nothing for a message that has a reply",
  ({ ask, ...pair }) => {
    ask(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
    const reply = ask(Ask.GET_FEATURES, undefined, { needReply: true });
    assertEquals(reply?.flags, 5);
    assert(!pair.frontend.ended);
  },
);

joined("every message without a reply of its own is acknowledged", (pair) => {
  const { acknowledged, fds } = pair;
  acknowledged(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
  const ram = pair.ram();
  const user = ram.userAddress;
  const config = payload(["u32", 6], ["u32", 2], ["u32", 1], Uint8Array.of(1, 0));
  const table = memoryTable(region(0, RAM_SIZE, user, 0));
  const other = payload(["u64", 0], region(RAM_SIZE, 4096, user + RAM_SIZE, 0));
  const messages: [number, Uint8Array | undefined, number[]][] = [
    [Ask.SET_FEATURES, u64(PROTOCOL_FEATURES), []],
    [Ask.SET_OWNER, undefined, []],
    [Ask.RESET_OWNER, undefined, []],
    [Ask.SET_MEM_TABLE, table, [ram.fd]],
    [Ask.SET_LOG_FD, undefined, [fds.event()]],
    [Ask.SET_VRING_NUM, state(0, 128), []],
    [Ask.SET_VRING_ADDR, vringAddress(0, user, user + 0x2000, user + 0x1000), []],
    [Ask.SET_VRING_BASE, state(0, 65535), []],
    [Ask.SET_VRING_KICK, u64(0), [fds.event()]],
    [Ask.SET_VRING_CALL, u64(0), [fds.event()]],
    [Ask.SET_VRING_ERR, u64(0), [fds.event()]],
    [Ask.SET_VRING_ENABLE, state(0, 1), []],
    [Ask.SEND_RARP, payload(Uint8Array.fromHex("5254001234560000")), []],
    [Ask.NET_SET_MTU, u64(1500), []],
    [Ask.SET_BACKEND_REQ_FD, undefined, [fds.event()]],
    [Ask.SET_CONFIG, config, []],
    [Ask.RESET_DEVICE, undefined, []],
    [Ask.ADD_MEM_REG, other, [ram.fd]],
    [Ask.REM_MEM_REG, other, []],
    [Ask.SET_STATUS, u64(1), []],
  ];
  for (const [request, bytes, sent] of messages) {
    assertEquals(acknowledged(request, bytes, sent), 0, `request ${request}`);
  }
});

joined("GET_QUEUE_NUM tells queue pairs", ({ ask, backend }) => {
  backend.maxQueues = 4;
  assertEquals(asU64(ask(Ask.GET_QUEUE_NUM)!.payload), 2);
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
  ask(Ask.SET_MEM_TABLE, table, { fds: [ram.fd] });
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
  const table = memoryTable(region(0, RAM_SIZE, 0, 0));
  pair.frontend.send(Ask.GET_FEATURES);
  pair.frontend.send(Ask.SET_MEM_TABLE, table, { fds: [ram.fd] });
  pair.frontend.send(Ask.SET_VRING_CALL, u64(0), { fds: [pair.fds.event()] });
  pair.frontend.send(Ask.GET_PROTOCOL_FEATURES);
  assert(pair.session.readable());
  assertEquals(pair.frontend.receive()?.request, 1);
  assertEquals(pair.frontend.receive()?.request, 15);
  assertEquals(pair.backend.memory.regions.length, 1);
});

joined("memory slots are added and removed", (pair) => {
  const { ask, backend, acknowledged } = pair;
  pair.negotiate();
  assertEquals(asU64(ask(Ask.GET_MAX_MEM_SLOTS)!.payload), 509);
  const ram = pair.ram();
  const slot = (guest: number, offset: number) =>
    payload(["u64", 0], region(guest, 0x10000, guest, offset));
  assertEquals(acknowledged(Ask.ADD_MEM_REG, slot(0, 0), [ram.fd]), 0);
  assertEquals(acknowledged(Ask.ADD_MEM_REG, slot(0x10000, 0x10000), [ram.fd]), 0);
  assertEquals(
    acknowledged(Ask.ADD_MEM_REG, slot(0x8000, 0x20000), [ram.fd]),
    1,
    "overlaps",
  );
  assertEquals(
    acknowledged(Ask.ADD_MEM_REG, slot(0x20000, 0x38000), [ram.fd]),
    1,
    "beyond the file",
  );
  assertEquals(
    acknowledged(Ask.REM_MEM_REG, slot(0, 0x3000)),
    0,
    "the offset does not count",
  );
  assertEquals(acknowledged(Ask.REM_MEM_REG, slot(0, 0)), 1, "it is gone");
  assertEquals(
    acknowledged(Ask.REM_MEM_REG, slot(0x10000, 0), [ram.fd]),
    0,
    "a descriptor is allowed",
  );
  assertEquals(backend.memory.regions.length, 0);
});

joined("SET_STATUS is told by GET_STATUS; 0 stops the rings", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const ram = pair.shareMemory();
  ask(Ask.SET_STATUS, u64(7));
  assertEquals(asU64(ask(Ask.GET_STATUS)!.payload), 7);
  assertEquals(pair.session.status, 7);
  pair.setUpRing(0, ram);
  backend.take();
  ask(Ask.SET_STATUS, u64(0));
  assertEquals(backend.take(), ["stop 0"]);
});

joined("SEND_RARP and NET_SET_MTU reach the device", (pair) => {
  pair.negotiate();
  const mac = Uint8Array.fromHex("5254001234560000");
  assertEquals(pair.acknowledged(Ask.SEND_RARP, mac), 0);
  assertEquals(pair.acknowledged(Ask.NET_SET_MTU, u64(9000)), 0);
  assertEquals(pair.backend.take(), ["rarp 525400123456", "mtu 9000"]);
  for (const mtu of [0, 67, 65536, 2 ** 32 + 1500, 1234]) {
    assertEquals(pair.acknowledged(Ask.NET_SET_MTU, u64(mtu)), 1, `${mtu}`);
  }
});

joined("GET_CONFIG gives what was asked for, or nothing", ({ ask, negotiate }) => {
  negotiate();
  const header = payload(["u32", 4], ["u32", 3], ["u32", 0]);
  const reply = ask(Ask.GET_CONFIG, payload(header, new Uint8Array(3)));
  assertEquals(reply?.payload.toHex(), header.toHex() + "040506");
  const beyond = payload(["u32", 27], ["u32", 2], ["u32", 0], new Uint8Array(2));
  assertEquals(ask(Ask.GET_CONFIG, beyond)?.payload.length, 0);
});

joined("SET_CONFIG of read-only space is refused unless the guest migrates", (pair) => {
  pair.negotiate();
  const message = (flags: number) =>
    payload(["u32", 2], ["u32", 2], ["u32", flags], Uint8Array.of(0xab, 0xcd));
  assertEquals(pair.acknowledged(Ask.SET_CONFIG, message(0)), 1);
  assertEquals(pair.acknowledged(Ask.SET_CONFIG, message(1)), 0);
  assertEquals(pair.acknowledged(Ask.SET_CONFIG, message(2)), 1);
  assertEquals(pair.backend.take(), ["config 2 abcd", "config 2 abcd"]);
});

joined("SET_LOG_BASE and VHOST_F_LOG_ALL turn dirty logging on", (pair) => {
  const { ask, backend, fds } = pair;
  pair.negotiate();
  const log = new GuestRam(0x2000);
  fds.keep(log.fd);
  const reply = ask(Ask.SET_LOG_BASE, payload(["u64", 0x1000], ["u64", 0x1000]), {
    fds: [log.fd],
  });
  assertEquals(reply?.request, 6);
  assert(!backend.memory.logging);
  ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES + 2 ** 26));
  assert(backend.memory.logging);
  backend.memory.markDirty(9 * 4096 + 5, 1);
  assertEquals(log.view.getUint16(0x1000, true), 1 << 9);
  ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
  assert(!backend.memory.logging);
});

joined("SET_LOG_BASE that cannot be kept ends the connection", (pair) => {
  pair.negotiate();
  const fd = pair.fds.keep(memfdCreate("log", 0x1000));
  pair.ask(Ask.SET_LOG_BASE, payload(["u64", 0x1000], ["u64", 1]), {
    fds: [fd],
    needReply: true,
  });
  assert(pair.frontend.ended);
});

joined("SET_BACKEND_REQ_FD gives a channel to tell of changed configuration", (pair) => {
  const { session, ask } = pair;
  assert(!session.notifyConfigChange());
  pair.negotiate();
  const fd = pair.fds.keep(memfdCreate("channel", 0));
  ask(Ask.SET_BACKEND_REQ_FD, undefined, { fds: [pair.fds.event()] });
  ask(Ask.SET_BACKEND_REQ_FD, undefined, { fds: [fd] });
  assert(session.notifyConfigChange());
  const bytes = Deno.readFileSync(`/proc/self/fd/${fd}`);
  assertEquals(bytes.toHex(), "020000000100000000000000");
});

joined("the device's state is moved as the backend says", (pair) => {
  const { ask, backend } = pair;
  pair.negotiate();
  const fd = pair.fds.event();
  assertEquals(
    asU64(ask(Ask.SET_DEVICE_STATE_FD, state(0, 0), { fds: [fd] })!.payload),
    0x100,
  );
  assertEquals(asU64(ask(Ask.CHECK_DEVICE_STATE)!.payload), 0);
  backend.transferInstead = eventfdCreate();
  const reply = ask(Ask.SET_DEVICE_STATE_FD, state(1, 0), { fds: [fd] })!;
  assertEquals(asU64(reply.payload), 0, "a descriptor comes along");
  assertEquals(reply.fds.length, 1);
  close(reply.fds[0]);
  backend.transferInstead = undefined;
  backend.acceptsTransfer = false;
  assertEquals(
    asU64(ask(Ask.SET_DEVICE_STATE_FD, state(1, 0), { fds: [fd] })!.payload),
    0x101,
  );
  assertEquals(asU64(ask(Ask.CHECK_DEVICE_STATE)!.payload), 95);
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
  frontend.send(Ask.SET_OWNER);
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
