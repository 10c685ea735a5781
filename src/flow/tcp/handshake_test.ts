/** Connections opened by either side, and those that come to nothing. */
import { assert, assertEquals } from "@std/assert";
import { inWorld, type TcpWorld } from "../../../tests/support/tcp_world.ts";
import { HostTcp, LOOPBACK4, LOOPBACK6 } from "../../../tests/support/host_tcp.ts";
import { synOptions } from "../../../tests/support/tcp_segment.ts";
import { ip, IP4 } from "../../../tests/support/flow_config.ts";

const ISNS = [1000, 0xffff_ffff, 0xffff_fffe, 0x7fff_ffff];

/** A port of the host's loopback that nobody listens on. */
function closedPort(world: TcpWorld): number {
  const listener = world.listen();
  const { port } = listener;
  listener.close();
  world.listeners.pop();
  return port;
}

for (const six of [false, true]) {
  const family = six ? "IPv6" : "IPv4";

  inWorld(
    `${family}: the guest's SYN is answered when the peer has accepted`,
    (world) => {
      const listener = world.listen(six ? LOOPBACK6 : LOOPBACK4);
      const guest = world.guest(listener.port, { six });
      guest.in("S", { options: synOptions(1460, 7) });
      world.until("SYN and ACK", () => guest.sent.length > 0);
      assertEquals(guest.out(), ["SA 0+0 1"]);
      assertEquals(guest.last?.window, 65535);
      const mss = six ? 1440 : 1460;
      assertEquals(guest.last?.options, synOptions(mss, 8));
      guest.in("A");
      assertEquals(guest.out(), []);
      guest.finish(world.keep(listener.accept()));
    },
  );

  inWorld(`${family}: a peer's connection becomes a SYN to the guest`, (world) => {
    const listener = world.forward(80, six ? LOOPBACK6 : LOOPBACK4);
    const host = world.keep(HostTcp.connect(six ? LOOPBACK6 : LOOPBACK4, listener.port));
    const guest = world.guest(host.port, { six, fromPort: 80 });
    world.until("SYN", () => guest.sent.length > 0);
    assertEquals(guest.out(), ["S 0+0"]);
    assertEquals(guest.last?.window, 65535);
    assertEquals(guest.last?.options, synOptions(six ? 1440 : 1460, 8));
    guest.in("SA", { options: synOptions(1460, 7) });
    assertEquals(guest.out(), ["A 1+0 1"]);
    guest.finish(host);
  });

  inWorld(`${family}: a refused connection is reset, the SYN acknowledged`, (world) => {
    const port = six ? 1 : closedPort(world);
    for (const isn of ISNS) {
      const guest = world.guest(port, { six, isn });
      guest.in("S", { options: synOptions(1460, 7) });
      world.until("RST", () => guest.sent.length > 0);
      assertEquals(guest.out(), ["RA 0+0 1"]);
      assertEquals(guest.last?.seq, 0);
      assertEquals(world.flows, 0);
    }
  });
}

inWorld("an unreachable network is told by ICMP", (world) => {
  // Linux answers a TCP connect() to a broadcast address with ENETUNREACH; the only way
  // there is a resolver that was configured so.
  const guest = world.guest(53);
  guest.to.set(ip("192.0.2.53"));
  guest.in("S");
  assertEquals(world.others.length, 1);
  const [frame] = world.others;
  assertEquals(frame[23], 1);
  assertEquals([frame[34], frame[35]], [3, 0], "network unreachable (RFC 792)");
  assertEquals([...frame.subarray(42 + 12, 42 + 20)], [192, 0, 2, 10, 192, 0, 2, 53]);
  const quoted = new DataView(frame.buffer, frame.byteOffset + 62);
  assertEquals(quoted.getUint16(0), guest.fromPort);
  assertEquals(quoted.getUint32(4), guest.isn);
  assertEquals(world.flows, 0);
}, {
  config: {
    ip4: { ...IP4, dnsForward: ip("192.0.2.53"), dnsHost: ip("255.255.255.255") },
  },
});

inWorld("an address that leads nowhere resets", (world) => {
  const guest = world.guest(9);
  guest.to.set(ip("127.0.0.1"));
  guest.in("S");
  assertEquals(guest.out(), ["RA 0+0 1"]);
  assertEquals(world.flows, 0);
});

inWorld("a guest that refuses resets the peer", (world) => {
  const listener = world.forward(80);
  const host = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  const guest = world.guest(host.port, { fromPort: 80 });
  world.until("SYN", () => guest.sent.length > 0);
  guest.in("RA", { seq: -guest.isn, ack: 0 });
  guest.in("R", { seq: -guest.isn, ack: 1 });
  assertEquals(world.flows, 1, "RST that acknowledges nothing of ours is not obeyed");
  guest.in("RA", { seq: -guest.isn, ack: 1 });
  assertEquals(world.flows, 0);
  assertEquals(host.receive(), 104); // ECONNRESET
});

