/**
 * The guest's memory as the frontend shares it: files mapped into one reserved range of
 * addresses, which is one ArrayBuffer. A place in guest memory is an offset into that
 * buffer; {@link GuestMemory.translate} is the only way from an address to an offset, and
 * so the one range check between a hostile guest and this process.
 *
 * Between regions lie gaps without memory: an access that went astray would end the
 * process instead of reaching another region. A removed region becomes such a gap.
 *
 * A frontend (not the guest) can shrink a file after it was mapped, unless it is sealed;
 * touching the lost pages ends this process (SIGBUS), which serves that frontend alone.
 */
import { attach, type Reservation } from "../../ffi/memory.ts";
import {
  FileMapper,
  GAP,
  type Mapping,
  MemoryError,
  reserveUpTo,
} from "./file_mapper.ts";

/** Regions at most: what GET_MAX_MEM_SLOTS is answered with. */
export const MAX_MEMORY_SLOTS = 509;
/** Guest memory is logged in pages of this size (VHOST_LOG_PAGE). */
const LOG_PAGE = 0x1000;
/** A log of this size covers 256 TiB. */
const MAX_LOG_SIZE = 2 ** 33;
/** Room for a guest of 1 TiB and more, twice: a new table is mapped beside the old one. */
const DEFAULT_LIMIT = 2 ** 43;
/** Bytes of one window, see {@link GuestMemory.windows}. */
export const WINDOW = 2 ** 30;
/** A window goes on for so long after its end; no region ends closer to the buffer's. */
const WINDOW_OVERLAP = GAP;
/** Where no region lies. */
const NO_WINDOW = new DataView(new ArrayBuffer(0));

/** A region as SET_MEM_TABLE and ADD_MEM_REG describe it; all are bytes. */
export interface RegionRequest {
  readonly guestAddress: number;
  readonly size: number;
  /** Where the frontend itself sees the region; ring addresses are given so. */
  readonly userAddress: number;
  /** Where the region starts in its file. */
  readonly mmapOffset: number;
}

interface Region extends RegionRequest, Mapping {
  /** Offset of the region's first byte in the view. */
  readonly place: number;
}

/** Guest memory as another thread of this process sees it; see {@link GuestMemory.follow}. */
export interface MemoryMap {
  readonly regions: readonly (RegionRequest & Mapping & { readonly place: number })[];
  readonly log: { readonly offset: number; readonly size: number } | null;
  readonly logging: boolean;
}

const hex = (address: number) => `0x${address.toString(16)}`;
const describe = (region: RegionRequest) =>
  `region at guest address ${hex(region.guestAddress)}, ${region.size} bytes`;

/** The guest's memory, empty until a table or a region is set. */
export class GuestMemory {
  /** Address of offset 0, for system calls. */
  readonly base: number;
  /** Bytes of addresses for it. */
  readonly size: number;
  /** All addresses for it, once there is some; see {@link view}. */
  buffer = new ArrayBuffer(0);
  /**
   * All of guest memory, once there is some; only offsets that translate() returned may
   * be touched.
   */
  view = new DataView(this.buffer);
  /**
   * The same in windows of 1 GiB: byte `offset` is byte `offset - i * WINDOW` of window
   * `i = offset / WINDOW | 0`, and up to 2 MiB from there on lie in the same window. V8
   * is several times faster with a position that is a 32-bit integer. They are made as
   * regions come to lie in them.
   */
  windows: readonly DataView[] = [];
  #windows: DataView[] = [];
  /** Writes must be marked with markDirty(): VHOST_F_LOG_ALL is on and a log is set. */
  logging = false;
  readonly #reservation: Reservation;
  /** Maps the files that the frontend sends. */
  readonly files: FileMapper;
  #regions: Region[] = [];
  /** The same regions in numbers, sorted by guest address. */
  #guests = new Float64Array(0);
  #sizes = new Float64Array(0);
  #places = new Float64Array(0);
  /** The region found last. */
  #guest = 0;
  #size = 0;
  #place = 0;

  #logWanted = false;
  #log: Uint8Array | null = null;
  #logMapping: Mapping | null = null;
  /**
   * Regions or the log are others now; what is no longer in use is unmapped after this
   * has returned.
   */
  onChange: () => void = () => {};

  /**
   * Reserves addresses, which takes no memory and lasts as long as the process.
   *
   * @param from bytes of guest memory at most, a power of two; less is tried if the kernel
   *   does not give as much. Or the memory of another thread, which this one follows
   * @throws {MemoryError} if not even 1 GiB can be had
   */
  constructor(from: number | { base: number; size: number } = DEFAULT_LIMIT) {
    this.#reservation = typeof from === "number"
      ? reserveUpTo(from)
      : attach(from.base, from.size);
    this.base = this.#reservation.base;
    this.size = this.#reservation.size;
    this.files = new FileMapper(this.base, this.size);
  }

