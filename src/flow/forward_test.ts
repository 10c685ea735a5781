import { createSocket } from "node:dgram";
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Epoll } from "../../ffi/event.ts";
import {
  acceptSocket,
  closeFd,
  getOption,
  IPV6_RECVPKTINFO,
  recv,
  SOL_IPV6,
} from "../../ffi/socket.ts";
import { Arena } from "../../ffi/arena.ts";
import { flowConfig, ip, IP4, IP6 } from "../../tests/support/flow_config.ts";
import { freePorts } from "../../tests/support/free_ports.ts";
import type { Config, ForwardRule } from "../config.ts";
import { StartError } from "../errors.ts";
import { Forwarder } from "./forward.ts";

/** How long an event on loopback may take, and how long none is waited for. */
const LONG_MS = 5000;

function rule(change: Partial<ForwardRule> & { first: number }): ForwardRule {
  return {
    protocol: "tcp",
    last: change.first,
    guestFirst: change.first,
    weak: false,
    ...change,
  };
}

/** A forwarder with its events, and what it handed on. */
class Bench {
  readonly epoll = new Epoll(16);
  readonly forwarder: Forwarder;
  /** Guest ports and sources of what came in. */
  readonly seen: string[] = [];
  readonly #buffer = new Arena(2048);
  readonly #at = this.#buffer.take(2048);
  /** No connection can be accepted. */
  exhausted = false;
  /** Called with each socket that something came in at. */
  inspect: (fd: number) => void = () => {};

  constructor(forwards: readonly ForwardRule[], changes: Partial<Config> = {}) {
    this.forwarder = new Forwarder({
      config: flowConfig({ forwards, ...changes }),
      epoll: this.epoll,
      tcp: {
        onListener: (fd, guestPort) => {
          this.inspect(fd);
          this.seen.push(`tcp ${guestPort}`);
          if (this.exhausted) return false;
          closeFd(acceptSocket(fd));
          return true;
        },
      },
      udp: {
        onListener: (_index, fd, guestPort) => {
          this.inspect(fd);
          const length = recv(fd, this.#buffer.pointer(this.#at), 2048, 0);
          this.seen.push(`udp ${guestPort} ${length}`);
        },
        forgetListener: () => {},
      },
    });
  }

  /** Hands on the events that are there within `wait` ms; returns how many. */
  turn(wait: number): number {
    const count = this.epoll.wait(wait);
    for (let i = 0; i < count; i++) {
      const data = this.epoll.data(i);
      this.forwarder.onEvent(data >>> 24, data & 0xffffff);
    }
    return count;
  }

  close(): void {
    this.forwarder.close();
    this.epoll.close();
  }
}

async function connect(hostname: string, port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname, port })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}

/** Sends a datagram of `length` bytes. Deno's own datagram sockets are unstable API. */
async function sendTo(host: string, port: number, length: number): Promise<void> {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  await new Promise<void>((resolve, reject) => {
    socket.send(
      new Uint8Array(length),
      port,
      host,
      (error) => error ? reject(error) : resolve(),
    );
  });
  socket.close();
}

Deno.test("connections wait until the guest receives, then go to its port", async () => {
  const first = freePorts(3);
  const bench = new Bench([rule({ first, last: first + 2, guestFirst: 8000 })]);
  bench.forwarder.open();
  assertEquals(await connect("127.0.0.1", first + 2), true);
  assertEquals(await connect("::1", first), true);
  assertEquals(bench.turn(0), 0);
  bench.forwarder.resume();
  while (bench.seen.length < 2 && bench.turn(LONG_MS) > 0);
  assertEquals(bench.seen.toSorted(), ["tcp 8000", "tcp 8002"]);
  bench.forwarder.pause();
  assertEquals(await connect("127.0.0.1", first + 1), true);
  assertEquals(bench.turn(0), 0);
  bench.forwarder.resume();
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen[2], "tcp 8001");
  bench.close();
});

Deno.test("datagrams of both families come to one socket with their addresses", async () => {
  const first = freePorts(1);
  const bench = new Bench([rule({ protocol: "udp", first, guestFirst: 53 })]);
  const options: number[] = [];
  bench.inspect = (fd) => options.push(getOption(fd, SOL_IPV6, IPV6_RECVPKTINFO));
  bench.forwarder.open();
  bench.forwarder.resume();
  await sendTo("127.0.0.1", first, 10);
  assertEquals(bench.turn(LONG_MS), 1);
  await sendTo("::1", first, 20);
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen, ["udp 53 10", "udp 53 20"]);
  assertEquals(options, [1, 1]);
  bench.close();
});

/** Addresses of a rule, families that are on, and who is answered at 127.0.0.1 and ::1. */
const LISTENING: [string | undefined, Partial<Config>, boolean, boolean][] = [
  [undefined, {}, true, true],
  [undefined, { ip6: undefined }, true, false],
  [undefined, { ip4: undefined }, false, true],
  ["127.0.0.1", {}, true, false],
  ["0.0.0.0", {}, true, false],
  ["::1", {}, false, true],
  ["::", {}, false, true],
  ["127.0.0.2", {}, false, false],
];

