/** What a path says of packets: time exceeded and packet too big reach the guest. */
import { assertEquals, assertMatch } from "@std/assert";
import { FAR, FAR_MTU, FarNetwork } from "../support/far_network.ts";
import { Port, World } from "../support/lab.ts";
import { Peer } from "../support/lab_peer.ts";
import { FAMILIES, type Family } from "../support/netns.ts";

/**
 * Sends one packet of `size` bytes with a TTL and Don't Fragment, and prints what came of
 * it: "reply LENGTH", or "error TYPE CODE INFO OFFENDER" from the socket's error queue.
 */
const PROBE = `
import select, socket, struct, sys
kind, host, port, ttl, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
six = ":" in host
family = socket.AF_INET6 if six else socket.AF_INET
level = 41 if six else 0
icmp = (58 if six else 1) if kind == "ping" else 0
sock = socket.socket(family, socket.SOCK_DGRAM, icmp)
sock.setsockopt(level, 16 if six else 2, ttl)     # IPV6_UNICAST_HOPS, IP_TTL
sock.setsockopt(level, 23 if six else 10, 2)      # MTU_DISCOVER: PMTUDISC_DO
sock.setsockopt(level, 25 if six else 11, 1)      # RECVERR
sock.connect((host, port))
head = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, 7) if icmp else b""
try:
    sock.send(head + bytes(size))
except OSError as error:
    print("refused", error.errno)
    sys.exit()
poll = select.poll()
poll.register(sock, select.POLLIN)
events = poll.poll(20000)
if not events:
    print("silence")
elif events[0][1] & select.POLLERR:
    data, control, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    error = [c for l, t, c in control if (l, t) == (level, 25 if six else 11)][0]
    _, _, type, code, _, info, _ = struct.unpack("=IBBBBII", error[:16])
    name = error[24:40] if six else error[20:24]
    print("error", type, code, info, socket.inet_ntop(family, name))
else:
    print("reply", len(sock.recv(65535)) - len(head))
`;

interface Probe {
  readonly kind: "udp" | "ping";
  readonly ttl: number;
  readonly size: number;
}

async function probe(world: World, host: string, what: Probe): Promise<string> {
  const { kind, ttl, size } = what;
  const args = [kind, host, `${Port.udpEcho}`, `${ttl}`, `${size}`];
  return (await world.guest.run("python3", "-c", PROBE, ...args)).trim();
}

const HEADERS = { IPv4: 28, IPv6: 48 } as const;
/** Type of time exceeded, and of too big with its code (RFC 792, RFC 4443). */
const EXCEEDED = { IPv4: "11 0", IPv6: "3 0" } as const;
const TOO_BIG = { IPv4: "3 4", IPv6: "2 0" } as const;

async function hops(world: World, family: Family): Promise<void> {
  const { name, gateway } = family;
  const { host } = FAR[name];
  for (const kind of ["udp", "ping"] as const) {
    const near = await probe(world, host, { kind, ttl: 1, size: 40 });
    assertEquals([kind, near], [kind, `error ${EXCEEDED[name]} 0 ${gateway}`]);
    const far = await probe(world, host, { kind, ttl: 2, size: 40 });
    assertEquals([kind, far], [kind, "reply 40"]);
  }
}

async function traceroute({ guest }: World, family: Family): Promise<void> {
  const { host } = FAR[family.name];
  const variants = family.name === "IPv4"
    ? [["traceroute"], ["traceroute", "-I"]]
    : [["traceroute6"]];
  for (const command of variants) {
    const text = await guest.run(...command, "-n", "-q", "1", "-w", "5", "-m", "4", host);
    const lines = text.trim().split("\n").slice(1).map((line) =>
      line.trim().split(/\s+/).slice(0, 2)
    );
    assertEquals(lines, [["1", family.gateway], ["2", host]], text);
  }
}

async function tooBig(world: World, family: Family): Promise<void> {
  const { name, gateway } = family;
  const { host } = FAR[name];
  const most = FAR_MTU - HEADERS[name];
  for (const kind of ["udp", "ping"] as const) {
    // What was learnt of the path before is forgotten.
    await world.guest.shell("ip route flush cache; ip -6 route flush cache");
    const big = await probe(world, host, { kind, ttl: 64, size: most + 1 });
    // An error that the kernel remembers comes from the host itself.
    assertMatch(big, new RegExp(`^error ${TOO_BIG[name]} ${FAR_MTU} `));
    if (kind === "udp") assertEquals(big.split(" ")[4], gateway);
    const fits = await probe(world, host, { kind, ttl: 64, size: most });
    assertEquals([kind, fits], [kind, `reply ${most}`]);
  }
}

/** TCP is the host's on this path, and the guest's segments are not the path's. */
async function streams({ guest }: World, family: Family): Promise<void> {
  const { host } = FAR[family.name];
  for (const op of ["download", "upload"] as const) {
    const result = await guest.call(op, { host, bytes: 8 << 20 });
    assertEquals([result.bytes, result.received], [8 << 20, result.sent]);
  }
}

const CASES = [
  ["time exceeded", hops],
  ["traceroute", traceroute],
  ["packet too big", tooBig],
  ["streams across the smaller link", streams],
] as const;

Deno.test({
  name: "what routers on the path say reaches the guest",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async (test) => {
    const world = await World.create({ guest: {}, backend: { args: ["-m", "1500"] } });
    await using stack = new AsyncDisposableStack();
    stack.defer(() => world.close());
    const far = await FarNetwork.create(world.network);
    stack.defer(() => far.close());
    const server = await Peer.start(far.name, true);
    stack.defer(() => server.stop());
    await world.guest.shell("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    for (const family of FAMILIES) {
      for (const [name, run] of CASES) {
        await test.step({
          name: `${family.name}: ${name}`,
          sanitizeOps: false,
          sanitizeResources: false,
          fn: async () => {
            try {
              await run(world, family);
            } catch (error) {
              const message = error instanceof Error ? error.message : String(error);
              throw new Error(`${message}\n${world.report()}`, { cause: error });
            }
          },
        });
      }
    }
  },
});
