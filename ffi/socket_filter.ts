/**
 * Deafness of a socket: a classic BPF program that drops every packet before the protocol
 * sees it, so that the kernel neither takes nor acknowledges nor refuses anything
 * (socket(7), SO_ATTACH_FILTER). Needs no rights.
 */
import { Arena } from "./arena.ts";
import { libc } from "./libc.ts";

const sys = libc({
  /** int setsockopt(int sockfd, int level, int optname, const void *val, socklen_t len) */
  setsockopt: { parameters: ["i32", "i32", "i32", "pointer", "u32"], result: "i32" },
});

const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const SO_DETACH_FILTER = 27;
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

/** The socket drops all that comes from now on; 0, or -1 with errno(). */
export function deafen(fd: number): number {
  return sys.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, program, 16);
}

/** Undoes {@link deafen}; 0, or -1 with errno() (ENOENT: it was not deaf). */
export function undeafen(fd: number): number {
  return sys.setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, program, 4);
}
