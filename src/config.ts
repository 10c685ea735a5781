/**
 * What one vuelo process was told to do, complete and checked: defaults are filled in
 * from the host, contradictions are refused before this exists. Nothing changes it later.
 */

/** IPv4 or IPv6 as the guest shall see and use it. Addresses are 16 bytes, IPv4 mapped. */
export interface FamilyConfig {
  /**
   * Address given to the guest by DHCP, DHCPv6 or SLAAC. The unspecified address (IPv6 on
   * a host without IPv6) gives none: the guest has its link-local address alone.
   */
  readonly address: Uint8Array;
  /** Prefix length as written for the family: 0 to 32, or 0 to 128. */
  readonly prefixLength: number;
  /** The router the guest is told of; unspecified if the host's route has none. */
  readonly gateway: Uint8Array;
  /** vuelo's own address on the guest's link: the DHCP server, the router advertised. */
  readonly ourAddress: Uint8Array;
  /** Resolvers the guest is told of, as the guest reaches them. */
  readonly dns: readonly Uint8Array[];
  /** --dns-forward: queries that the guest sends here go to {@link dnsHost}. */
  readonly dnsForward?: Uint8Array;
  /** --dns-host: the host's resolver behind {@link dnsForward}. */
  readonly dnsHost?: Uint8Array;
  /** --map-host-loopback: the guest reaches the host's loopback at this address. */
  readonly mapHostLoopback?: Uint8Array;
  /** --map-guest-addr: the guest reaches the host's own {@link address} here. */
  readonly mapGuestAddress?: Uint8Array;
  /** -o: local address of sockets towards the outside. */
  readonly outbound?: Uint8Array;
  /** --outbound-if4/6, -i: interface that sockets towards the outside are bound to. */
  readonly outboundInterface?: string;
}

/** One forwarded port: -t or -u, one socket per entry. */
export interface ForwardRule {
  readonly protocol: "tcp" | "udp";
  /** Host address to listen on; undefined is every address of both families. */
  readonly address?: Uint8Array;
  /** Host interface to listen on (address%interface). */
  readonly interface?: string;
  /** Port on the host, first and last of the range. */
  readonly first: number;
  readonly last: number;
  /** Guest port that `first` maps to; the others follow. */
  readonly guestFirst: number;
  /** Guest-side address to connect to (`:ADDR/PORT`); undefined is the guest's own. */
  readonly guestAddress?: Uint8Array;
  /** From `all`: a port that is taken is passed over with a warning. */
  readonly weak: boolean;
}

/** --migrate-format: whose stream a migration's source writes. */
export type StateFormat = "vuelo" | "passt";

/** --offload: what driver and device may leave to each other (see virtio/offloads.ts). */
export type OffloadName =
  | "csum"
  | "tso4"
  | "tso6"
  | "uso"
  | "ecn"
  | "guest-csum"
  | "guest-tso4"
  | "guest-tso6"
  | "guest-uso4"
  | "guest-uso6"
  | "guest-ecn"
  | "mrg-rxbuf";

/** --sandbox: how much of the sandbox must be had, see sandbox/confine.ts. */
export const SANDBOX_MODES = ["strict", "default", "none"] as const;
/** A value of --sandbox. */
export type SandboxMode = typeof SANDBOX_MODES[number];

/** How much is logged, most first. */
export type LogLevel = "trace" | "debug" | "info" | "warning" | "error";

/** How much of everything there may be, in the whole process. */
export interface Limits {
  /** --max-flows: flows of all kinds together. */
  readonly flows: number;
  /** --max-tcp, --max-udp, --max-ping. */
  readonly tcp: number;
  readonly udp: number;
  readonly ping: number;
  /** --max-half-open: connections of the guest that no peer has answered. */
  readonly halfOpen: number;
  /** --max-pending: what came through forwarded ports and the guest has not answered. */
  readonly pendingTcp: number;
  readonly pendingUdp: number;
  /** --max-sockets; undefined: as many as the limit of open files leaves room for. */
  readonly sockets?: number | undefined;
  /** --budget: frames of the guest, or datagrams of a socket, in one turn of the loop. */
  readonly budget: number;
  /** --max-state: bytes of a migration's state that are taken. */
  readonly state: number;
}

