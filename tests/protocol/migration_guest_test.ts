/** What a guest brings along and leaves behind: flows, ports and numbers of its stream. */
import { assert, assertEquals } from "@std/assert";
import { Errno } from "../../ffi/errno.ts";
import { awaitReady, POLLIN } from "../../ffi/pipe.ts";
import { getOption, IPPROTO_TCP } from "../../ffi/socket.ts";
import type { ForwardRule } from "../../src/config.ts";
import type { DataPath } from "../../src/flow/datapath.ts";
import { Forwarder } from "../../src/flow/forward.ts";
import { FlowKind, FlowWord } from "../../src/flow/table.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import { OwnRepair, type RepairSwitch } from "../../src/repair/switch.ts";
import type { MovedRule, MovedState } from "../../src/wire/state/model.ts";
import { withoutDescriptors } from "../support/descriptor_limit.ts";
import { emptyState } from "../support/fake_movable.ts";
import { openDescriptors } from "../support/frontend.ts";
import { ip, IP4, IP6 } from "../support/flow_config.ts";
import { FlowWorld, type WorldOptions } from "../support/flow_world.ts";
import { freePorts, isFree } from "../support/free_ports.ts";
import { readPacket, udpPacket } from "../support/guest_packets.ts";
import { HostUdp } from "../support/host_udp.ts";
import { entriesOf, type EntrySample } from "../support/state_samples.ts";
import { inWorld, pattern, type TcpWorld } from "../support/tcp_world.ts";

const FACTS = { featuresLo: 0, featuresHi: 1 };
const GUEST4 = ip("192.0.2.10");
const OUT4 = { from: GUEST4, to: ip("192.0.2.1") };
const LOOPBACK = ip("127.0.0.1");
const TCP_REPAIR = 19;

/** A helper that dies after it has switched half of what it was asked to, once. */
class MortalHelper implements RepairSwitch {
  readonly #own = new OwnRepair();
  available = true;
  dies: "on" | "off" | "never" = "never";

  switchSockets(fds: ArrayLike<number>, on: boolean): number {
    if (!this.available) return Errno.ENOTCONN;
    if (this.dies !== (on ? "on" : "off")) return this.#own.switchSockets(fds, on);
    this.#own.switchSockets(Array.from(fds).slice(0, fds.length / 2), on);
    this.available = false;
    this.dies = "never";
    return Errno.ECONNRESET;
  }
  describe(): string {
    return "a helper that dies";
  }
}

/** Whether sockets of connections are in repair mode. */
function inRepair({ table }: DataPath): boolean[] {
  return Array.from({ length: table.limit }, (_, flow) => flow)
    .filter((flow) => table.kind(flow) === FlowKind.tcp)
    .map((flow) => getOption(table.fd(flow), IPPROTO_TCP, TCP_REPAIR, 0) === 1);
}

/** Each connection carries a byte each way. */
function carries(world: TcpWorld, pairs: ReturnType<TcpWorld["connect"]>[]): void {
  for (const { guest, host } of pairs) {
    guest.in("PA", { data: pattern(5) });
    world.until("data at the peer", () => host.receive() instanceof Uint8Array);
    const before = guest.received.length;
    host.send(pattern(7));
    world.until("data at the guest", () => guest.received.length === before + 7);
    guest.in("A");
  }
}

for (const dies of ["on", "off"] as const) {
  inWorld(`a helper that dies at switching ${dies}: all goes on later`, (world) => {
    const pairs = [world.connect(), world.connect(), world.connect(), world.connect()];
    const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
    const helper = new MortalHelper();
    move.repair = helper;
    helper.dies = dies;
    assertEquals(move.freeze() !== 0, dies === "on");
    assert(move.thaw() !== 0);
    assertEquals(inRepair(world.path), dies === "on" ? half(true) : half(false));
    helper.available = true;
    assertEquals(move.thaw(), 0);
    assertEquals(inRepair(world.path), [false, false, false, false]);
    carries(world, pairs);
  });
}

inWorld("what a helper switches after it was given up is thawed", (world) => {
  const pairs = [world.connect(), world.connect()];
  const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
  const own = new OwnRepair();
  const fds = pairs.map(({ guest }) => world.path.table.fd(world.flowOf(guest)));
  move.repair = {
    available: true,
    switchSockets: () => Errno.ETIMEDOUT,
    describe: () => "a slow helper",
  };
  assertEquals(move.freeze(), Errno.ETIMEDOUT);
  assertEquals(move.thaw(), 0, "nothing is frozen yet");
  assertEquals(own.switchSockets(fds, true), 0);
  world.advance(1000);
  assert(move.catchLate());
  assertEquals(move.thaw(), Errno.ETIMEDOUT);
  assertEquals(inRepair(world.path), [true, true]);
  move.repair = own;
  assertEquals(move.thaw(), 0);
  assertEquals(inRepair(world.path), [false, false]);
  carries(world, pairs);
});

