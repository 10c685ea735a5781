import { assert, assertEquals, assertThrows } from "@std/assert";
import { DEFAULT_LIMITS, type FamilyConfig } from "../config.ts";
import { UsageError } from "../errors.ts";
import type { HostFacts } from "../host/facts.ts";
import { parseResolvConf } from "../host/resolv_conf.ts";
import { formatAddress, formatMac, mapIPv4, parseAddress } from "../wire/address.ts";
import { configure } from "./configure.ts";
import { parseOptions } from "./parse_options.ts";
import { qemuOptions } from "./summary.ts";

const bytes = (text: string) => parseAddress(text) ?? mapIPv4(new Uint8Array(4));

interface HostOptions {
  readonly resolvConf?: string;
  readonly routes?: boolean;
  readonly gateways?: boolean;
}

/** A host with eth0: 192.0.2.2/24 by 192.0.2.1, and 2001:db8::2/64 by fe80::1. */
function host(
  { resolvConf, routes = true, gateways = true }: HostOptions = {},
): HostFacts {
  const route = (family: 2 | 10, gateway: string) => ({
    family,
    prefixLength: 0,
    index: 2,
    gateway: gateways ? bytes(gateway) : undefined,
  });
  const address = (text: string, prefixLength: number, scope = 0) => ({
    index: 2,
    address: bytes(text),
    prefixLength,
    scope,
    usable: true,
  });
  return {
    network: {
      links: [
        { index: 1, name: "lo", mtu: 65536, loopback: true },
        { index: 2, name: "eth0", mtu: 1500, loopback: false },
        { index: 3, name: "eth1", mtu: 1500, loopback: false },
      ],
      addresses: [
        address("192.0.2.2", 24),
        address("2001:db8::2", 64),
        address("fe80::2", 64, 253),
      ],
      routes: routes ? [route(2, "192.0.2.1"), route(10, "fe80::1")] : [],
    },
    resolvConf: parseResolvConf(resolvConf ?? "nameserver 198.51.100.53\nsearch lan\n"),
    ephemeral: [32768, 60999],
  };
}

function config(args: string[], facts: HostFacts = host()) {
  return configure(parseOptions(args), facts, () => "/free").config;
}

/** The family's configuration with addresses as text. */
function show(family: FamilyConfig | undefined): Record<string, unknown> | undefined {
  if (family === undefined) return undefined;
  const text = (value: unknown): unknown =>
    value instanceof Uint8Array
      ? formatAddress(value)
      : Array.isArray(value)
      ? value.map(text)
      : value;
  return Object.fromEntries(
    Object.entries(family).map(([key, value]) => [key, text(value)]),
  );
}

Deno.test("limits follow from the number of flows, unless they are given", () => {
  const all = config([]);
  assertEquals(all.limits, DEFAULT_LIMITS);
  assertEquals(all.logRate, 200);
  const { flows, tcp, udp, ping } = DEFAULT_LIMITS;
  assertEquals([flows, tcp + udp + ping], [131_072, 131_072]);
  const small = config(["--max-flows", "1000", "--max-pending=7", "--max-sockets=9"]);
  assertEquals(small.limits, {
    flows: 1000,
    tcp: 812,
    udp: 156,
    ping: 31,
    halfOpen: 406,
    pendingTcp: 7,
    pendingUdp: 7,
    sockets: 9,
    budget: 256,
    state: 2 ** 30,
  });
  assertEquals(config(["--budget", "16", "--log-rate", "0"]).limits?.budget, 16);
  for (
    const wrong of [["--max-flows", "0"], ["--budget", "15"], ["--max-tcp", "many"], [
      "--max-flows=10",
      "--max-udp=11",
    ]]
  ) assertThrows(() => config(wrong), UsageError, "expected a number");
});

Deno.test("without options the guest gets what the host has", () => {
  const result = config([]);
  assertEquals(show(result.ip4), {
    address: "192.0.2.2",
    prefixLength: 24,
    gateway: "192.0.2.1",
    ourAddress: "192.0.2.1",
    dns: ["198.51.100.53"],
    dnsHost: "198.51.100.53",
    mapHostLoopback: "192.0.2.1",
  });
  assertEquals(show(result.ip6), {
    address: "2001:db8::2",
    prefixLength: 64,
    gateway: "fe80::1",
    ourAddress: "fe80::1",
    dns: [],
    mapHostLoopback: "fe80::1",
  });
  assertEquals(formatAddress(result.ourLinkLocal), "fe80::1");
  assertEquals(formatMac(result.ourMac), "9a:55:9a:55:9a:55");
  assertEquals([result.mtu, result.socketPath, result.search], [65520, "/free", ["lan"]]);
  assert(result.tcp && result.udp && result.icmp && result.dhcp && result.dhcpv6);
  assert(result.ndp && result.ra && result.dhcpDns && result.dhcpSearch);
});