inWorld("SYN is repeated with back-off, and given up", (world) => {
  const listener = world.forward(80);
  const host = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  const guest = world.guest(host.port, { fromPort: 80 });
  world.until("SYN", () => guest.sent.length > 0);
  assertEquals(guest.out(), ["S 0+0"]);
  for (let wait = 1000; wait <= 32_000; wait *= 2) {
    world.advance(wait - 500);
    assertEquals(guest.out(), []);
    world.advance(600);
    assertEquals(guest.out(), ["S 0+0"]);
    assertEquals(guest.last?.window, 65535, "windows of SYNs are not scaled");
  }
  world.advance(65_000);
  assertEquals(world.flows, 0);
  assertEquals(host.receive(), 104);
});

inWorld("SYN and ACK are repeated: by the clock and for a repeated SYN", (world) => {
  const listener = world.listen();
  const guest = world.guest(listener.port);
  guest.in("S", { seq: 0, options: synOptions(1460, 7) });
  world.until("SYN and ACK", () => guest.sent.length > 0);
  guest.out();
  guest.in("S", { seq: 0, options: synOptions(1460, 7) });
  assertEquals(guest.out(), ["SA 0+0 1"]);
  assertEquals(guest.last?.window, 65535);
  world.advance(1100);
  assertEquals(guest.out(), ["SA 0+0 1"]);
  world.keep(listener.accept());
  for (let i = 0; i < 7; i++) world.advance(65_000);
  assertEquals(world.flows, 0);
});

inWorld("an ACK of something else does not complete the handshake", (world) => {
  const listener = world.listen();
  const guest = world.guest(listener.port);
  guest.in("S");
  world.until("SYN and ACK", () => guest.sent.length > 0);
  guest.out();
  guest.in("A", { ack: 77 });
  assertEquals(guest.out(), ["R 77+0"]); // RFC 9293, 3.10.7.4, SYN-RECEIVED
  guest.in("A");
  assertEquals(guest.out(), []);
  guest.finish(world.keep(listener.accept()));
});

inWorld(
  "before the handshake is over, segments outside the window change nothing",
  (world) => {
    for (const isn of ISNS) {
      const listener = world.listen();
      const guest = world.guest(listener.port, { isn });
      guest.in("S", { options: synOptions(1460, 7) });
      world.until("SYN and ACK", () => guest.sent.length > 0);
      guest.out();
      const data = new Uint8Array(10);
      // RFC 9293, section 3.10.7.4: an acknowledgement that says what is expected.
      const outside: [flags: string, seq: number, data: Uint8Array][] = [
        ["A", 0, data.subarray(0, 0)],
        ["A", 1 + 65535, data.subarray(0, 0)],
        ["A", 2 ** 31, data.subarray(0, 0)],
        ["PA", -9, data],
        ["FA", -10, data],
        ["PA", 1 + 65535, data],
        ["", 2 ** 30, data],
        ["R", 2, data], // within the window: a challenge
      ];
      for (const [flags, seq, data] of outside) {
        guest.in(flags, { seq, data });
        assertEquals(guest.out(), ["A 1+0 1"], `${flags} ${seq}`);
        guest.in("A", { seq, ack: 77 }); // nor is what it acknowledges looked at
        if (flags !== "R") assertEquals(guest.out(), ["A 1+0 1"], `${flags} ${seq}`);
        else assertEquals(guest.out(), ["R 77+0"]);
      }
      guest.in("R", { seq: 1 + 65535 }).in("R", { seq: 0 }).in("R", { seq: -1 });
      assertEquals(guest.out(), []);
      guest.in("S", { seq: 0, options: synOptions(1460, 7) });
      assertEquals(guest.out(), ["SA 0+0 1"], "the handshake is not over");
      const host = world.keep(listener.accept());
      // It reaches into the window: what has come before is left out.
      guest.in("PA", { seq: -3, data: Uint8Array.of(9, 9, 9, 9, 1, 2) });
      assertEquals(host.receive(), Uint8Array.of(1, 2));
      guest.next = 3;
      guest.finish(host);
    }
  },
);

inWorld("a guest with an older connection of the tuple is told to forget it", (world) => {
  const listener = world.forward(80);
  const host = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  const guest = world.guest(host.port, { fromPort: 80 });
  world.until("SYN", () => guest.sent.length > 0);
  guest.out();
  guest.in("A", { seq: 5, ack: 4711 });
  assertEquals(guest.out(), ["R 4711+0", "S 0+0"]);
  guest.in("SA", { seq: 0 });
  assertEquals(guest.out(), ["A 1+0 1"]);
  guest.next = 1;
  guest.finish(host);
});

inWorld("initial sequence numbers near the wrap", (world) => {
  for (const isn of ISNS) {
    const { guest, host } = world.connect({ isn });
    guest.in("PA", { data: Uint8Array.of(1, 2, 3, 4) });
    assertEquals(host.receive(), Uint8Array.of(1, 2, 3, 4));
    host.send(Uint8Array.of(5, 6));
    guest.drain();
    assertEquals(guest.received, [5, 6]);
    guest.finish(host);
  }
});

