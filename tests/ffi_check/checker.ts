/**
 * An independent check of memory safety: every address that a call of libc is given must
 * lie, with all the bytes that the call may touch, in one piece of memory that vuelo has:
 * a piece of an arena, a region of guest memory, an array of JavaScript's.
 */
import type { Call } from "../../ffi/libc.ts";
import { RULES } from "./prototypes.ts";
import type { Registry, Tally } from "./regions.ts";

/** Ranges of addresses that were handed out within an arena. */
interface Piece {
  readonly start: number;
  readonly end: number;
}

/** Memory of JavaScript's whose address was asked for. */
interface Pinned extends Piece {
  readonly buffer: WeakRef<ArrayBufferLike>;
}

const LONGEST_STRING = 8192;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

const hex = (address: number) => `0x${address.toString(16)}`;

/** What a call of libc is given: a number, a pointer, an array. */
export type Argument = unknown;

export class Checker {
  /** The function that is being called. */
  #call = "";
  readonly #tally: Tally;
  /** Pieces of arenas of this thread, sorted. */
  readonly #pieces: Piece[] = [];
  readonly #pinned: Pinned[] = [];
  /** What functions of libc returned: structures of libc's own. */
  readonly #returned = new Map<number, number>();

  /** @param fail is told of an address that lies outside; should not return */
  constructor(readonly registry: Registry, readonly fail: (text: string) => void) {
    this.#tally = registry.enter();
  }

  /** A function of libc that checks what it is given. */
  wrap(name: string, call: Call): Call {
    const rule = RULES[name];
    if (rule === undefined) {
      this.fail(`${name}: tests/ffi_check/prototypes.ts does not say what it takes`);
    }
    return (...args) => {
      this.#call = name;
      this.#tally.calls++;
      const after = rule(this, args);
      const result = call(...args);
      after?.(result);
      return result;
    };
  }

  /** A piece of an arena was handed out. */
  take(start: number, length: number): void {
    this.#pieces.splice(this.#piecesUpTo(start), 0, { start, end: start + length });
  }

  /** The address of an array was asked for. */
  pin(view: ArrayBufferView, start: number): void {
    const buffer = new WeakRef(view.buffer);
    this.#pinned.push({ start, end: start + view.byteLength, buffer });
  }

  #piecesUpTo(address: number): number {
    let low = 0;
    let high = this.#pieces.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#pieces[middle].start <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Reports something wrong with the call under way. */
  wrong(what: string): void {
    this.fail(`${this.#call}(): ${what}`);
  }

