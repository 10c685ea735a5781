/**
 * The options: one table, from which parsing, --help and README come. Names and
 * meanings are passt's wherever passt has the option, so that scripts carry over.
 */
import { LIMIT_OPTIONS } from "./limits.ts";

/** Headings of --help, in order. */
export const GROUPS = [
  "Process",
  "Logging",
  "Virtual machine",
  "Performance",
  "Limits",
  "Addresses",
  "DNS and names",
  "Host mapping",
  "Services",
  "Port forwarding",
] as const;

/** One option, as --help and README show it. */
export interface OptionSpec {
  /** Long name, without dashes. */
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly short?: string;
  /** What the value is called in --help; an option without one is a switch. */
  readonly argument?: string;
  readonly group: typeof GROUPS[number];
  /** Lines of help, each short enough for a terminal of 80 columns. */
  readonly help: readonly string[];
}

/** All options, in the order in which --help shows them. */
export const OPTIONS = [
  {
    name: "foreground",
    short: "f",
    group: "Process",
    help: ["Stay in the foreground", "default: go to the background once ready"],
  },
  {
    name: "one-off",
    short: "1",
    group: "Process",
    help: ["End when the first virtual machine has disconnected"],
  },
  {
    name: "pid",
    short: "P",
    argument: "FILE",
    group: "Process",
    help: ["Write the process ID to FILE once ready"],
  },
  {
    name: "runas",
    argument: "USER[:GROUP]",
    group: "Process",
    help: ["Become this user and group, by name or number", "default: nobody, if root"],
  },
  {
    name: "sandbox",
    argument: "MODE",
    group: "Process",
    help: [
      "Confinement: 'default' takes what the kernel has and",
      "says what it lacks, 'strict' refuses to start then,",
      "'none' changes user and capabilities only",
      "default: default; see vuelo sandbox-report",
    ],
  },
  {
    name: "help",
    short: "h",
    group: "Process",
    help: ["Show this help and exit"],
  },
  { name: "version", group: "Process", help: ["Show the version and exit"] },
  {
    name: "debug",
    short: "d",
    group: "Logging",
    help: ["Say what is being done"],
  },
  { name: "trace", group: "Logging", help: ["Show single packets, too"] },
  {
    name: "quiet",
    short: "q",
    group: "Logging",
    help: ["Show warnings and errors only"],
  },
  {
    name: "log-file",
    short: "l",
    argument: "FILE",
    group: "Logging",
    help: ["Log to FILE instead of the terminal or syslog"],
  },
  {
    name: "log-size",
    argument: "BYTES",
    group: "Logging",
    help: ["Limit of the log file; the oldest lines go first", "default: 1048576"],
  },
  {
    name: "pcap",
    short: "p",
    argument: "FILE",
    group: "Logging",
    help: ["Capture the guest's packets to FILE"],
  },
  {
    name: "socket-path",
    aliases: ["socket"],
    short: "s",
    argument: "PATH",
    group: "Virtual machine",
    help: [
      "Socket that the hypervisor connects to",
      "default: first free of /tmp/vuelo_N.socket",
    ],
  },
  {
    name: "socket-group",
    argument: "GROUP",
    group: "Virtual machine",
    help: [
      "Members of GROUP may connect to the sockets, too",
      "default: root, and who starts vuelo or --runas names",
    ],
  },
  {
    name: "fd",
    short: "F",
    argument: "FD",
    group: "Virtual machine",
    help: ["Use a connected socket that was passed in; implies -1"],
  },
  {
    name: "vhost-user",
    group: "Virtual machine",
    help: ["Accepted for passt's sake: vuelo always is vhost-user"],
  },
  {
    name: "sealed-memory",
    group: "Virtual machine",
    help: ["Refuse guest memory that could be made shorter: SIGBUS"],
  },
  {
    name: "print-capabilities",
    group: "Virtual machine",
    help: ["Show the vhost-user capabilities as JSON and exit"],
  },
  {
    name: "repair-path",
    argument: "PATH",
    group: "Virtual machine",
    help: [
      "Socket for 'vuelo repair', which moves connections",
      "none: root keeps CAP_NET_ADMIN and needs no helper",
      "default: socket path with .repair",
    ],
  },
  {
    name: "migrate-format",
    argument: "FORMAT",
    group: "Virtual machine",
    help: [
      "Format of the state that goes to another host:",
      "'vuelo', or 'passt' for a target that runs passt,",
      "where the guest is offered no more than passt has",
      "default: vuelo; what comes in is recognized",
    ],
  },
  {
    name: "queues",
    argument: "N",
    group: "Virtual machine",
    help: [
      "Queue pairs, 1 to 8, each on a thread of its own",
      "default: 1; as many as the guest has processors is best",
    ],
  },
  {
    name: "mtu",
    short: "m",
    argument: "BYTES",
    group: "Virtual machine",
    help: ["MTU to assign by DHCP and NDP, 0 for none", "default: 65520"],
  },
  {
    name: "mac-addr",
    short: "M",
    argument: "MAC",
    group: "Virtual machine",
    help: ["MAC address that vuelo itself has", "default: 9a:55:9a:55:9a:55"],
  },
  {
    name: "offload",
    argument: "LIST",
    group: "Performance",
    help: [
      "Offloads for the guest, parted by commas: all, none,",
      "csum, tso4, tso6, uso, ecn, guest-csum, guest-tso4,",
      "guest-tso6, guest-uso4, guest-uso6, guest-ecn,",
      "mrg-rxbuf; tso, guest-tso and guest-uso are both",
      "families; -NAME leaves one out",
      "default: all",
    ],
  },
  {
    name: "poll",
    argument: "US",
    group: "Performance",
    help: [
      "Look for events this many microseconds before sleeping",
      "while they come densely: less latency, more CPU time",
      "default: off",
    ],
  },
  ...LIMIT_OPTIONS,
  {
    name: "address",
    short: "a",
    argument: "ADDR[/LENGTH]",
    group: "Addresses",
    help: [
      "Address for the guest, once per family",
      "default: that of the host's interface",
    ],
  },
  {
    name: "netmask",
    short: "n",
    argument: "MASK",
    group: "Addresses",
    help: ["IPv4 netmask, dotted or as a number of bits"],
  },
  {
    name: "gateway",
    short: "g",
    argument: "ADDR",
    group: "Addresses",
    help: ["Default gateway for the guest, once per family", "default: the host's"],
  },
  {
    name: "interface",
    short: "i",
    argument: "NAME",
    group: "Addresses",
    help: [
      "Host interface that addresses and routes are taken from",
      "default: that of the first default route",
    ],
  },
  {
    name: "outbound",
    short: "o",
    argument: "ADDR",
    group: "Addresses",
    help: ["Source address of outbound sockets, once per family"],
  },
  {
    name: "outbound-if4",
    argument: "NAME",
    group: "Addresses",
    help: ["Interface that outbound IPv4 sockets are bound to"],
  },
  {
    name: "outbound-if6",
    argument: "NAME",
    group: "Addresses",
    help: ["Interface that outbound IPv6 sockets are bound to"],
  },
  { name: "ipv4-only", short: "4", group: "Addresses", help: ["No IPv6"] },
  { name: "ipv6-only", short: "6", group: "Addresses", help: ["No IPv4"] },
  {
    name: "dns",
    short: "D",
    argument: "ADDR",
    group: "DNS and names",
    help: [
      "Resolver for the guest, any number of times, or 'none'",
      "default: the host's",
    ],
  },
  {
    name: "dns-forward",
    argument: "ADDR",
    group: "DNS and names",
    help: ["Send DNS queries for ADDR to the host's resolver"],
  },
  {
    name: "dns-host",
    argument: "ADDR",
    group: "DNS and names",
    help: [
      "The host's resolver behind --dns-forward",
      "default: first in /etc/resolv.conf",
    ],
  },
  {
    name: "search",
    short: "S",
    argument: "LIST",
    group: "DNS and names",
    help: ["Search domains, parted by spaces, or 'none'", "default: the host's"],
  },
  {
    name: "hostname",
    short: "H",
    argument: "NAME",
    group: "DNS and names",
    help: ["Host name to assign by DHCP"],
  },
  {
    name: "fqdn",
    argument: "NAME",
    group: "DNS and names",
    help: ["Full name to assign by DHCP and DHCPv6"],
  },
  {
    name: "no-dhcp-dns",
    group: "DNS and names",
    help: ["No resolvers in DHCP, DHCPv6 and NDP"],
  },
  {
    name: "no-dhcp-search",
    group: "DNS and names",
    help: ["No search domains in DHCP, DHCPv6 and NDP"],
  },
  {
    name: "map-host-loopback",
    argument: "ADDR",
    group: "Host mapping",
    help: [
      "Address that is the host's loopback for the guest, once",
      "per family, or 'none'; default: the gateway",
    ],
  },
  {
    name: "no-map-gw",
    group: "Host mapping",
    help: ["Don't make the gateway the host's loopback"],
  },
  {
    name: "map-guest-addr",
    argument: "ADDR",
    group: "Host mapping",
    help: ["Address that is the host's own for the guest, or 'none'"],
  },
  { name: "no-tcp", group: "Services", help: ["No TCP"] },
  { name: "no-udp", group: "Services", help: ["No UDP"] },
  {
    name: "no-icmp",
    group: "Services",
    help: ["No ICMP and ICMPv6 echo; implies --no-ndp"],
  },
  { name: "no-dhcp", group: "Services", help: ["No DHCP server"] },
  { name: "no-dhcpv6", group: "Services", help: ["No DHCPv6 server"] },
  { name: "no-ndp", group: "Services", help: ["No answers to neighbour discovery"] },
  { name: "no-ra", group: "Services", help: ["No router advertisements"] },
  {
    name: "tcp-ports",
    short: "t",
    argument: "SPEC",
    group: "Port forwarding",
    help: ["TCP ports of the host to forward to the guest"],
  },
  {
    name: "udp-ports",
    short: "u",
    argument: "SPEC",
    group: "Port forwarding",
    help: ["UDP ports of the host to forward to the guest"],
  },
] as const satisfies readonly OptionSpec[];

/** The name of an option, without the dashes. */
export type OptionName = typeof OPTIONS[number]["name"];