inWorld("MSS: absent, 0, 1, odd and more than the link's", (world) => {
  const cases = [[undefined, 536], [0, 536], [1, 1], [999, 999], [1460, 1460], [
    65535,
    1460,
  ]];
  for (const [offered, used] of cases) {
    const listener = world.listen();
    const guest = world.guest(listener.port);
    guest.in("S", { options: synOptions(offered, 7) });
    world.until("SYN and ACK", () => guest.sent.length > 0);
    guest.in("A");
    guest.out();
    const host = world.keep(listener.accept());
    host.send(new Uint8Array(2 * used! + 1));
    world.until("data", () => guest.expected === 2 * used! + 2);
    const lengths = guest.out().map((text) => Number(/\+(\d+)/.exec(text)?.[1]));
    assertEquals(Math.max(...lengths), used, `offered ${offered}: ${lengths}`);
    guest.finish(host);
  }
});

inWorld(
  "without window scale the guest's and our windows are taken as they are",
  (world) => {
    const listener = world.listen();
    const guest = world.guest(listener.port, { window: 1000 });
    guest.in("S", { options: synOptions(1460) });
    world.until("SYN and ACK", () => guest.sent.length > 0);
    assertEquals(guest.last?.options, Uint8Array.of(2, 4, 0x05, 0xb4, 1, 1, 1, 1));
    guest.in("A");
    const host = world.keep(listener.accept());
    host.send(new Uint8Array(5000));
    world.settle();
    assertEquals(guest.expected, 1001);
    guest.in("A").in("PA", { data: new Uint8Array(10) });
    world.until("acknowledged", () => guest.edge() > 11);
    assert(guest.last!.window > 20_000, `window ${guest.last!.window}`);
    guest.finish(host);
  },
);

inWorld("the window of a SYN and ACK is not scaled (RFC 7323, 2.2)", (world) => {
  const listener = world.forward(80);
  const host = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  const guest = world.guest(host.port, { fromPort: 80, window: 4096 });
  world.until("SYN", () => guest.sent.length > 0);
  host.send(new Uint8Array(20_000));
  guest.in("SA", { options: synOptions(1460, 7) });
  world.settle();
  assertEquals(guest.expected, 4097, "no more than the 4096 bytes that it offered");
  guest.window = 1024;
  guest.drain();
  assertEquals(guest.received.length, 20_000);
  guest.finish(host);
});

inWorld("a tuple in use: the second peer is reset, the first goes on", (world) => {
  const { guest, host } = world.accept({ fromPort: 8080 });
  const flow = world.flowOf(guest);
  assert(flow >= 0);
  // Another peer with the same port can only come from another address, which is shown
  // to the guest as the same one: 127.0.0.2 is loopback, too.
  const listener = world.forward(8080);
  const other = HostTcp.connectFrom(ip("127.0.0.2"), host.port, LOOPBACK4, listener.port);
  world.keep(other);
  world.settle();
  assertEquals(world.flows, 1);
  assertEquals(other.receive(), 104);
  host.send(Uint8Array.of(9));
  guest.drain();
  assertEquals(guest.received, [9]);
  guest.finish(host);
});

inWorld("a full table refuses peers, and the guest's SYN waits", (world) => {
  const { guest, host } = world.connect();
  const second = world.connect();
  const listener = world.forward(80);
  const peer = world.keep(HostTcp.connect(LOOPBACK4, listener.port));
  world.settle();
  assertEquals(peer.receive(), 104);
  const service = world.listen();
  const third = world.guest(service.port);
  third.in("S", { seq: 0 });
  assertEquals(third.out(), []);
  guest.finish(host);
  third.in("S", { seq: 0 });
  world.until("SYN and ACK", () => third.sent.length > 0);
  third.next = 1;
  third.in("A").finish(world.keep(service.accept()));
  second.guest.finish(second.host);
}, { flows: 2 });

inWorld("a listening socket without connections is harmless", (world) => {
  const listener = world.listen();
  world.path.tcp.onListener(listener.fd, 80);
  assertEquals(world.flows, 0);
});

inWorld("stray segments are reset as RFC 9293, 3.10.7.1 says", (world) => {
  const guest = world.guest(9);
  guest.peerIsn = 0;
  guest.in("A", { seq: 10, ack: 500 });
  guest.in("PA", { seq: 10, ack: 500, data: new Uint8Array(3) });
  guest.in("SA", { seq: 10, ack: 0x1234_5678 });
  guest.in("P", { seq: 10, data: new Uint8Array(3) });
  guest.in("F", { seq: 10 });
  guest.in("SF", { seq: 10 });
  guest.in("", { seq: 10 });
  assertEquals(guest.out(), [
    "R 500+0",
    "R 500+0",
    `R ${0x1234_5678}+0`,
    "RA 0+0 13",
    "RA 0+0 11",
    "RA 0+0 12",
    "RA 0+0 10",
  ]);
  guest.in("R", { seq: 10 }).in("RA", { seq: 10 }).in("RS", { seq: 10 });
  assertEquals(guest.out(), []);
});
