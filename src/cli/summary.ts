/** What vuelo says once it listens: addresses, forwarded ports, options for QEMU. */
import type { Config, FamilyConfig } from "../config.ts";
import { formatAddress, formatMac, isUnspecified } from "../wire/address.ts";
import { describeRule } from "./ports.ts";

/** The lines of the summary. */
export function summary(config: Config): string[] {
  const { socketPath } = config;
  const lines = [
    ...socketPath === undefined ? [] : [`Listening at ${socketPath}`],
    `MAC address: ${formatMac(config.ourMac)}`,
    ...family("IPv4", config, config.ip4),
    ...family("IPv6", config, config.ip6),
  ];
  if (config.search.length > 0) lines.push(`Search domains: ${config.search.join(" ")}`);
  if (config.forwards.length > 0) {
    lines.push("Forwarded ports:");
    for (const rule of config.forwards) {
      const weak = rule.weak ? " (where free)" : "";
      lines.push(`  ${rule.protocol.toUpperCase()} ${describeRule(rule)}${weak}`);
    }
  }
  if (socketPath !== undefined) {
    lines.push(
      "Options for QEMU (size as in -m):",
      `  ${qemuOptions(socketPath, config.queues)}`,
    );
  }
  return lines;
}

/**
 * The options that QEMU needs to use vuelo at a socket. The guest's memory must be
 * shared, as vuelo reads and writes it in place.
 */
export function qemuOptions(socketPath: string, queues = 1): string {
  // A comma within a value is doubled (qemu(1), QemuOpts); the shell must not see more.
  const path = socketPath.replaceAll(",", ",,");
  const chardev = `socket,id=vuelo,path=${path}`;
  // An interrupt for each ring, one for the control queue, one for changes (QEMU's own).
  const [pairs, several] = queues > 1
    ? [`,queues=${queues}`, `,mq=on,vectors=${2 * queues + 2}`]
    : ["", ""];
  return [
    "-m 1G",
    "-object memory-backend-memfd,id=mem,size=1G,share=on",
    "-machine memory-backend=mem",
    `-chardev ${/^[\w./,=@%+:-]*$/.test(chardev) ? chardev : quote(chardev)}`,
    `-netdev vhost-user,id=net,chardev=vuelo${pairs}`,
    `-device virtio-net-pci,netdev=net${several}`,
  ].join(" ");
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function family(
  name: "IPv4" | "IPv6",
  config: Config,
  family: FamilyConfig | undefined,
): string[] {
  if (family === undefined) return [`${name}: off`];
  const show = (address: Uint8Array) => formatAddress(address);
  const lines = [`${name}:`];
  const add = (what: string, value: string | undefined) => {
    if (value !== undefined) lines.push(`  ${what}: ${value}`);
  };
  const by = name === "IPv4" ? [config.dhcp && "DHCP"] : [
    config.dhcpv6 && "DHCPv6",
    config.ra && "NDP",
  ];
  const ways = by.filter((way) => way !== false).join(" and ");
  add(
    "address",
    isUnspecified(family.address)
      ? "none but the link-local one"
      : `${show(family.address)}/${family.prefixLength}` +
        (ways === "" ? ", not assigned" : ` by ${ways}`),
  );
  add("gateway", isUnspecified(family.gateway) ? "none" : show(family.gateway));
  if (name === "IPv6") add("link-local address of vuelo", show(config.ourLinkLocal));
  if (family.dns.length > 0) add("resolvers", family.dns.map(show).join(" "));
  const { dnsForward, dnsHost, mapHostLoopback, mapGuestAddress, outbound } = family;
  if (dnsForward !== undefined && dnsHost !== undefined) {
    add(`queries to ${show(dnsForward)} go to`, show(dnsHost));
  }
  add("the host's loopback is", mapHostLoopback && show(mapHostLoopback));
  add("the host's own address is", mapGuestAddress && show(mapGuestAddress));
  add("outbound address", outbound && show(outbound));
  add("outbound interface", family.outboundInterface);
  return lines;
}