function half(first: boolean): boolean[] {
  return [first, first, !first, !first];
}

inWorld("frozen connections that are saved twice go on", (world) => {
  const pairs = [world.connect(), world.connect()];
  const move = new GuestMove(world.path, new Forwarder(world.path), () => FACTS);
  move.repair = new OwnRepair();
  for (let i = 0; i < 2; i++) {
    assertEquals(move.freeze(), 0);
    assertEquals(move.save().tcp.map(({ lost }) => lost), ["", ""]);
  }
  assertEquals(move.thaw(), 0);
  carries(world, pairs);
});

/** A guest's host: flows, forwarded ports, and what moves them. */
class Host {
  readonly world: FlowWorld;
  readonly forwarder: Forwarder;
  readonly move: GuestMove;

  constructor(options: WorldOptions = {}) {
    this.world = new FlowWorld(options);
    this.world.driver.post(64, 2048);
    this.forwarder = new Forwarder(this.world.path);
    this.forwarder.open();
    this.move = new GuestMove(this.world.path, this.forwarder, () => FACTS);
  }
  get flows(): number {
    return this.world.path.table.count;
  }
  close(): void {
    this.world.close();
    this.forwarder.close();
  }
}

function hosted(name: string, body: (host: Host) => void, options: WorldOptions = {}) {
  Deno.test(name, () => {
    new Host().close(); // whatever is loaded once
    const before = openDescriptors();
    const host = new Host(options);
    try {
      body(host);
    } finally {
      host.close();
    }
    assertEquals(openDescriptors() - before, 0, "descriptors lost");
  });
}

hosted("UDP and forwarded ports do not wait for a helper", (host) => {
  const { world, move } = host;
  const peer = new HostUdp(LOOPBACK);
  world.driver.send(udpPacket(OUT4, 4000, peer.port, pattern(3)));
  world.settle();
  const { port } = peer.receive()!;
  assertEquals(move.freeze(), 0);
  peer.send(pattern(4), LOOPBACK, port);
  // As GuestMove sees it: there were connections, and they cannot be thawed.
  Object.defineProperty(world.path.tcp, "thaw", { value: () => Errno.ENOTCONN });
  assertEquals(move.thaw(), Errno.ENOTCONN);
  peer.send(pattern(5), LOOPBACK, port);
  world.settle();
  assertEquals(world.frames().map((frame) => readPacket(frame).payload.length), [5]);
  peer.close();
});

const RULE: MovedRule = {
  protocol: "tcp",
  address: LOOPBACK,
  first: 1,
  last: 1,
  guestFirst: 80,
  weak: false,
};

function withRules(...rules: MovedRule[]): MovedState {
  return { ...emptyState(1), rules };
}

for (const end of ["discard", "thaw and forget"] as const) {
  hosted(`ports that came with a guest are closed after it (${end})`, (host) => {
    const first = freePorts(3);
    const tcp = { ...RULE, first, last: first + 2 };
    const udp: MovedRule = { ...tcp, protocol: "udp" };
    for (let i = 0; i < 2; i++) {
      assertEquals(host.move.restore(withRules(tcp, udp)), 0);
      assertEquals(host.forwarder.rules.length, 2);
      assert(!isFree(first + 1));
      assert(host.forwarder.datagramSocket(first + 2, true) !== undefined);
      if (end === "discard") host.move.discard();
      else {
        assertEquals(host.move.thaw(), 0);
        host.world.path.dropAll();
        host.move.forget();
      }
      assertEquals(host.forwarder.rules.length, 0);
      assert(isFree(first + 1));
      assertEquals(host.forwarder.datagramSocket(first + 2, true), undefined);
    }
  });
}

hosted("ports of a guest that left are deaf until the next one receives", (host) => {
  const first = freePorts(1);
  const rule: ForwardRule = { ...RULE, protocol: "udp", first, last: first };
  Object.assign(host.world.path.config, { forwards: [rule] });
  host.forwarder.open();
  const { fd } = host.forwarder.datagramSocket(first, true)!;
  const peer = new HostUdp(LOOPBACK);
  const heard = () => {
    peer.send(pattern(1), LOOPBACK, first);
    return awaitReady(fd, POLLIN, 0);
  };
  assertEquals(host.move.freeze(), 0);
  assertEquals(heard(), false);
  host.move.discard();
  assertEquals(heard(), false);
  host.forwarder.resume();
  assertEquals(heard(), true);
  peer.close();
});

