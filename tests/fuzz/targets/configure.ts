/**
 * Command lines, an argument per line, on hosts of several kinds: the configuration that
 * they make (src/cli/configure.ts, families.ts, limits.ts, offload.ts, values.ts) is whole,
 * or the refusal is one line; what is said of it names everything (src/cli/summary.ts).
 */
import { configure } from "../../../src/cli/configure.ts";
import { OPTIONS } from "../../../src/cli/options.ts";
import { parseOptions } from "../../../src/cli/parse_options.ts";
import { summary } from "../../../src/cli/summary.ts";
import type { Config, FamilyConfig } from "../../../src/config.ts";
import { UsageError } from "../../../src/errors.ts";
import type { HostFacts } from "../../../src/host/facts.ts";
import { type Dump, readDump } from "../../../src/host/netlink.ts";
import { parseResolvConf } from "../../../src/host/resolv_conf.ts";
import { isIPv4 } from "../../../src/wire/address.ts";
import { offeredFeatures } from "../../../src/virtio/offered.ts";
import golden from "../../golden/netlink.json" with { type: "json" };
import { ip } from "../../support/flow_config.ts";
import type { Target } from "../engine/target.ts";

const LINES = [
  "-s\n/tmp/vm.sock\n-t\n2222:22\n-u5353\n-f\n--mtu\n1500\n--queues=4\n--trace",
  "-a\n192.0.2.9\n-n\n255.255.255.0\n-g192.0.2.1\n-a2001:db8::9/64\n-D\n192.0.2.53\n-M52:54:0:1:2:3",
  "-4\n-i\neth0\n-o\n192.0.2.2\n--map-host-loopback\nnone\n--dns-forward\n192.0.2.3",
  "--max-flows\n100\n--max-tcp=50\n--budget\n64\n--max-state=1\n--log-rate\n0\n--poll\n50",
  "-6\n--outbound-if6\neth0\n-H\nguest\n--fqdn\nguest.example.org\n-S\na.example b.example",
  "--offload\nnone\n--sandbox\nstrict\n--migrate-format=passt\n--runas\n65534:65534\n-P/tmp/p",
  "--no-tcp\n--no-ra\n--no-dhcp\n--no-map-gw\n-q\n-l/tmp/log\n--log-size=4096\n-F\n0",
];

/** The host that netlink.json was captured on. */
function captured(): Dump {
  const dump: Dump = { links: [], addresses: [], routes: [] };
  for (const hex of [...golden.address, ...golden.route4, ...golden.route6]) {
    readDump(Uint8Array.fromHex(hex), dump);
  }
  return dump;
}

const ETH0 = { index: 2, name: "eth0", mtu: 1500, loopback: false };
const at = (text: string, prefixLength: number, scope = 0, usable = true) => ({
  ...{ index: 2, address: ip(text), prefixLength, scope, usable },
});
const NOTHING: Dump = { links: [], addresses: [], routes: [] };
const NETWORKS: readonly Dump[] = [
  NOTHING,
  captured(),
  {
    links: [ETH0],
    addresses: [at("192.0.2.2", 24), at("2001:db8::2", 64), at("fe80::2", 64, 253)],
    routes: [
      { family: 2, prefixLength: 0, index: 2, gateway: ip("192.0.2.1") },
      { family: 10, prefixLength: 0, index: 2, gateway: ip("fe80::1") },
    ],
  },
  { // on link alone, of lengths that are all there may be
    links: [ETH0],
    addresses: [at("198.51.100.1", 32), at("2001:db8::1", 128), at("fe80::1", 128, 253)],
    routes: [{ family: 2, prefixLength: 0, index: 2 }],
  },
  { // routes to nowhere
    links: [ETH0],
    addresses: [at("192.0.2.2", 0, 254), at("::1", 128), at("2001:db8::5", 0, 0, false)],
    routes: [
      { family: 2, prefixLength: 0, index: 9, gateway: ip("192.0.2.1") },
      { family: 10, destination: ip("2001:db8::"), prefixLength: 32, index: 2 },
    ],
  },
];
const RESOLVERS = [
  "",
  "nameserver 127.0.0.53\nnameserver ::1\nsearch lan",
  "nameserver 192.0.2.53",
];
const FREE = "/tmp/free.sock";

