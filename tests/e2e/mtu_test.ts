/** The MTU that vuelo is told reaches the guest, and all packets fit it. */
import { assertEquals, assertMatch } from "@std/assert";
import { type Case, e2e, type World } from "../support/lab.ts";
import { FAMILIES } from "../support/netns.ts";

const HEADERS = { IPv4: 28, IPv6: 48 } as const;
const BYTES = 32 << 20;

async function told({ guest }: World, mtu: number): Promise<void> {
  const link = await guest.run("cat", "/sys/class/net/eth0/mtu");
  const ipv6 = await guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu");
  assertEquals([Number(link), Number(ipv6)], [mtu, mtu]);
}

/** UDP datagrams just below the MTU, and some of each order of size. */
async function datagrams({ guest }: World, mtu: number): Promise<void> {
  for (const family of FAMILIES) {
    const largest = mtu - HEADERS[family.name];
    const ranges = [[largest - 20, largest, 1], [0, largest, 997]] as const;
    for (const [first, last, step] of ranges) {
      const result = await guest.call("udp_echo", {
        host: family.peer,
        first,
        last,
        step,
      });
      assertEquals(result.failed, []);
    }
  }
}

async function streams({ guest }: World): Promise<void> {
  for (const { peer: host } of FAMILIES) {
    for (const op of ["download", "upload"] as const) {
      const result = await guest.call(op, { host, bytes: BYTES });
      assertEquals([result.bytes, result.received], [BYTES, result.sent]);
    }
  }
}

async function pings({ guest }: World, mtu: number): Promise<void> {
  for (const family of FAMILIES) {
    const size = `${mtu - HEADERS[family.name]}`;
    const text = await guest.run("ping", "-c", "2", "-i", "0.1", "-s", size, family.peer);
    assertMatch(text, /2 packets received/);
  }
}

function cases(mtu: number): Case[] {
  return [
    { name: "the guest is told", run: (world) => told(world, mtu) },
    { name: "streams", run: streams },
    { name: "datagrams up to the MTU", run: (world) => datagrams(world, mtu) },
    { name: "ping with full packets", run: (world) => pings(world, mtu) },
  ];
}

for (const mtu of [1280, 1500, 9000, 65520]) {
  e2e(`MTU ${mtu}`, { guest: {}, backend: { args: ["-m", `${mtu}`] } }, cases(mtu));
}

/** A wire of fewer bytes than the guest's MTU: the kernel cuts, or says "too big". */
e2e("MTU 65520 in the guest, 1500 on the wire", { guest: {}, wireMtu: 1500 }, [
  { name: "streams", run: streams },
]);
