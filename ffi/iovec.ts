/**
 * struct iovec, msghdr and mmsghdr of a 64-bit kernel, built in place (recvmsg(2)).
 *
 * An address goes into two words. Storing it as it is leaves the lower 32 bits, as a typed
 * array takes numbers modulo 2^32; `%` would say so, but is a slow call for large numbers.
 */
import type { Arena } from "./arena.ts";

const IOVEC_SIZE = 16;
const MMSGHDR_SIZE = 64;
const MSG_NAME_WORD = 0;
const MSG_NAMELEN_WORD = 2;
const MSG_IOV_WORD = 4;
const MSG_IOVLEN_WORD = 6;
const MSG_CONTROL_WORD = 8;
const MSG_CONTROLLEN_WORD = 10;
const MSG_FLAGS_WORD = 12;
const MMSG_LEN_WORD = 14;

/** An array of struct iovec, filled one after the other. */
export class IovecArray {
  /** Address of the first element. */
  readonly address: number;
  /** Entries at most. */
  readonly capacity: number;
  /** Entries in use. */
  count = 0;
  readonly #words: Uint32Array;

  constructor(arena: Arena, capacity: number) {
    const at = arena.take(capacity * IOVEC_SIZE, 16);
    this.address = arena.base + at;
    this.capacity = capacity;
    this.#words = arena.words(at, capacity * 4);
  }

  /** Appends memory at `address`; the caller has checked {@link capacity}. */
  add(address: number, length: number): void {
    const words = this.#words;
    const at = this.count * 4;
    words[at] = address;
    words[at + 1] = address / 0x1_0000_0000;
    words[at + 2] = length;
    words[at + 3] = 0;
    this.count++;
  }

  /** Address of element `i`. */
  addressOf(i: number): number {
    return this.address + i * IOVEC_SIZE;
  }
  /** Takes the first `bytes` (fewer than it has) off element `i`. */
  advance(i: number, bytes: number): void {
    const address = this.baseOf(i) + bytes;
    const words = this.#words;
    words[i * 4] = address;
    words[i * 4 + 1] = address / 0x1_0000_0000;
    words[i * 4 + 2] -= bytes;
  }
  /** Address of the memory that element `i` stands for. */
  baseOf(i: number): number {
    return this.#words[i * 4] + this.#words[i * 4 + 1] * 0x1_0000_0000;
  }
  /** Bytes of entry `i`. */
  lengthOf(i: number): number {
    return this.#words[i * 4 + 2];
  }
}

/**
 * An array of struct mmsghdr. Element 0 serves as a plain struct msghdr too, which is
 * what a struct mmsghdr starts with.
 */
export class MessageArray {
  /** Element 0, as sendmsg, recvmsg, sendmmsg and recvmmsg take it. */
  readonly pointer: Deno.PointerValue;
  /** Messages at most. */
  readonly capacity: number;
  readonly #words: Uint32Array;
  readonly #arena: Arena;
  readonly #at: number;

  constructor(arena: Arena, capacity: number) {
    this.#at = arena.take(capacity * MMSGHDR_SIZE, 16);
    this.#arena = arena;
    this.pointer = arena.pointer(this.#at);
    this.capacity = capacity;
    this.#words = arena.words(this.#at, capacity * (MMSGHDR_SIZE / 4));
  }

  /** The address of element `i` for a call that starts there; makes an object. */
  pointerTo(i: number): Deno.PointerValue {
    return this.#arena.pointer(this.#at + i * MMSGHDR_SIZE);
  }

  /** Points element `i` at `count` iovecs from `address` on. */
  setIovecs(i: number, address: number, count: number): void {
    this.#setWide(i, MSG_IOV_WORD, address);
    this.#words[i * 16 + MSG_IOVLEN_WORD] = count;
  }
  /** Address and size of the buffer for msg_name; 0, 0 for none. */
  setName(i: number, address: number, length: number): void {
    this.#setWide(i, MSG_NAME_WORD, address);
    this.#words[i * 16 + MSG_NAMELEN_WORD] = length;
  }
  /** Address and size of the buffer for ancillary data; 0, 0 for none. */
  setControl(i: number, address: number, length: number): void {
    this.#setWide(i, MSG_CONTROL_WORD, address);
    this.#words[i * 16 + MSG_CONTROLLEN_WORD] = length;
  }
  #setWide(i: number, word: number, value: number): void {
    this.#words[i * 16 + word] = value;
    this.#words[i * 16 + word + 1] = value / 0x1_0000_0000;
  }

  /** msg_len of element `i` after recvmmsg or sendmmsg. */
  length(i: number): number {
    return this.#words[i * 16 + MMSG_LEN_WORD];
  }
  /** msg_flags of element `i` after a receive. */
  flags(i: number): number {
    return this.#words[i * 16 + MSG_FLAGS_WORD];
  }
  /** Bytes of the sender's address of message `i`. */
  nameLength(i: number): number {
    return this.#words[i * 16 + MSG_NAMELEN_WORD];
  }
  /** Bytes of the ancillary data of message `i`. */
  controlLength(i: number): number {
    return this.#words[i * 16 + MSG_CONTROLLEN_WORD];
  }
}
