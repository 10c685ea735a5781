/** The DHCP, DHCPv6 and router discovery clients of real guests take what vuelo offers. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { awaitIpv6, type Case, DNS, e2e, NAME, type World } from "../support/lab.ts";
import { IS_VUELO } from "../support/lab_backend.ts";
import { until } from "../support/lab_process.ts";
import { IPV4, IPV6 } from "../support/netns.ts";
import type { Guest } from "../support/qemu.ts";

const MTU = 9000;
const HOSTNAME = "guest-of-the-lab";
const SEARCH = ["lab.test", "other.test"];
const OPTIONS = ["-m", `${MTU}`, "-H", HOSTNAME, "--fqdn", `${HOSTNAME}.lab.test`]
  .concat(SEARCH.flatMap((domain) => ["-S", domain]));

/** Takes all addresses from the guest's interface and forgets its leases. */
async function forget(guest: Guest): Promise<void> {
  await guest.shell(
    "ip link set eth0 down; ip addr flush dev eth0; ip link set eth0 mtu 1500; " +
      "rm -f /run/lease /run/lease6 /etc/resolv.conf /var/lib/dhcp/*",
  );
}

/** The lease as dhcp-script noted it: option -> value. */
async function lease(guest: Guest): Promise<Map<string, string>> {
  const text = await guest.call("wait", { path: "/run/lease", contains: "client=" });
  const items = text.matchAll(/(\w+)=(.*?)(?= \w+=|\n|$)/g);
  return new Map([...items].map(([, key, value]) => [key, value.trim()]));
}

/** Names resolve and a stream gets through, over IPv4. */
async function works(guest: Guest): Promise<void> {
  const { addresses } = await guest.call("resolve", { name: NAME, server: DNS });
  assertEquals(addresses, [IPV4.peer]);
  const bytes = 1 << 20;
  const result = await guest.call("download", { host: IPV4.peer, bytes });
  assertEquals([result.bytes, result.received], [bytes, result.sent]);
}

function assertLease(found: Map<string, string>): void {
  assertEquals(found.get("address"), `${IPV4.host}/${IPV4.prefix}`);
  assertEquals(found.get("gateway"), IPV4.gateway);
  assertEquals(found.get("dns"), DNS);
  assertEquals(found.get("mtu"), `${MTU}`);
  assertEquals(found.get("search")?.replaceAll(/\.( |$)/g, "$1"), SEARCH.join(" "));
}