hosted("the same rule twice, and another guest's, are one at a time", (host) => {
  const first = freePorts(2);
  assertEquals(host.move.restore(withRules({ ...RULE, first, last: first })), 0);
  const other = { ...RULE, first: first + 1, last: first + 1 };
  assertEquals(host.move.restore(withRules(other, other)), 0);
  assertEquals(host.forwarder.rules.map((rule) => rule.first), [first + 1]);
  assert(isFree(first));
  host.move.discard();
});

hosted("endless rules are not opened for ever", (host) => {
  const all = { ...RULE, address: ip("198.51.100.7"), last: 65535, guestFirst: 1 };
  const rules = Array<ForwardRule>(5000).fill(all);
  assertEquals(host.move.restore(withRules(...rules)), 0);
  host.move.discard();
});

hosted("without descriptors a rule is left out, as a whole", (host) => {
  const first = freePorts(2);
  const rule = { ...RULE, first, last: first + 1 };
  withoutDescriptors(() => {
    host.forwarder.adopt([rule], 100);
    assertEquals(host.move.restore(withRules(rule)), 0);
  });
  assertEquals(host.forwarder.rules, []);
  host.move.discard();
});

hosted("a guest with more flows than there is room for stays where it is", (host) => {
  const samples = Array.from({ length: 1025 }, (_, i) =>
    udp({
      guest: ["198.51.100.2", "192.0.2.10", (9000 << 16) | 1000 + i],
    }));
  const moved = samples.map((_, flow) => ({ flow, idle: 0 }));
  const state = { ...emptyState(1), entries: entriesOf(samples), udp: moved };
  assertEquals(host.move.restore(state), Errno.EMFILE);
  const few = { ...emptyState(1), entries: entriesOf([udp()]), udp: moved.slice(0, 1) };
  withoutDescriptors(() => assertEquals(host.move.restore(few), Errno.EMFILE));
  assertEquals(host.flows, 0);
  assertEquals(host.move.restore(few), 0);
  host.move.discard();
});

hosted("the MTU of a guest goes with it, and one that cannot be is not taken", (host) => {
  const { device } = emptyState(1);
  for (const [mtu, expected] of [[9000, 9000], [67, 1500], [0, 1500], [68, 68]]) {
    const state = { ...emptyState(1), device: { ...device, mtu } };
    assertEquals(host.move.restore(state), 0);
    assertEquals(host.world.path.mtu, expected);
    host.move.discard();
    host.move.forget();
    assertEquals(host.world.path.mtu, 1500);
  }
});

/** An UDP flow of the guest with a peer. */
function udp(changes: Partial<EntrySample> = {}): EntrySample {
  return {
    kind: 2 | 1 << 16,
    guest: ["198.51.100.2", "192.0.2.10", (9000 << 16) | 4000],
    host: ["0.0.0.0", "198.51.100.2", 9000],
    own: [64, 1, 0, 0, 1452],
    ...changes,
  };
}

function restored(host: Host, sample: EntrySample): number {
  const udp = (sample.kind & 0xff) === 2 ? [{ flow: 0, idle: 0 }] : [];
  const ping = udp.length > 0 ? [] : [{ flow: 0, idle: 0 }];
  const state = { ...emptyState(1), entries: entriesOf([sample]), udp, ping };
  assertEquals(host.move.restore(state), 0);
  return host.flows;
}

const PING = { own: [64, 2] };
const REFUSED: Record<string, EntrySample> = {
  "a peer that its guest may not talk to": udp({
    guest: ["127.0.0.1", "192.0.2.10", (9000 << 16) | 4000],
    host: ["127.0.0.1", "127.0.0.1", 9000],
  }),
  "its peer's address for the guest's own": udp({
    guest: ["192.0.2.10", "192.0.2.10", (9000 << 16) | 4000],
  }),
  "a group": udp({ guest: ["224.0.0.251", "192.0.2.10", (5353 << 16) | 5353] }),
  "sides of two families": udp({ host: ["::", "2001:db8::2", 9000] }),
  "a ping of the other kind": udp({ kind: 4, ...PING }),
  "a ping of IPv6 to IPv4": udp({
    kind: 4,
    guest: ["2001:db8::2", "2001:db8::10", 7],
    ...PING,
  }),
};
for (const [what, sample] of Object.entries(REFUSED)) {
  hosted(`a flow is not taken over with ${what}`, (host) => {
    host.world.path.guest.address4.set(GUEST4);
    assertEquals(restored(host, sample), 0);
    host.move.discard();
  });
}