Deno.test("without routes the guest gets link-local addresses, as from passt", () => {
  const result = config([], host({ routes: false, resolvConf: "" }));
  assertEquals(show(result.ip4), {
    address: "169.254.2.1",
    prefixLength: 16,
    gateway: "169.254.2.2",
    ourAddress: "169.254.2.2",
    dns: [],
    mapHostLoopback: "169.254.2.2",
  });
  assertEquals(show(result.ip6), {
    address: "::",
    prefixLength: 64,
    gateway: "fe80::1",
    ourAddress: "fe80::1",
    dns: [],
    mapHostLoopback: "fe80::1",
  });
  assert(result.dhcp);
});

Deno.test("a route without gateway means no DHCP and no mapping, as with passt", () => {
  const facts = host({ gateways: false });
  const { config, warnings } = configure(parseOptions([]), facts, () => "");
  assertEquals(config.dhcp, false);
  assertEquals(show(config.ip4)?.gateway, "0.0.0.0");
  assertEquals(config.ip4?.mapHostLoopback, undefined);
  assertEquals(formatAddress(config.ourLinkLocal), "fe80::2");
  assertEquals(warnings.length, 1);
});

Deno.test("-a, -n and -g replace what the host has", () => {
  const four = (...args: string[]) => {
    const { address, prefixLength, gateway } = show(config(args).ip4) ?? {};
    return `${address}/${prefixLength} ${gateway}`;
  };
  assertEquals(four("-a", "10.1.1.1/12"), "10.1.1.1/12 192.0.2.1");
  assertEquals(four("-a", "10.1.1.1"), "10.1.1.1/8 192.0.2.1");
  assertEquals(four("-a", "172.16.0.1"), "172.16.0.1/16 192.0.2.1");
  assertEquals(four("-a", "198.51.100.1"), "198.51.100.1/24 192.0.2.1");
  assertEquals(four("-a", "10.1.1.1", "-n", "255.255.255.128"), "10.1.1.1/25 192.0.2.1");
  assertEquals(four("-n", "0.0.0.0"), "192.0.2.2/0 192.0.2.1");
  assertEquals(four("-n", "255.255.255.255"), "192.0.2.2/32 192.0.2.1");
  assertEquals(four("-a", "10.0.0.1/8", "-a", "10.0.0.2/9"), "10.0.0.2/9 192.0.2.1");
  assertEquals(four("-g", "192.0.2.9"), "192.0.2.2/24 192.0.2.9");
  const six = config(["-a", "2001:db8::9", "-g", "2001:db8::1"]);
  assertEquals(show(six.ip6)?.gateway, "2001:db8::1");
  assertEquals(formatAddress(six.ourLinkLocal), "fe80::2");
  assertEquals(show(six.ip6)?.ourAddress, "fe80::2");
});

Deno.test("-4 and -6 leave one family", () => {
  const four = config(["-4"]);
  assertEquals([four.ip6, four.ndp, four.ra, four.dhcpv6], [
    undefined,
    false,
    false,
    false,
  ]);
  const six = config(["-6"]);
  assertEquals([six.ip4, six.dhcp], [undefined, false]);
});

Deno.test("resolvers at loopback are told as the mapped address, and forwarded", () => {
  const facts = host({ resolvConf: "nameserver 127.0.0.53\nnameserver 198.51.100.1\n" });
  const ip4 = show(config([], facts).ip4);
  assertEquals(ip4?.dns, ["192.0.2.1", "198.51.100.1"]);
  assertEquals([ip4?.dnsForward, ip4?.dnsHost], ["192.0.2.1", "127.0.0.53"]);
  const unmapped = show(config(["--no-map-gw"], facts).ip4);
  assertEquals(unmapped?.dns, ["198.51.100.1"]);
  assertEquals(unmapped?.dnsForward, undefined);
});

Deno.test("a resolver at the mapped address is not shadowed by the host", () => {
  const facts = host({ resolvConf: "nameserver 192.0.2.1\n" });
  const ip4 = show(config([], facts).ip4);
  assertEquals([ip4?.dns, ip4?.dnsForward, ip4?.dnsHost], [
    ["192.0.2.1"],
    "192.0.2.1",
    "192.0.2.1",
  ]);
  const own = show(config(["--dns-forward", "192.0.2.99"], facts).ip4);
  assertEquals(own?.dnsForward, "192.0.2.99");
});

Deno.test("--dns and --search replace the host's, and none empties them", () => {
  const given = config(["-D", "192.0.2.7", "-D", "::1", "-D", "192.0.2.8"]);
  assertEquals(show(given.ip4)?.dns, ["192.0.2.7", "192.0.2.8"]);
  assertEquals(show(given.ip6)?.dns, ["::1"]);
  assertEquals(show(config(["-D", "none"]).ip4)?.dns, []);
  assertEquals(show(config(["-D", "192.0.2.7", "-D", "none"]).ip4)?.dns, []);
  assertEquals(config(["-S", "a.example b"]).search, ["a.example", "b"]);
  assertEquals(config(["-S", "a", "-S", "none"]).search, []);
});