Deno.test("a rule listens on its address and on the families that are on", async () => {
  for (const [address, changes, four, six] of LISTENING) {
    const first = freePorts(1);
    const where = address === undefined ? {} : { address: ip(address) };
    const bench = new Bench([rule({ first, ...where })], {
      ip4: IP4,
      ip6: IP6,
      ...changes,
    });
    bench.forwarder.open();
    const found = [await connect("127.0.0.1", first), await connect("::1", first)];
    assertEquals([address, ...found], [address, four, six]);
    bench.close();
  }
});

Deno.test("a rule with an interface listens on that one alone", async () => {
  const first = freePorts(1);
  const bench = new Bench([rule({ first, interface: "lo" })]);
  bench.forwarder.open();
  assertEquals(await connect("127.0.0.1", first), true);
  bench.close();
  const wrong = new Bench([rule({ first, interface: "none0" })]);
  const error = assertThrows(() => wrong.forwarder.open(), StartError);
  assertEquals(
    error.message,
    `cannot listen on TCP port ${first} (any address%none0): ENODEV; ` +
      "the host has no interface none0, see -t",
  );
  wrong.close();
});

Deno.test("a port in use is an error that leaves nothing open", async () => {
  for (const protocol of ["tcp", "udp"] as const) {
    const first = freePorts(2);
    const other = new Bench([rule({ protocol, first: first + 1 })]);
    other.forwarder.open();
    const bench = new Bench([rule({ protocol, first, last: first + 1 })]);
    const error = assertThrows(() => bench.forwarder.open(), StartError);
    assertStringIncludes(
      error.message,
      `cannot listen on ${protocol.toUpperCase()} port ${first + 1} (any address): ` +
        "EADDRINUSE; ",
    );
    assertStringIncludes(error.message, protocol === "tcp" ? "see -t" : "see -u");
    assertEquals(await connect("127.0.0.1", first), false);
    other.close();
    bench.forwarder.open();
    bench.close();
  }
});

Deno.test("a port of all that is in use is passed over, the others keep theirs", async () => {
  const first = freePorts(3);
  const taken = Deno.listen({ hostname: "127.0.0.1", port: first + 1 });
  const bench = new Bench([
    rule({ first, last: first + 2, guestFirst: 100, weak: true }),
  ]);
  bench.forwarder.open();
  bench.forwarder.resume();
  assertEquals(await connect("127.0.0.1", first + 2), true);
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen, ["tcp 102"]);
  bench.close();
  const none = new Bench([rule({ first: first + 1, weak: true })]);
  assertThrows(() => none.forwarder.open(), StartError, "any TCP port of 'all'");
  none.close();
  taken.close();
});

Deno.test("closed and opened again, it goes on as it was", async () => {
  const first = freePorts(1);
  const bench = new Bench([rule({ first, guestFirst: 22 })]);
  bench.forwarder.open();
  bench.forwarder.resume();
  bench.forwarder.close();
  assertEquals(await connect("127.0.0.1", first), false);
  // An event that was fetched before close().
  bench.forwarder.onEvent(4, 0);
  assertEquals(bench.seen, []);
  bench.forwarder.open();
  assertEquals(await connect("127.0.0.1", first), true);
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen, ["tcp 22"]);
  bench.close();
});

Deno.test("a port without descriptors rests, others do not, and it is tried again", async () => {
  const first = freePorts(2);
  const bench = new Bench([rule({ first, last: first + 1, guestFirst: 80 })]);
  bench.forwarder.open();
  bench.forwarder.resume();
  assertEquals(bench.forwarder.timeout(), Infinity);
  bench.exhausted = true;
  assertEquals(await connect("127.0.0.1", first), true);
  assertEquals(bench.turn(LONG_MS), 1);
  bench.forwarder.turn();
  assertEquals(bench.turn(0), 0, "its event does not come again at once");
  bench.exhausted = false;
  assertEquals(await connect("127.0.0.1", first + 1), true);
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen, ["tcp 80", "tcp 81"]);
  while (bench.forwarder.timeout() < Infinity) {
    bench.turn(Math.ceil(bench.forwarder.timeout()));
    bench.forwarder.turn();
  }
  assertEquals(bench.turn(LONG_MS), 1);
  assertEquals(bench.seen, ["tcp 80", "tcp 81", "tcp 80"]);
  assertEquals(bench.turn(0), 0);
  bench.exhausted = true;
  assertEquals(await connect("127.0.0.1", first), true);
  assertEquals(bench.turn(LONG_MS), 1);
  bench.forwarder.pause();
  assertEquals(bench.forwarder.timeout(), Infinity, "all of them are to rest");
  bench.forwarder.resume();
  assertEquals(bench.turn(LONG_MS), 1);
  bench.close();
});