hosted("a flow of a protocol that is off is not taken over", (host) => {
  assertEquals(restored(host, udp()), 0);
  host.move.discard();
}, { config: { udp: false } });
hosted("a flow of a family that is off is not taken over", (host) => {
  assertEquals(restored(host, udp()), 0);
  host.move.discard();
}, { config: { ip4: undefined } });

hosted("a flow to the source's own loopback goes to where the guest means", (host) => {
  const secret = new HostUdp(LOOPBACK);
  const sample = udp({
    guest: ["192.0.2.1", "192.0.2.10", (9000 << 16) | 4000],
    host: ["127.0.0.1", "127.0.0.1", secret.port],
  });
  assertEquals(restored(host, sample), 1);
  assertEquals(host.move.thaw(), 0);
  host.world.driver.send(udpPacket(OUT4, 4000, 9000, pattern(3)));
  host.world.settle();
  assertEquals(secret.receive(), undefined, "the guest said port 9000");
  secret.close();
});

hosted("questions to a DNS server go to that of this host", (host) => {
  const sample = udp({
    guest: ["192.0.2.3", "192.0.2.10", (53 << 16) | 4000],
    host: ["127.0.0.1", "127.0.0.53", 53],
  });
  assertEquals(restored(host, sample), 1);
  const { table } = host.world.path;
  const peer = table.bytes.slice(
    FlowWord.hostEndpoint * 4,
    FlowWord.hostEndpoint * 4 + 16,
  );
  assertEquals(peer, ip("127.0.0.9"));
  host.move.discard();
}, {
  config: {
    ip4: { ...IP4, dnsForward: ip("192.0.2.3"), dnsHost: ip("127.0.0.9") },
    ip6: IP6,
  },
});

/** Addresses of this host that are not loopback's, of which there may be none. */
const ADDRESSES = Deno.networkInterfaces()
  .filter(({ family, address }) => family === "IPv4" && !address.startsWith("127."))
  .map(({ address }) => address);

hosted("a guest does not come to this host's services from its loopback", (host) => {
  for (const address of [...ADDRESSES, "127.0.0.1"]) {
    const service = new HostUdp(ip(address));
    const { port } = service;
    // The guest reaches loopback itself at an address that is mapped to it.
    const to = address === "127.0.0.1" ? "192.0.2.1" : address;
    const sample = udp({
      guest: [to, "192.0.2.10", (port << 16) | 4000],
      host: ["127.0.0.1", address, port],
    });
    assertEquals(restored(host, sample), 1);
    assertEquals(host.move.thaw(), 0);
    const out = { from: ip("192.0.2.10"), to: ip(to) };
    host.world.driver.send(udpPacket(out, 4000, port, pattern(3)));
    host.world.settle();
    assertEquals(service.receive()?.from, ip(address));
    service.close();
    host.world.path.dropAll();
  }
});

hosted("a flow through a forwarded port has a peer that may be one here", (host) => {
  const first = freePorts(1);
  const rules = [{ ...RULE, protocol: "udp" as const, first, last: first }];
  const any = "0.0.0.0";
  for (
    const [our, peer, expected] of [
      [any, "198.51.100.2", 1],
      // the source host itself
      [any, "127.0.0.1", 0],
      [any, "192.0.2.10", 0],
      [any, "127.1.1.1", 0],
      ["127.0.0.1", "198.51.100.2", 0],
      // groups
      [any, "224.0.0.251", 0],
      [any, "255.255.255.255", 0],
    ] as const
  ) {
    const sample = udp({
      guest: ["192.0.2.1", "192.0.2.10", (9000 << 16) | 80],
      host: [our, peer, (first << 16) | 9000],
      own: [64, 1, 1, 0, 1452],
    });
    const entries = entriesOf([sample]);
    const moved = { ...emptyState(1), rules, entries, udp: [{ flow: 0, idle: 0 }] };
    assertEquals(host.move.restore(moved), 0);
    assertEquals(host.flows, expected);
    host.move.discard();
  }
});

Deno.test("65,535 UDP flows of as many forwarded ports find theirs", () => {
  const found = new Set<number | undefined>();
  const first = 1;
  const host = new Host();
  try {
    const rule: MovedRule = { ...RULE, protocol: "udp", first: 20_000, last: 24_000 };
    host.forwarder.adopt([{ ...rule, guestFirst: first, weak: true }], 5000);
    for (let i = 0; i < 65535; i++) {
      found.add(host.forwarder.datagramSocket(20_000 + i % 4000, true)?.index);
    }
    assert(found.size > 3900);
  } finally {
    host.close();
  }
});