Deno.test("mappings of loopback and of the guest's address", () => {
  const mapped = (...args: string[]) => show(config(args).ip4)?.mapHostLoopback;
  assertEquals(mapped("--no-map-gw"), undefined);
  assertEquals(mapped("--map-host-loopback", "none"), undefined);
  assertEquals(mapped("--no-map-gw", "--map-host-loopback", "192.0.2.7"), "192.0.2.7");
  assertEquals(
    show(config(["--map-host-loopback", "::7"]).ip4)?.mapHostLoopback,
    "192.0.2.1",
  );
  const guest = config(["--map-guest-addr", "192.0.2.8"]);
  assertEquals(show(guest.ip4)?.mapGuestAddress, "192.0.2.8");
  assertEquals(guest.ip6?.mapGuestAddress, undefined);
});

Deno.test("switches, numbers and names reach the configuration", () => {
  const result = config([
    ..."--no-tcp --no-udp --no-icmp --no-dhcp --no-dhcpv6 --no-dhcp-dns".split(" "),
    ..."--no-dhcp-search -1f -m 1500 -M 02:00:00:00:00:01 -H guest".split(" "),
    ..."--fqdn guest.example --trace -P p -l l --log-size 4096 -p c".split(" "),
    ..."-o 192.0.2.3 --outbound-if4 eth0 --repair-path none -s sock".split(" "),
    ..."--runas 12:34".split(" "),
  ]);
  assert(!result.tcp && !result.udp && !result.icmp && !result.dhcp && !result.dhcpv6);
  assert(!result.ndp && !result.ra && !result.dhcpDns && !result.dhcpSearch);
  assert(result.oneOff && result.foreground);
  const { mtu, hostname, fqdn, logLevel, pidFile, logFile, logSize, pcap } = result;
  assertEquals([mtu, hostname, fqdn, logLevel], [
    1500,
    "guest",
    "guest.example",
    "trace",
  ]);
  assertEquals([pidFile, logFile, logSize, pcap], ["p", "l", 4096, "c"]);
  assertEquals(formatMac(result.ourMac), "02:00:00:00:00:01");
  assertEquals([result.repairPath, result.socketPath], ["none", "sock"]);
  assertEquals(result.runAs, { uid: 12, gid: 34 });
  assertEquals(show(result.ip4)?.outbound, "192.0.2.3");
  assertEquals(result.ip4?.outboundInterface, "eth0");
  assertEquals(config(["--no-ndp"]).ra, false);
  assertEquals(config(["-m", "0"]).mtu, 0);
});

Deno.test("--poll takes microseconds, or 'off'", () => {
  assertEquals(config(["--poll", "50"]).pollMs, 0.05);
  assertEquals(config(["--poll", "off"]).pollMs, 0);
  for (const wrong of ["0", "-1", "10001", "on", ""]) {
    assertThrows(() => config(["--poll", wrong]), UsageError, "1 to 10000 or 'off'");
  }
});

Deno.test("an interface without addresses is like none, one without a name an error", () => {
  assertEquals(show(config(["-i", "eth1"]).ip4)?.address, "169.254.2.1");
  assertEquals(show(config(["--outbound-if4", "eth1"]).ip4)?.address, "169.254.2.1");
  assertEquals(
    show(config(["-i", "eth0", "--outbound-if4", "eth1"]).ip4)?.address,
    "192.0.2.2",
  );
  assertThrows(() => config(["-i", "eth9"]), UsageError, "-i 'eth9'");
});

Deno.test("warnings: a small MTU with IPv6, a forwarder without a resolver", () => {
  const warnings = (...args: string[]) =>
    configure(parseOptions(args), host({ resolvConf: "" }), () => "").warnings;
  assertEquals(warnings("-m", "1000").length, 1);
  assertEquals(warnings("-4", "-m", "1000"), []);
  assertEquals(warnings("--dns-forward", "192.0.2.9").length, 1);
  assertEquals(warnings("--dns-forward", "192.0.2.9", "--dns-host", "127.0.0.1"), []);
});

Deno.test("a free path is asked for only when all else is right", () => {
  let asked = 0;
  const ask = (args: string[]) =>
    configure(parseOptions(args), host(), () => `${++asked}`);
  assertThrows(() => ask(["-t", "0"]), UsageError);
  assertEquals(ask(["-s", "here"]).config.socketPath, "here");
  assertEquals(asked, 0);
  assertEquals(ask([]).config.socketPath, "1");
});

Deno.test("the path in QEMU's options is safe from QEMU and from the shell", () => {
  assert(qemuOptions("/tmp/a,b").includes("-chardev socket,id=vuelo,path=/tmp/a,,b "));
  assert(
    qemuOptions("/tmp/a'b c").includes(
      "-chardev 'socket,id=vuelo,path=/tmp/a'\\''b c' ",
    ),
  );
});
