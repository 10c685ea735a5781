/** --help, from the option table. */
import { GROUPS, OPTIONS, type OptionSpec } from "./options.ts";

/** Column where the explanations begin. */
const HELP_AT = 30;

/** What follows the options of a group. */
const NOTES: Partial<Record<typeof GROUPS[number], readonly string[]>> = {
  Process: [
    "Example, for a virtual machine on this host:",
    "  vuelo --foreground --socket-path /tmp/vm.sock --tcp-ports 2222:22",
    "  vuelo shows the options that QEMU needs then.",
  ],
  Logging: [
    "Example: vuelo -f -d -l vuelo.log -p guest.pcap",
  ],
  "Virtual machine": [
    "Example: vuelo -f -s /tmp/vm.sock -m 1500",
  ],
  Performance: [
    "Example, without frames larger than the MTU: vuelo --offload=-tso,-guest-tso",
  ],
  Limits: [
    "They hold for all threads together; the log tells, once a minute, what meets one.",
    "Example, for a small guest: vuelo --max-flows 4096 --max-half-open 256",
  ],
  Addresses: [
    "Example: vuelo -a 192.0.2.5/24 -g 192.0.2.1 -a 2001:db8::5/64 -g fe80::1",
  ],
  "DNS and names": [
    "Example: vuelo --dns 192.0.2.53 --dns-forward 192.0.2.53 --search 'lan example.org'",
  ],
  "Host mapping": [
    "Example: vuelo --map-host-loopback 192.0.2.254 --map-guest-addr 192.0.2.253",
  ],
  Services: [
    "Example, for a guest with static addresses: vuelo --no-dhcp --no-dhcpv6 --no-ra",
  ],
  "Port forwarding": [
    "SPEC is 'none' (the default) or [ADDR][%INTERFACE]/PORTS or PORTS, and PORTS a",
    "list, parted by commas, of FIRST[-LAST][:[ADDR/]FIRST[-LAST]], of ~FIRST[-LAST]",
    "to leave out, and of 'all': every port that isn't ephemeral and is still free.",
    "Examples:",
    "  -t 22                      port 22 to the guest's port 22",
    "  -t 2222:22,8080-8089:80-89 other ports in the guest",
    "  -t 127.0.0.1/5432          connections to 127.0.0.1 only",
    "  -t ::1/80 -t %eth0/80      to ::1, and to any address of eth0",
    "  -u 5000-5100,~5050-5059    a range with a gap",
    "  -t ~25                     all but port 25",
  ],
};

/** Each explains itself with --help. */
const SUBCOMMANDS = `       vuelo repair [--sandbox MODE] PATH
       vuelo migrate-check OPTION...
       vuelo inspect [--json] FILE|-
       vuelo sandbox-report [--json] [PID]...
`;

/** The text of --help: one part per group, each of which fits a terminal of 24 lines. */
export function helpText(): string {
  const parts = GROUPS.map((group) => {
    const specs = OPTIONS.filter((spec) => spec.group === group);
    const notes = NOTES[group] ?? [];
    return [
      `${group}:`,
      ...specs.flatMap(optionLines),
      ...notes.map((line) => `  ${line}`),
    ]
      .join("\n");
  });
  return `Usage: vuelo [OPTION]...\n${SUBCOMMANDS}\n` +
    "Connects a virtual machine to the network through ordinary sockets of the host.\n\n" +
    `${parts.join("\n\n")}\n`;
}

/** `  -s, --socket-path, --socket PATH` and its explanation, one array item per line. */
export function optionLines(spec: OptionSpec): string[] {
  const short = spec.short === undefined ? "    " : `-${spec.short}, `;
  const long = [spec.name, ...spec.aliases ?? []].map((name) => `--${name}`).join(", ");
  const head = `  ${short}${long}${
    spec.argument === undefined ? "" : ` ${spec.argument}`
  }`;
  const fits = head.length < HELP_AT;
  const lines = spec.help.map((line) => " ".repeat(HELP_AT) + line);
  if (!fits) return [head, ...lines];
  return [head.padEnd(HELP_AT) + spec.help[0], ...lines.slice(1)];
}