  /**
   * An argument that points to `length` bytes.
   *
   * @param value a pointer, an array or null
   */
  range(value: Argument, length: Argument, what: string): void {
    const size = Number(length);
    if (size === 0) return;
    this.#tally.ranges++;
    if (value === null) return this.wrong(`${what} is null, not ${size} bytes`);
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
      if (size <= value.byteLength) return;
      return this.wrong(`${what} has ${value.byteLength} bytes, not ${size}`);
    }
    this.#within(this.address(value), size, what);
  }

  /** As {@link range}, but the function does without if it is null. */
  optional(value: Argument, length: Argument, what: string): void {
    if (value !== null && value !== undefined) this.range(value, length, what);
  }

  /** Memory at an address that stands in a structure. */
  rangeAt(address: number, length: number, what: string): void {
    if (length === 0) return;
    this.#tally.ranges++;
    this.#within(address, length, what);
  }

  /** A string that ends with a zero byte. */
  string(value: Argument, what: string): void {
    this.#tally.ranges++;
    if (value instanceof Uint8Array) {
      if (!value.includes(0)) this.wrong(`${what} has no end`);
      return;
    }
    this.stringAt(this.address(value), what);
  }

  stringAt(address: number, what: string): void {
    this.#tally.ranges++;
    const room = this.#room(address);
    if (room === undefined) return this.wrong(`${what} at ${hex(address)} is nowhere`);
    const view = this.view(address);
    for (let i = 0; i < Math.min(room.end - address, LONGEST_STRING); i++) {
      if (view.getUint8(i) === 0) return;
    }
    this.wrong(`${what} at ${hex(address)} has no end`);
  }

  /** Numeric address of a pointer; 0 for null. */
  address(pointer: Argument): number {
    if (ArrayBuffer.isView(pointer)) {
      const view = pointer as Uint8Array<ArrayBuffer>;
      return Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view)));
    }
    return Number(Deno.UnsafePointer.value((pointer ?? null) as Deno.PointerValue));
  }

  /** What is at an address that has been checked. */
  view(address: number): Deno.UnsafePointerView {
    const pointer = Deno.UnsafePointer.create(BigInt(address));
    if (pointer === null) throw new RangeError("nothing is at address 0");
    return new Deno.UnsafePointerView(pointer);
  }

  /** A function returned the address of a structure of libc's. */
  returned(result: unknown, size: number): void {
    if (result !== null) this.#returned.set(this.address(result), size);
  }

  /** mmap() succeeded. */
  mapped(result: unknown, length: number, accessible: boolean): void {
    const start = Deno.UnsafePointer.value(result as Deno.PointerValue);
    if (result === null || start === MAP_FAILED) return;
    this.registry.map(Number(start), Number(start) + pages(length), accessible);
  }

  /** munmap() succeeded. */
  unmapped(result: unknown, pointer: Argument, length: number): void {
    const start = this.address(pointer);
    if (result === 0) this.registry.unmap(start, start + pages(length));
  }

  /** mmap(MAP_FIXED) and munmap() may replace only what this process has reserved, and in one piece. */
  replaced(pointer: Argument, length: number): void {
    this.#tally.ranges++;
    const start = this.address(pointer);
    const end = start + pages(length);
    let at = start;
    const regions = this.registry.within(start, end);
    for (const { origin, ...region } of regions) {
      if (region.start > at || origin !== regions[0].origin) break;
      at = region.end;
    }
    if (at < end) this.wrong(`replaces foreign memory, ${hex(start)} to ${hex(end)}`);
  }

  /** JavaScript gets an array over memory. */
  viewed(pointer: Argument, length: number): void {
    this.#call = "getArrayBuffer";
    const start = this.address(pointer);
    if ((this.#returned.get(start) ?? 0) >= length) return;
    const region = this.registry.find(start);
    if (region !== undefined && start + length <= this.#reserved(region.origin)) return;
    this.range(pointer, length, "memory");
  }

  /** Where a reservation ends. */
  #reserved(origin: number): number {
    const own = this.registry.within(0, Infinity).filter((r) => r.origin === origin);
    return Math.max(...own.map((region) => region.end));
  }

  #within(address: number, length: number, what: string): void {
    const room = this.#room(address);
    if (room !== undefined && address + length <= room.end) return;
    const wanted = `${what}: ${length} bytes at ${hex(address)}`;
    if (room === undefined) this.wrong(`${wanted}, where vuelo has no memory`);
    else this.wrong(`${wanted}, of which only ${room.end - address} are one piece`);
  }

  /** The piece of memory that an address lies in. */
  #room(address: number): Piece | undefined {
    const piece = this.#pieces[this.#piecesUpTo(address) - 1];
    if (piece !== undefined && address < piece.end) return piece;
    const region = this.registry.find(address);
    if (region !== undefined) return this.#usable(region) ? region : undefined;
    return this.#pinned.find(({ start, end, buffer }) =>
      address >= start && address < end && buffer.deref() !== undefined
    );
  }

  /** In an arena that is handed out in pieces, what lies between them is nobody's. */
  #usable(region: Piece & { readonly accessible: boolean }): boolean {
    const next = this.#pieces[this.#piecesUpTo(region.start - 1)];
    return region.accessible && !(next !== undefined && next.start < region.end);
  }
}

function pages(length: number): number {
  return Math.ceil(length / 4096) * 4096;
}
