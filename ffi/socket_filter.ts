/**
 * Deafness of a socket: a BPF program that drops every packet before the protocol sees
 * it, so that the kernel neither takes nor acknowledges nor refuses anything (socket(7),
 * SO_ATTACH_FILTER). Needs no rights; but the kernel compiles the program anew for each
 * socket, which takes five times as long as all else. Who may load a program for all
 * sockets together (bpf(2)), at the start of the process, attaches that one.
 *
 * There are hosts where a filter needs CAP_NET_ADMIN (EPERM without). Then a TCP socket is
 * made to ask for more hops to live than senders give (ip(7), IP_MINTTL): TCP drops what
 * has fewer in the same silence. Only what comes with all 255 from the same link is heard.
 */
import { Arena } from "./arena.ts";
import { Errno, errno } from "./errno.ts";
import { rare } from "./libc.ts";
import { setOption, SOL_IP, SOL_IPV6, SOL_SOCKET } from "./socket.ts";

const sys = rare({
  /** int setsockopt(int sockfd, int level, int optname, const void *val, socklen_t len) */
  setsockopt: { parameters: ["i32", "i32", "i32", "pointer", "u32"], result: "i32" },
  /** long syscall(long number, int cmd, union bpf_attr *attr, unsigned int size) */
  syscall: { parameters: ["i64", "i32", "pointer", "u32"], result: "i32" },
});

const SO_ATTACH_FILTER = 26;
const SO_DETACH_FILTER = 27;
const SO_ATTACH_BPF = 50;
const IP_MINTTL = 21;
const IPV6_MINHOPCOUNT = 73;
const ALL_HOPS = 255;
/** BPF_RET | BPF_K with a constant of 0: keep no byte of the packet. */
const BPF_RET_K = 0x06;

/** struct sock_fprog { u16 len; sock_filter *filter; } and one struct sock_filter. */
const arena = new Arena(4096);
const PROGRAM_AT = arena.take(16);
const FILTER_AT = arena.take(8);
arena.view.setUint16(FILTER_AT, BPF_RET_K, true);
arena.view.setUint16(PROGRAM_AT, 1, true);
arena.view.setBigUint64(PROGRAM_AT + 8, BigInt(arena.base + FILTER_AT), true);
const program = arena.pointer(PROGRAM_AT);

/** BPF_PROG_LOAD of union bpf_attr: type and length, program, licence (linux/bpf.h). */
const SYS_BPF = Deno.build.arch === "x86_64" ? 321 : 280;
const BPF_PROG_LOAD = 5;
const BPF_PROG_TYPE_SOCKET_FILTER = 1;
/** r0 = 0; exit: the same as above. */
const INSTRUCTIONS = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
const LICENCE = new TextEncoder().encode("MIT\0");

/** Loads the program for all sockets; its descriptor, or -1 without the right to. */
function load(): number {
  const instructionsAt = arena.take(16);
  const licenceAt = arena.take(8);
  const attributesAt = arena.take(128);
  arena.bytes(instructionsAt, 16).set(INSTRUCTIONS);
  arena.bytes(licenceAt, LICENCE.length).set(LICENCE);
  const { view } = arena;
  view.setUint32(attributesAt, BPF_PROG_TYPE_SOCKET_FILTER, true);
  view.setUint32(attributesAt + 4, INSTRUCTIONS.length / 8, true);
  view.setBigUint64(attributesAt + 8, BigInt(arena.base + instructionsAt), true);
  view.setBigUint64(attributesAt + 16, BigInt(arena.base + licenceAt), true);
  return sys.syscall(BigInt(SYS_BPF), BPF_PROG_LOAD, arena.pointer(attributesAt), 128);
}

const SHARED_AT = arena.take(8);
const shared = arena.pointer(SHARED_AT);
const sharedProgram = load();
arena.view.setInt32(SHARED_AT, sharedProgram, true);

/** Whether a filter was refused, so that sockets may be deaf by hops. */
let byHops = false;

/** The socket drops all that comes from now on; 0, or -1 with errno(). */
export function deafen(fd: number): number {
  if (sharedProgram !== -1) {
    if (sys.setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, shared, 4) === 0) return 0;
  }
  if (sys.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, program, 16) === 0) return 0;
  if (errno() !== Errno.EPERM) return -1;
  byHops = true;
  return demandHops(fd, ALL_HOPS);
}

/** Undoes {@link deafen}; 0, or -1 with errno() (ENOENT: it was not deaf). */
export function undeafen(fd: number): number {
  const result = sys.setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, program, 4);
  return result === -1 && byHops ? demandHops(fd, 0) : result;
}

/**
 * How many hops must be left to what a TCP socket hears, of either family; 0, or -1 with
 * errno(). For an IPv6 socket that of IPv4 is about mapped addresses.
 */
export function demandHops(fd: number, hops: number): number {
  setOption(fd, SOL_IPV6, IPV6_MINHOPCOUNT, hops);
  return setOption(fd, SOL_IP, IP_MINTTL, hops);
}
