/** Requests to the kernel's routing tables over a netlink socket (netlink(7)). */
import { Arena } from "./arena.ts";
import { checked, Errno, errno, SyscallError } from "./errno.ts";
import { libc } from "./libc.ts";

const sys = libc({
  /** int socket(int domain, int type, int protocol) */
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  /** int setsockopt(int fd, int level, int option, const void *value, socklen_t length) */
  setsockopt: { parameters: ["i32", "i32", "i32", "pointer", "u32"], result: "i32" },
  /** ssize_t send(int fd, const void *buffer, size_t length, int flags) */
  send: { parameters: ["i32", "pointer", "u32", "i32"], result: "i32" },
  /** ssize_t recv(int fd, void *buffer, size_t length, int flags) */
  recv: { parameters: ["i32", "pointer", "u32", "i32"], result: "i32" },
  /** int close(int fd) */
  close: { parameters: ["i32"], result: "i32" },
});

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_ROUTE = 0;
const SOL_SOCKET = 1;
const SO_RCVTIMEO = 20;
const MSG_TRUNC = 0x20;

/** The kernel never sends a longer datagram of a dump than the caller's buffer. */
const BUFFER_SIZE = 65536;
const REQUEST_SIZE = 256;
/** Answers come at once; this bounds the wait if none does. */
const TIMEOUT_SECONDS = 5;

/**
 * Sends one request to NETLINK_ROUTE and hands each datagram of the answer to `receive`
 * until that returns true. The bytes are valid only during the call.
 *
 * @param request one whole netlink message, at most 256 bytes
 * @throws {SyscallError} if the kernel doesn't take the request or doesn't answer
 */
export function netlinkRequest(
  request: Uint8Array,
  receive: (datagram: Uint8Array) => boolean,
): void {
  if (request.length > REQUEST_SIZE) throw new RangeError("netlink request too long");
  const memory = buffer();
  const socket = checked(
    sys.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE),
    "socket(AF_NETLINK)",
  );
  try {
    // struct timeval { 5, 0 }
    memory.view.setBigInt64(0, BigInt(TIMEOUT_SECONDS), true);
    memory.view.setBigInt64(8, 0n, true);
    checked(
      sys.setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, memory.pointer(0), 16),
      "setsockopt(SO_RCVTIMEO)",
    );
    memory.bytes(0, request.length).set(request);
    checked(sys.send(socket, memory.pointer(0), request.length, 0), "send(netlink)");
    for (let done = false; !done;) {
      const length = sys.recv(socket, memory.pointer(0), BUFFER_SIZE, MSG_TRUNC);
      if (length === -1) {
        if (errno() === Errno.EINTR) continue;
        throw new SyscallError("recv(netlink)");
      }
      done = receive(memory.bytes(0, Math.min(length, BUFFER_SIZE)));
    }
  } finally {
    sys.close(socket);
  }
}

let shared: Arena | undefined;

/** Taken when first needed, and then for good: memory of an arena is never given back. */
function buffer(): Arena {
  return shared ??= new Arena(BUFFER_SIZE);
}
