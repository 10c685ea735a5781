/**
 * Files that a frontend shares, mapped into one reserved range of addresses: each where
 * there is room, with gaps without memory between them.
 */
import { SyscallError } from "../../ffi/errno.ts";
import {
  F_SEAL_SHRINK,
  fileStatus,
  getSeals,
  mapShared,
  PAGE_SIZE,
  type Reservation,
  reserve,
  unmap,
} from "../../ffi/memory.ts";

/** Mappings start at multiples of this, so that transparent huge pages can back them. */
const ALIGNMENT = 2 ** 21;
const MAX_ALIGNMENT = 2 ** 30;
/** Bytes without memory before and after each mapping, at the least. */
export const GAP = ALIGNMENT;
const MIN_LIMIT = 2 ** 30;
const UNSEALED =
  "is in a file that can be made shorter, which --sealed-memory refuses; " +
  "QEMU's memory-backend-memfd is sealed unless told otherwise";

/** A table, region or log that cannot be used. */
export class MemoryError extends Error {
  override readonly name = "MemoryError";
}

/** A part of the reservation that is in use: an offset into it, and bytes. */
export interface Mapping {
  readonly mapAt: number;
  readonly mapLength: number;
}

/** What is mapped within a reservation, and where the next file may be. */
export class FileMapper {
  /** Refuse files that can be made shorter while they are mapped. */
  sealedOnly = false;
  /** Such a file was mapped. */
  shrinkable = false;
  /** The operator knows. */
  shrinkableTold = false;
  /** Lengths of the mappings in use by where they start. */
  readonly #taken = new Map<number, number>();
  readonly #base: number;
  readonly #size: number;

  /**
   * @param base address of the reservation
   * @param size its bytes
   */
  constructor(base: number, size: number) {
    this.#base = base;
    this.#size = size;
  }

  /**
   * Maps `size` bytes of a file from `offset` on where it finds room. The mapping is
   * widened to whole pages of the file, huge ones for hugetlbfs; `skip` is where the
   * wanted part starts in it.
   *
   * @param name what the file holds, for the error's text
   * @throws {MemoryError} if the file is shorter, is none, may be made shorter though
   *   {@link sealedOnly} is set, or if there is no room
   * @throws {SyscallError} if the kernel refuses to map it
   */
  map(
    fd: number,
    offset: number,
    size: number,
    name: string,
  ): { readonly mapping: Mapping; readonly skip: number } {
    const file = fileStatus(fd);
    if (!file.isFile) throw new MemoryError(`${name}: is not in a file`);
    if (offset + size > file.size) {
      throw new MemoryError(
        `${name}: needs ${offset + size} bytes of a file that has ${file.size}`,
      );
    }
    if ((getSeals(fd) & F_SEAL_SHRINK) === 0) {
      if (this.sealedOnly) throw new MemoryError(`${name}: ${UNSEALED}`);
      this.shrinkable = true;
    }
    const page = pageSize(file.blockSize);
    const skip = offset % page;
    const mapLength = roundUp(skip + size, page);
    const mapAt = this.#room(mapLength, Math.max(page, ALIGNMENT));
    if (mapAt < 0) {
      throw new MemoryError(
        `${name}: does not fit the ${this.#size} bytes for guest memory`,
      );
    }
    const mapping = { mapAt, mapLength };
    try {
      mapShared(this.#base + mapAt, mapLength, fd, offset - skip);
    } catch (error) {
      // A failed MAP_FIXED may have removed what was there: make it a gap again.
      this.unmap(mapping);
      throw error;
    }
    this.#taken.set(mapAt, mapLength);
    return { mapping, skip };
  }

  /**
   * Makes a mapping a gap again. Where the kernel refuses, for want of memory, it stays;
   * nothing leads to it any more.
   */
  unmap({ mapAt, mapLength }: Mapping): void {
    this.#taken.delete(mapAt);
    try {
      unmap(this.#base + mapAt, mapLength);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
    }
  }

  /** First place for `length` bytes with a gap on both sides, or -1. */
  #room(length: number, align: number): number {
    // Addresses, not offsets, must be aligned.
    const place = (offset: number) => roundUp(this.#base + offset, align) - this.#base;
    let at = place(GAP);
    for (const [mapAt, mapLength] of [...this.#taken].sort(([a], [b]) => a - b)) {
      if (at + length + GAP <= mapAt) break;
      at = place(mapAt + mapLength + GAP);
    }
    return at + length + GAP <= this.#size ? at : -1;
  }
}

/**
 * Reserves addresses, less if the kernel does not give as much.
 *
 * @param limit bytes, a power of two
 * @throws {MemoryError} if not even 1 GiB can be had
 */
export function reserveUpTo(limit: number): Reservation {
  for (let size = limit; size >= MIN_LIMIT; size /= 2) {
    const reservation = reserve(size);
    if (reservation !== null) return reservation;
  }
  throw new MemoryError("no addresses left to map guest memory at: see ulimit -v");
}

const roundUp = (value: number, align: number) => Math.ceil(value / align) * align;

/** The unit of mapping a file: hugetlbfs tells its page size as the block size. */
function pageSize(blockSize: number): number {
  const isPower = blockSize > 0 && (blockSize & (blockSize - 1)) === 0;
  return isPower && blockSize > PAGE_SIZE && blockSize <= MAX_ALIGNMENT
    ? blockSize
    : PAGE_SIZE;
}
