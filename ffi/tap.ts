/** TAP devices with virtio-net headers (linux/if_tun.h): the kernel's end of a bench. */
import { Arena } from "./arena.ts";
import { checked } from "./errno.ts";
import { libc } from "./libc.ts";

const sys = libc({
  /** int open(const char *path, int flags) */
  open: { parameters: ["buffer", "i32"], result: "i32" },
  /** int ioctl(int fd, unsigned long request, void *argument); the variadic third in a register */
  ioctl: { parameters: ["i32", "u32", "pointer"], result: "i32" },
  /** ssize_t read(int fd, void *buf, size_t count) */
  read: { parameters: ["i32", "pointer", "u32"], result: "i32" },
  /** ssize_t writev(int fd, const struct iovec *iov, int iovcnt) */
  writev: { parameters: ["i32", "pointer", "i32"], result: "i32" },
  /** int poll(struct pollfd *fds, nfds_t nfds, int timeout) */
  poll: { parameters: ["pointer", "u32", "i32"], result: "i32" },
});

/** Hot path: result as the kernel gives it, -1 with errno() on failure. */
export const readFrame = sys.read;
export const writeFrame = sys.writev;

const O_RDWR_NONBLOCK = 0o4002;
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFREQ_SIZE = 40;
const IFREQ_FLAGS_AT = 16;
const POLLIN = 1;

/** What the device may hand out: TUN_F_*. */
export const TapOffload = {
  checksum: 0x01,
  tso4: 0x02,
  tso6: 0x04,
  /** Both families; Linux 6.2. */
  uso: 0x60,
} as const;

const arena = new Arena(4096);
const requestAt = arena.take(IFREQ_SIZE);
const request = arena.pointer(requestAt);
const pollAt = arena.take(8);
const pollEntry = arena.pointer(pollAt);

/**
 * Opens a queue of the TAP device `name`, made unless it is there; non-blocking. Frames
 * come with a net header of `header` bytes before them.
 *
 * @param several whether the device has more than one queue
 * @throws {SyscallError} EPERM without rights over the network
 */
export function openTap(name: string, header: number, several: boolean): number {
  const path = new TextEncoder().encode("/dev/net/tun\0");
  const fd = checked(sys.open(path, O_RDWR_NONBLOCK), "open of /dev/net/tun");
  const bytes = arena.bytes(requestAt, IFREQ_SIZE).fill(0);
  new TextEncoder().encodeInto(name, bytes.subarray(0, IFREQ_FLAGS_AT - 1));
  const flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0);
  arena.view.setUint16(requestAt + IFREQ_FLAGS_AT, flags, true);
  checked(sys.ioctl(fd, TUNSETIFF, request), `TUNSETIFF of ${name}`);
  arena.view.setInt32(requestAt, header, true);
  checked(sys.ioctl(fd, TUNSETVNETHDRSZ, request), "TUNSETVNETHDRSZ");
  return fd;
}

/**
 * Sets what is handed out unfinished, {@link TapOffload} bits; false if the kernel cannot.
 * Without checksums there is nothing else, either.
 */
export function setTapOffloads(fd: number, bits: number): boolean {
  return sys.ioctl(fd, TUNSETOFFLOAD, Deno.UnsafePointer.create(BigInt(bits))) === 0;
}

/** Waits without limit until `fd` can be read. */
export function waitReadable(fd: number): void {
  arena.view.setInt32(pollAt, fd, true);
  arena.view.setInt16(pollAt + 4, POLLIN, true);
  sys.poll(pollEntry, 1, -1);
}
