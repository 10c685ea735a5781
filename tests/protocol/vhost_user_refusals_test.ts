/** Messages as they should not be: refused where a reply is due, else the end. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { memfdCreate } from "../../ffi/memory.ts";
import {
  Ask,
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

for (const [request, bit] of [[17, 0], [19, 2], [20, 4], [21, 5], [34, 13]]) {
  joined(`request ${request} is refused if its feature is not offered`, (pair) => {
    pair.backend.protocolFeatures = ALL_FEATURES - 2 ** bit;
    const size = request === 19 || request === 20 ? 8 : 0;
    const fds = request === Ask.SET_BACKEND_REQ_FD ? pair.fds.events(1) : [];
    pair.ask(request, new Uint8Array(size), { fds });
    assert(pair.frontend.ended);
  });
}

for (
  const request of [0, 22, 23, 26, 27, 28, 29, 30, 31, 32, 33, 35, 41, 44, 2 ** 32 - 1]
) {
  joined(`request ${request} is not supported, which is told or the end`, (pair) => {
    pair.negotiate();
    assertEquals(pair.acknowledged(request, undefined, pair.fds.events(2)), 1);
    assertEquals(pair.acknowledged(Ask.SET_OWNER), 0, "the connection goes on");
    pair.ask(request);
    assert(pair.frontend.ended);
    assertStringIncludes(pair.log.lines[1], "is not supported");
  });
}

const at = (index: number, low = 0x1000) => vringAddress(index, low, low, low);
for (
  const [what, request, bytes] of [
    ["SET_VRING_NUM of a ring that is not there", Ask.SET_VRING_NUM, state(4, 16)],
    ["SET_VRING_NUM of 0", Ask.SET_VRING_NUM, state(0, 0)],
    ["SET_VRING_NUM that is no power of two", Ask.SET_VRING_NUM, state(0, 48)],
    ["SET_VRING_NUM above 32768", Ask.SET_VRING_NUM, state(0, 65536)],
    ["SET_VRING_NUM of 2^31", Ask.SET_VRING_NUM, state(0, 2 ** 31)],
    [
      "SET_VRING_BASE of a ring that is not there",
      Ask.SET_VRING_BASE,
      state(2 ** 32 - 1, 0),
    ],
    ["SET_VRING_BASE above 16 bits", Ask.SET_VRING_BASE, state(0, 65536)],
    ["SET_VRING_ENABLE of a ring that is not there", Ask.SET_VRING_ENABLE, state(4, 1)],
    ["SET_VRING_ENABLE to 2", Ask.SET_VRING_ENABLE, state(0, 2)],
    ["SET_VRING_ADDR of a ring that is not there", Ask.SET_VRING_ADDR, at(4)],
    [
      "descriptors not aligned to 16",
      Ask.SET_VRING_ADDR,
      vringAddress(0, 0x1008, 0x1000, 0x1000),
    ],
    [
      "a used ring not aligned to 4",
      Ask.SET_VRING_ADDR,
      vringAddress(0, 0x1000, 0x1002, 0x1000),
    ],
    [
      "an available ring not aligned to 2",
      Ask.SET_VRING_ADDR,
      vringAddress(0, 0x1000, 0x1000, 0x1001),
    ],
    [
      "a used ring logged beyond 2^53",
      Ask.SET_VRING_ADDR,
      vringAddress(0, 0, 0, 0, 1, 2 ** 60),
    ],
    ["SET_VRING_KICK of a ring that is not there", Ask.SET_VRING_KICK, u64(0x104)],
    ["SET_VRING_CALL of a ring that is not there", Ask.SET_VRING_CALL, u64(0x1ff)],
    ["SET_VRING_ERR of a ring that is not there", Ask.SET_VRING_ERR, u64(0x110)],
    ["SET_STATUS above 8 bits", Ask.SET_STATUS, u64(0x100)],
    [
      "GET_CONFIG of more than the message holds",
      Ask.SET_CONFIG,
      payload(["u32", 0], ["u64", 5]),
    ],
  ] as [string, number, Uint8Array][]
) {
  joined(`${what} is refused`, (pair) => {
    pair.negotiate();
    assertEquals(pair.acknowledged(request, bytes), 1);
    assertEquals(pair.backend.take(), []);
  });
}

joined("GET_VRING_BASE of a ring that is not there ends the connection", (pair) => {
  pair.ask(Ask.GET_VRING_BASE, state(4, 0));
  assert(pair.frontend.ended);
});

joined("addresses outside shared memory are refused", (pair) => {
  pair.negotiate();
  const ram = pair.shareMemory();
  const user = ram.userAddress;
  const end = user + RAM_SIZE;
  pair.ask(Ask.SET_VRING_NUM, state(0, 256));
  const good = vringAddress(0, user, user + 0x2000, user + 0x1000);
  assertEquals(pair.acknowledged(Ask.SET_VRING_ADDR, good), 0);
  for (
    const bytes of [
      vringAddress(0, user - 16, user, user),
      vringAddress(0, end - 256 * 16 + 16, user, user),
      vringAddress(0, user, end - 256 * 8 - 4, user),
      vringAddress(0, user, user, end - 256 * 2 - 4),
      vringAddress(0, GUEST_BASE, GUEST_BASE, GUEST_BASE),
      vringAddress(0, -16, user, user),
    ]
  ) assertEquals(pair.acknowledged(Ask.SET_VRING_ADDR, bytes), 1);
  const last = vringAddress(0, end - 4096, end - 6 - 2048 - 2, end - 6 - 512);
  assertEquals(pair.acknowledged(Ask.SET_VRING_ADDR, last), 0, "up to the last byte");
});

joined("the number of descriptors must be that of regions", (pair) => {
  pair.negotiate();
  const ram = pair.ram();
  const two = payload(
    ["u64", 2],
    region(0, 4096, 0, 0),
    region(4096, 4096, 4096, 4096),
  );
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, two, [ram.fd]), 1);
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, two, [ram.fd, ram.fd, ram.fd]), 1);
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, two, [ram.fd, ram.fd]), 0);
  const lying = payload(["u64", 2], region(0, 4096, 0, 0));
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, lying, [ram.fd, ram.fd]), 1);
  const many = payload(["u32", 2 ** 32 - 1], ["u32", 0], new Uint8Array(256));
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, many, Array(8).fill(ram.fd)), 1);
  assertEquals(pair.backend.memory.regions.length, 2);
});

joined("a descriptor that epoll cannot wait for is no kick, call or error", (pair) => {
  pair.negotiate();
  const file = pair.fds.keep(memfdCreate("file", 4096));
  for (const request of [12, 13, 14]) {
    assertEquals(pair.acknowledged(request, u64(0), [file]), 1);
  }
});

joined("memory that is no file, or too short a file, is refused", (pair) => {
  pair.negotiate();
  const table = memoryTable(region(0, 0x2000, 0, 0));
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, table, pair.fds.events(1)), 1);
  const short = pair.fds.keep(memfdCreate("short", 0x1000));
  assertEquals(pair.acknowledged(Ask.SET_MEM_TABLE, table, [short]), 1);
});

for (
  const [what, bytes, reason] of [
    ["version 0", payload(["u32", 1], ["u32", 0], ["u32", 0]), "version 0"],
    ["version 2", payload(["u32", 1], ["u32", 2], ["u32", 0]), "version 2"],
    ["the reply flag", payload(["u32", 1], ["u32", 5], ["u32", 0]), "is a reply"],
    ["a payload too long", payload(["u32", 5], ["u32", 1], ["u32", 1025]), "limit 1024"],
    ["a payload of 4 GiB", payload(["u32", 5], ["u32", 1], ["u32", -1]), "limit 1024"],
  ] as [string, Uint8Array, string][]
) {
  joined(`${what} ends the connection even with need_reply`, (pair) => {
    pair.negotiate();
    pair.frontend.sendRaw(bytes, pair.fds.events(1));
    assert(!pair.session.readable());
    assert(pair.frontend.ended);
    assertStringIncludes(pair.log.lines[0], reason);
  });
}

joined("more than eight descriptors end the connection", (pair) => {
  pair.frontend.send(Ask.SET_OWNER, undefined, { fds: pair.fds.events(9) });
  assert(!pair.session.readable());
  assertStringIncludes(pair.log.lines[0], "more than 8 descriptors");
});

joined("more than eight descriptors spread over a message end the connection", (pair) => {
  const fds = pair.fds.events(6);
  pair.frontend.sendRaw(payload(["u32", 3], ["u32", 1]), fds);
  assert(pair.session.readable());
  pair.frontend.sendRaw(payload(["u32", 0]), fds);
  assert(!pair.session.readable());
  assertStringIncludes(pair.log.lines[0], "more than 8 descriptors");
});

joined("a frontend that takes no replies is closed", (pair) => {
  let closed = false;
  for (let i = 0; i < 100_000 && !closed; i++) {
    pair.frontend.send(Ask.GET_FEATURES);
    closed = !pair.session.readable();
  }
  assert(closed);
  assertStringIncludes(pair.log.lines[0], "does not take the reply");
});

joined("one call handles a limited number of messages", (pair) => {
  pair.negotiate();
  for (let i = 0; i < 100; i++) {
    pair.frontend.send(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
  }
  assert(pair.session.readable());
  assertEquals(pair.backend.take().length, 64);
  assert(pair.session.readable());
  assertEquals(pair.backend.take().length, 36);
});