  /** The regions in use, sorted by guest address. */
  get regions(): readonly RegionRequest[] {
    return this.#regions;
  }

  /**
   * Where a range of guest memory lies.
   *
   * @param address guest physical address, below 2^53
   * @param length bytes, not negative
   * @returns the offset of its first byte in {@link view}, or -1 unless all of it lies
   *   within one region
   */
  translate(address: number, length: number): number {
    const at = address - this.#guest;
    if (at >= 0 && at < this.#size && length <= this.#size - at) {
      return this.#place + at;
    }
    const found = this.#find(address);
    if (found < 0) return -1;
    const inside = address - this.#guest;
    return length <= this.#size - inside ? this.#place + inside : -1;
  }

  /** Bytes from `address` to the end of its region, 0 if it is in none. */
  contiguous(address: number): number {
    return this.#find(address) < 0 ? 0 : this.#guest + this.#size - address;
  }

  /** Makes the region that holds `address` the current one; its index, or -1. */
  #find(address: number): number {
    const guests = this.#guests;
    let low = 0;
    let high = guests.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      if (address < guests[middle]) high = middle - 1;
      else if (address - guests[middle] < this.#sizes[middle]) {
        this.#select(middle);
        return middle;
      } else low = middle + 1;
    }
    return -1;
  }

  #select(index: number): void {
    this.#guest = this.#guests[index];
    this.#size = this.#sizes[index];
    this.#place = this.#places[index];
  }

  /** As translate(), of an address of the frontend's own (SET_VRING_ADDR). */
  translateUser(address: number, length: number): number {
    for (const region of this.#regions) {
      const at = address - region.userAddress;
      if (at >= 0 && at < region.size && length <= region.size - at) {
        return region.place + at;
      }
    }
    return -1;
  }

  /**
   * Replaces all regions; `fds[i]` is the file of `requests[i]` and stays the caller's.
   * What was mapped before goes away. On failure nothing has changed.
   *
   * @throws {MemoryError} if a region makes no sense, does not fit its file, or overlaps
   * @throws {SyscallError} if the kernel refuses to map it
   */
  setTable(requests: readonly RegionRequest[], fds: readonly number[]): void {
    const added: Region[] = [];
    const old = this.#regions;
    try {
      for (let i = 0; i < requests.length; i++) {
        checkOverlap(requests[i], added);
        added.push(this.#map(requests[i], fds[i]));
      }
    } catch (error) {
      for (const region of added) this.files.unmap(region);
      throw error;
    }
    this.#install(added);
    for (const region of old) this.files.unmap(region);
  }

  /** Adds a region. On failure nothing has changed; errors as for setTable(). */
  addRegion(request: RegionRequest, fd: number): void {
    if (this.#regions.length >= MAX_MEMORY_SLOTS) {
      throw new MemoryError(`more than ${MAX_MEMORY_SLOTS} memory regions`);
    }
    checkOverlap(request, this.#regions);
    this.#install([...this.#regions, this.#map(request, fd)]);
  }

  /**
   * Removes the region with these addresses and size; the offset into its file does not
   * count. @throws {MemoryError} if there is none.
   */
  removeRegion(request: RegionRequest): void {
    const found = this.#regions.find((region) =>
      region.guestAddress === request.guestAddress &&
      region.userAddress === request.userAddress && region.size === request.size
    );
    if (found === undefined) throw new MemoryError(`no such ${describe(request)}`);
    this.#install(this.#regions.filter((region) => region !== found));
    this.files.unmap(found);
  }

  /** Removes all regions and the log. */
  clear(): void {
    this.setTable([], []);
    this.clearLog();
    this.setLogging(false);
  }

  /** What {@link follow} takes. */
  get map(): MemoryMap {
    const log = this.#log;
    return {
      regions: this.#regions,
      log: log === null ? null : { offset: log.byteOffset, size: log.length },
      logging: this.logging,
    };
  }

  /** Sees the memory of another thread as it is there; nothing is mapped here. */
  follow({ regions, log, logging }: MemoryMap): void {
    this.#install([...regions]);
    if (log !== null) this.open();
    this.#log = log === null ? null : new Uint8Array(this.buffer, log.offset, log.size);
    this.logging = logging;
  }

  #install(regions: Region[]): void {
    if (regions.length > 0) this.open();
    this.#regions = regions.toSorted((a, b) => a.guestAddress - b.guestAddress);
    this.#guests = Float64Array.from(this.#regions, (region) => region.guestAddress);
    this.#sizes = Float64Array.from(this.#regions, (region) => region.size);
    this.#places = Float64Array.from(this.#regions, (region) => region.place);
    this.#guest = this.#size = this.#place = 0;
    if (regions.length > 0) this.#select(0);
    for (const { place, size } of regions) this.#makeWindows(place, size);
    this.onChange();
  }

  /**
   * Takes what time it takes before there is memory, see {@link Reservation.buffer}: when
   * the first comes, a guest may be waiting that has moved here.
   */
  open(): void {
    if (this.windows.length > 0) return;
    this.buffer = this.#reservation.buffer;
    this.view = new DataView(this.buffer);
    const count = Math.ceil(this.size / WINDOW);
    this.windows = this.#windows = new Array<DataView>(count).fill(NO_WINDOW);
    this.#makeWindows(0, 1);
  }

  /** Makes the windows that `length` bytes from an offset on lie in. */
  #makeWindows(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / WINDOW);
    for (let i = Math.floor(offset / WINDOW); i <= last; i++) {
      if (this.#windows[i] !== NO_WINDOW) continue;
      const start = i * WINDOW;
      const size = Math.min(WINDOW + WINDOW_OVERLAP, this.size - start);
      this.#windows[i] = new DataView(this.buffer, start, size);
    }
  }

  #map(request: RegionRequest, fd: number): Region {
    const { guestAddress, size, userAddress, mmapOffset } = request;
    const name = describe(request);
    if (size <= 0) throw new MemoryError(`${name}: is empty`);
    for (const start of [guestAddress, userAddress, mmapOffset]) {
      if (start + size > Number.MAX_SAFE_INTEGER) {
        throw new MemoryError(`${name}: ends beyond 2^53`);
      }
    }
    const { mapping, skip } = this.files.map(fd, mmapOffset, size, name);
    return {
      guestAddress,
      size,
      userAddress,
      mmapOffset,
      ...mapping,
      place: mapping.mapAt + skip,
    };
  }

  /**
   * Uses `size` bytes of a file from `offset` on as the dirty log: one bit for each page
   * of 4 KiB, the first for guest address 0. Replaces a log set before.
   *
   * @throws {MemoryError} if the file is shorter or the log covers nothing
   */
  setLog(fd: number, size: number, offset: number): void {
    if (size <= 0 || size > MAX_LOG_SIZE || offset > Number.MAX_SAFE_INTEGER - size) {
      throw new MemoryError(`dirty log: cannot be ${size} bytes at ${offset}`);
    }
    const { mapping, skip } = this.files.map(fd, offset, size, "dirty log");
    const old = this.#logMapping;
    this.#logMapping = mapping;
    this.open();
    this.#log = new Uint8Array(this.buffer, mapping.mapAt + skip, size);
    this.logging = this.#logWanted;
    this.onChange();
    if (old !== null) this.files.unmap(old);
  }

  /** Marks nothing any more, and unmaps the log. */
  clearLog(): void {
    this.logging = false;
    this.#log = null;
    this.onChange();
    if (this.#logMapping !== null) this.files.unmap(this.#logMapping);
    this.#logMapping = null;
  }

  /** Turns logging on (VHOST_F_LOG_ALL) once there is a log, or off. */
  setLogging(wanted: boolean): void {
    this.#logWanted = wanted;
    this.logging = wanted && this.#log !== null;
    this.onChange();
  }

  /** Bytes of the dirty log, 0 without one. */
  get logSize(): number {
    return this.#log === null ? 0 : this.#log.length;
  }

  /**
   * Marks a range of guest addresses as written, after it was. Pages beyond the log are
   * passed over: the frontend promised to cover all that it shares.
   */
  markDirty(address: number, length: number): void {
    const log = this.#log;
    if (log === null || length <= 0) return;
    const last = Math.floor((address + length - 1) / LOG_PAGE);
    const end = log.length * 8;
    for (let page = Math.floor(address / LOG_PAGE); page <= last && page < end; page++) {
      Atomics.or(log, Math.floor(page / 8), 1 << (page % 8));
    }
  }

  /** As markDirty(), of a range that translate() gave as an offset. */
  markDirtyOffset(offset: number, length: number): void {
    const at = offset - this.#place;
    if (at >= 0 && at < this.#size) {
      this.markDirty(this.#guest + at, length);
      return;
    }
    for (let i = 0; i < this.#places.length; i++) {
      const inside = offset - this.#places[i];
      if (inside >= 0 && inside < this.#sizes[i]) {
        this.markDirty(this.#guests[i] + inside, length);
        return;
      }
    }
  }
}

function checkOverlap(request: RegionRequest, others: readonly RegionRequest[]): void {
  const { guestAddress: guest, userAddress: user, size } = request;
  for (const other of others) {
    if (
      guest < other.guestAddress + other.size && other.guestAddress < guest + size ||
      user < other.userAddress + other.size && other.userAddress < user + size
    ) {
      throw new MemoryError(`${describe(request)}: overlaps the ${describe(other)}`);
    }
  }
}