const HALF_OPEN = 4096;

/** As in {@link Limits}; what is undefined is not given. */
export type GivenLimits = { readonly [Name in keyof Limits]?: Limits[Name] | undefined };

/** The limits, of which those that are not given follow from the number of flows. */
export function limitsOf(flows: number = 1 << 17, given: GivenLimits = {}): Limits {
  const tcp = given.tcp ?? Math.max(1, Math.floor(flows * 13 / 16));
  const udp = given.udp ?? Math.max(1, Math.floor(flows * 5 / 32));
  const half = (n: number) => Math.max(1, Math.min(HALF_OPEN, n >> 1));
  return {
    flows,
    tcp,
    udp,
    ping: given.ping ?? Math.max(1, Math.floor(flows / 32)),
    halfOpen: given.halfOpen ?? half(tcp),
    pendingTcp: given.pendingTcp ?? half(tcp),
    pendingUdp: given.pendingUdp ?? half(udp),
    sockets: given.sockets,
    budget: given.budget ?? 256,
    state: given.state ?? 2 ** 30,
  };
}

/** What there may be at most where the options do not say. */
export const DEFAULT_LIMITS: Limits = limitsOf();

/** Everything that options and the host's facts decide; it never changes. */
export interface Config {
  /** Path to listen on; undefined with {@link fd}. */
  readonly socketPath?: string;
  /** -F: a connected socket that was passed in. */
  readonly fd?: number;
  readonly oneOff: boolean;
  readonly foreground: boolean;
  readonly pidFile?: string;
  readonly logFile?: string;
  /** --log-size: bytes that the log file may have. */
  readonly logSize: number;
  readonly logLevel: LogLevel;
  /** --log-rate: lines in a second at most; 0 or undefined: any number. */
  readonly logRate?: number;
  readonly pcap?: string;
  /** MTU told to the guest (DHCP option 26, RA, virtio-net); 0 tells none. */
  readonly mtu: number;
  /** MAC address that vuelo answers with. */
  readonly ourMac: Uint8Array;
  readonly ip4?: FamilyConfig;
  readonly ip6?: FamilyConfig;
  /** Link-local address of vuelo on the guest's link. */
  readonly ourLinkLocal: Uint8Array;
  readonly tcp: boolean;
  readonly udp: boolean;
  readonly icmp: boolean;
  readonly dhcp: boolean;
  readonly dhcpv6: boolean;
  readonly ndp: boolean;
  readonly ra: boolean;
  /** --no-dhcp-dns leaves the resolvers out of DHCP, DHCPv6 and NDP. */
  readonly dhcpDns: boolean;
  /** --no-dhcp-search likewise for the search list. */
  readonly dhcpSearch: boolean;
  readonly search: readonly string[];
  readonly hostname?: string;
  readonly fqdn?: string;
  readonly forwards: readonly ForwardRule[];
  /** The user to become; `byDefault`: though nobody has named it. */
  readonly runAs?: {
    readonly uid: number;
    readonly gid: number;
    readonly byDefault?: true;
  };
  /** --socket-group: number of a group whose members may connect. */
  readonly socketGroup?: number;
  readonly sandbox: SandboxMode;
  /** --repair-path; "none" switches it off. */
  readonly repairPath?: string;
  readonly migrateFormat: StateFormat;
  /** --offload: the offloads that may be offered; undefined is all. */
  readonly offloads?: ReadonlySet<OffloadName>;
  /** --sealed-memory: refuse guest memory in files that could be made shorter. */
  readonly sealedMemory?: boolean;
  /** --poll: milliseconds to look for events at most before sleeping; 0 is off. */
  readonly pollMs: number;
  /** --queues: queue pairs on offer, each of which has a thread. */
  readonly queues: number;
  /** --max-flows and others; undefined: {@link DEFAULT_LIMITS}. */
  readonly limits?: Limits;
}