async function udhcpc({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.shell("ip link set eth0 up");
  await guest.shell(
    "udhcpc -i eth0 -q -f -n -O search -O mtu -O hostname -s /bin/lab-dhcp 2>&1",
  );
  const found = await lease(guest);
  assertLease(found);
  if (IS_VUELO) assertEquals(found.get("name"), HOSTNAME);
  await works(guest);
}

/** udhcpc with the broadcast flag, as boot loaders set it. */
async function broadcast({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.shell("ip link set eth0 up");
  await guest.shell("udhcpc -B -i eth0 -q -f -n -O search -s /bin/lab-dhcp 2>&1");
  assertLease(await lease(guest));
  await works(guest);
}

const DHCLIENT =
  "dhclient -1 -d -sf /bin/lab-dhcp -lf /var/lib/dhcp/leases -pf /run/dhclient";

async function dhclient({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.call("write", {
    path: "/etc/dhcp/dhclient.conf",
    text: "request subnet-mask, routers, domain-name-servers, domain-search, " +
      "interface-mtu, host-name, domain-name;\n",
  });
  const pid = await guest.call("spawn", { argv: `${DHCLIENT} eth0`.split(" ") });
  try {
    assertLease(await lease(guest));
    await works(guest);
  } finally {
    await guest.call("kill", { pid });
  }
}

async function dhclient6({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.shell("ip link set eth0 up");
  await awaitIpv6(guest); // link-local addresses are usable by then, too
  const pid = await guest.call("spawn", { argv: `${DHCLIENT} -6 eth0`.split(" ") });
  try {
    const text = await guest.call("wait", { path: "/run/lease6", contains: "address6=" });
    assertMatch(text, new RegExp(`address6=${IPV6.host} `));
    const result = await guest.call("download", { host: IPV6.peer, bytes: 1 << 20 });
    assertEquals(result.received, result.sent);
  } finally {
    await guest.call("kill", { pid });
  }
}

/** networkd takes IPv4 by DHCP, IPv6 by router advertisement and by DHCPv6. */
async function networkd({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.call("write", {
    path: "/etc/systemd/network/lab.network",
    text: "[Match]\nName=eth0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n" +
      "[DHCPv4]\nUseDomains=yes\nUseMTU=yes\nUseHostname=no\n" +
      "[IPv6AcceptRA]\nDHCPv6Client=always\nUseMTU=yes\n",
  });
  // A read-only /sys tells networkd not to wait for udev.
  await guest.shell(
    "mkdir -p /run/systemd/netif; chown 998:998 /run/systemd/netif; mount -o remount,ro /sys",
  );
  const argv = ["/usr/lib/systemd/systemd-networkd"];
  const pid = await guest.call("spawn", { argv });
  try {
    let [text, addresses] = ["", ""];
    await until("networkd configures eth0", async () => {
      text = await guest.shell(
        "cat /run/systemd/netif/links/2 /run/systemd/netif/state || true",
      );
      const state = /^ADMIN_STATE=configured$/m.test(text) && text.includes(DNS);
      addresses = await guest.run("ip", "addr", "show", "dev", "eth0");
      return state && addresses.includes("/128") && !addresses.includes("tentative");
    });
    assertMatch(addresses, new RegExp(`inet ${IPV4.host}/${IPV4.prefix} `));
    assertMatch(addresses, new RegExp(`inet6 ${IPV6.host}/128 `));
    assertMatch(addresses, /mtu 9000 /);
    assert(await awaitIpv6(guest));
    await works(guest);
  } finally {
    await guest.call("kill", { pid });
    await guest.shell("mount -o remount,rw /sys");
  }
}

/**
 * The kernel's own client (ip=dhcp) as klibc's ipconfig, which comes from it: Debian's
 * kernel is built without, and has its initramfs run this instead.
 */
async function ipconfig({ guest }: World): Promise<void> {
  await forget(guest);
  await guest.run("/usr/lib/klibc/bin/ipconfig", "-t", "20", "-c", "dhcp", "eth0");
  const text = await guest.shell("cat /run/net-eth0.conf");
  assertMatch(text, new RegExp(`IPV4ADDR='${IPV4.host}'`));
  assertMatch(text, new RegExp(`IPV4GATEWAY='${IPV4.gateway}'`));
  assertMatch(text, new RegExp(`IPV4DNS0='${DNS}'`));
  await works(guest);
}

/** What the router advertisement says, as rdisc clients read it from the kernel's routes. */
async function advertisement({ guest }: World): Promise<void> {
  await forget(guest);
  // The kernel heeds what is advertised up to the MTU of the link.
  await guest.shell("ip link set eth0 mtu 9500 up");
  const address = await awaitIpv6(guest);
  assert(address.startsWith("2001:db8:1:"), address);
  assertEquals(Number(await guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu")), MTU);
  assertMatch(await guest.run("ip", "-6", "route"), /default via fe80:\S+ dev eth0/);
}

const cases: Case[] = [
  { name: "udhcpc", run: udhcpc },
  { name: "udhcpc with the broadcast flag", run: broadcast },
  { name: "dhclient", run: dhclient },
  { name: "dhclient -6", run: dhclient6 },
  { name: "router advertisement, the kernel's client", run: advertisement },
  { name: "ipconfig, the client of ip=dhcp", run: ipconfig },
  { name: "systemd-networkd", run: networkd },
];

e2e(
  "What guests' DHCP clients get",
  { guest: { image: "full" }, configure: false, backend: { args: OPTIONS } },
  cases,
);
