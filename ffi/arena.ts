/** Process memory at a fixed address, for structures that the kernel reads and fills. */
import { SyscallError } from "./errno.ts";
import { libc } from "./libc.ts";

const sys = libc({
  /** void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset) */
  mmap: {
    parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"],
    result: "pointer",
  },
});

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

/**
 * A block of zeroed memory outside V8's heap, handed out piece by piece and never
 * freed. Pages that were never written cost nothing.
 */
export class Arena {
  /** Address of byte 0. */
  readonly base: number;
  /** The whole block, for typed arrays over pieces of it. */
  readonly buffer: ArrayBuffer;
  /** All of the block. */
  readonly view: DataView;
  #used = 0;

  /** @param size bytes, at most 4 GiB */
  constructor(size: number) {
    const start = sys.mmap(
      null,
      BigInt(size),
      PROT_READ_WRITE,
      MAP_PRIVATE_ANONYMOUS,
      -1,
      0n,
    );
    const address = Deno.UnsafePointer.value(start);
    if (start === null || address === 0xffffffffffffffffn) throw new SyscallError("mmap");
    this.base = Number(address);
    this.buffer = Deno.UnsafePointerView.getArrayBuffer(start, size);
    this.view = new DataView(this.buffer);
  }

  /**
   * Takes `size` bytes, aligned to `align` (a power of two); returns their offset.
   *
   * @throws {RangeError} if the arena is used up: a programming error.
   */
  take(size: number, align = 8): number {
    const at = (this.#used + align - 1) & -align;
    if (at + size > this.buffer.byteLength) throw new RangeError("arena is used up");
    this.#used = at + size;
    return at;
  }

  /** The address of an offset, as FFI calls take it. */
  pointer(at: number): Deno.PointerValue {
    return Deno.UnsafePointer.create(BigInt(this.base + at));
  }

  /** A part of the block as bytes; `at` is an offset into it. */
  bytes(at: number, length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.buffer, at, length);
  }
  /** A part of the block as words; `at` is an offset into it, a multiple of 4. */
  words(at: number, count: number): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.buffer, at, count);
  }
}