function host(kind: number): HostFacts {
  return {
    network: NETWORKS[kind % NETWORKS.length],
    resolvConf: parseResolvConf(RESOLVERS[(kind >> 4) % RESOLVERS.length]),
    ephemeral: kind & 8 ? [1, 65535] : [32768, 60999],
  };
}

function need(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

function checkFamily(family: FamilyConfig, four: boolean): void {
  const { address, prefixLength, gateway, ourAddress, dns } = family;
  const { dnsForward, dnsHost, mapHostLoopback, mapGuestAddress, outbound } = family;
  need(prefixLength >= 0 && prefixLength <= (four ? 32 : 128), "prefix length");
  const others = [dnsForward, dnsHost, mapHostLoopback, mapGuestAddress, outbound];
  for (const one of [address, gateway, ourAddress, ...dns, ...others]) {
    if (one !== undefined) need(one.length === 16 && isIPv4(one) === four, "family");
  }
}

function check(config: Config): void {
  const { ip4, ip6, mtu, queues, ourMac, limits, pollMs, logRate = 0 } = config;
  if (ip4 !== undefined) checkFamily(ip4, true);
  if (ip6 !== undefined) checkFamily(ip6, false);
  need(ip4 !== undefined || ip6 !== undefined, "no family");
  need(mtu === 0 || mtu >= 68 && mtu <= 65521, `MTU ${mtu}`);
  need(queues >= 1 && queues <= 8, `${queues} queues`);
  need(ourMac.length === 6 && (ourMac[0] & 1) === 0, "MAC address");
  need(pollMs >= 0 && pollMs <= 10 && logRate >= 0, "time");
  need((config.fd === undefined) !== (config.socketPath === undefined), "no socket");
  for (const [name, limit] of Object.entries(limits ?? {})) {
    const absent = limit === undefined && name === "sockets";
    need(absent || Number.isSafeInteger(limit) && limit > 0, `${name}: ${limit}`);
  }
  for (const { first, last, guestFirst, guestAddress, address } of config.forwards) {
    need(first >= 1 && first <= last && last <= 65535, "port");
    need(guestFirst >= 1 && guestFirst + last - first <= 65535, "guest port");
    need(guestAddress === undefined || guestAddress.length === 16, "guest address");
    need(address === undefined || address.length === 16, "address");
  }
  offeredFeatures(config.migrateFormat, config.offloads, queues);
  summary(config);
}

const encoder = new TextEncoder();
const NAMES = OPTIONS.flatMap((spec) => [`--${spec.name}`, `\n--${spec.name}\n`]);
const WORDS =
  "none all auto off strict passt csum,tso4 192.0.2.7/24 2001:db8::7/64 eth0 ::1"
    .split(" ");

const target: Target = {
  maxLength: 300,
  seeds: LINES.map((line, i) => encoder.encode(String.fromCharCode(32 + i) + line)),
  dictionary: [...NAMES, ...WORDS].map((text) => encoder.encode(text)),
  run(input) {
    // No argument of a process has a byte of zero.
    const words = input.subarray(1).map((byte) => byte === 0 ? 48 : byte);
    const args = new TextDecoder().decode(words).split("\n");
    let config: Config;
    try {
      const found = configure(parseOptions(args), host(input[0] ?? 0), () => FREE);
      ({ config } = found);
      for (const warning of found.warnings) need(!warning.includes("\n"), warning);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      need(!error.message.includes("\n"), "a refusal of several lines");
      return;
    }
    check(config);
  },
};
export default target;
