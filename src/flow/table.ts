/**
 * The flow table: entries of 128 bytes in one buffer, found by the addresses and ports of
 * either side through a hash of 32-bit entries. An entry holds nothing but numbers and no
 * pointers, so that the table can be sent as it lies.
 *
 * A flow has two sides. On the GUEST side "endpoint" is the guest and "our" is what the
 * guest takes for its peer; on the HOST side "endpoint" is the real peer and "our" is the
 * local address of the socket.
 */
import { FLOW_WORDS, FlowKind, FlowWord, Side } from "../wire/state/flow_entry.ts";
import { Bound, FlowBounds } from "./bounds.ts";
import { SipHash } from "./siphash.ts";
import { WaitingFlows } from "./waiting.ts";

export {
  FLOW_SIZE,
  FLOW_WORDS,
  FlowKind,
  FlowWord,
  Side,
} from "../wire/state/flow_entry.ts";

/** Offsets in bytes of the addresses in {@link FlowTable.key}. */
export const KEY_OUR_AT = 8;
export const KEY_ENDPOINT_AT = 24;

/** First word of a side's ports and addresses, nine in all. */
const SIDE_WORD = [FlowWord.guestPorts, FlowWord.hostPorts];
const SIDE_WORDS = 9;
const KEY_WORDS = 10;

/** Where a thread notes for the others which flows are its own, by the guest side's hash. */
export interface FlowOwnership {
  enter(hash: number): void;
  leave(hash: number): void;
  /** In place of `leave`: both ends have closed the connection. */
  end(hash: number): void;
  /** Whether {@link end} was the last that was heard of a flow. */
  hasEnded(hash: number): boolean;
}

/** All flows of one data path, found by either side's ports and addresses. */
export class FlowTable {
  /** Flows at most. */
  readonly capacity: number;
  /** FLOW_WORDS words for each flow, see {@link FlowWord}. */
  readonly words: Int32Array<ArrayBuffer>;
  /** {@link words} as bytes. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** {@link words} as a view. */
  readonly view: DataView<ArrayBuffer>;
  /**
   * What {@link find} looks for: word 0 is set by it, then ports and addresses in the
   * order of an entry's side.
   */
  readonly key: Int32Array<ArrayBuffer> = new Int32Array(KEY_WORDS);
  /** {@link key} as bytes: "our" from 8 on, the endpoint from 24 on. */
  readonly keyBytes: Uint8Array<ArrayBuffer> = new Uint8Array(this.key.buffer);
  /** {@link key} as a view. */
  readonly keyView: DataView<ArrayBuffer> = new DataView(this.key.buffer);
  /** Flows at the moment. */
  count = 0;
  /** Hash of the key that the last {@link find} looked for in vain. */
  missed = 0;
  /** Is told of flows that come and go, if there are other threads. */
  ownership: FlowOwnership | undefined = undefined;

  readonly #keyWords = new Uint32Array(this.key.buffer);
  readonly #slots: Int32Array;
  readonly #slotMask: number;
  readonly #hash: SipHash;
  /** Hash of each side of each flow, to move slots without hashing anew. */
  readonly #hashes: Uint32Array;
  readonly #nextFree: Int32Array;
  #firstFree = 0;
  #neverUsed = 0;
  readonly #generation: Uint32Array;
  #lastFound = -1;
  /** How many there may be; and those that wait for an answer of either side. */
  readonly bounds: FlowBounds;
  /** Flows that nobody has answered yet, oldest first. */
  readonly waiting: WaitingFlows;
  /** 1 for flows whose socket is counted. */
  readonly #socket: Uint8Array;

  /**
   * @param capacity flows at most
   * @param key of the hash: four random words
   * @param bounds of all flows of the process
   */
  constructor(
    capacity: number,
    key = crypto.getRandomValues(new Uint32Array(4)),
    bounds: FlowBounds = new FlowBounds(),
  ) {
    this.capacity = capacity;
    this.bounds = bounds;
    this.waiting = new WaitingFlows(capacity, bounds);
    this.#socket = new Uint8Array(capacity);
    this.words = new Int32Array(capacity * FLOW_WORDS);
    this.bytes = new Uint8Array(this.words.buffer);
    this.view = new DataView(this.words.buffer);
    let slots = 16;
    while (slots < capacity * 4) slots *= 2;
    this.#slots = new Int32Array(slots);
    this.#slotMask = slots - 1;
    this.#hash = new SipHash(key);
    this.#hashes = new Uint32Array(capacity * 2);
    this.#nextFree = new Int32Array(capacity);
    this.#firstFree = -1;
    this.#generation = new Uint32Array(capacity);
  }

  /**
   * Takes an entry for a new flow, as {@link allocate} does, if its bounds allow one.
   *
   * @param socket it is to have a socket of its own
   * @returns -1 if they do not: {@link FlowBounds.met} is which one
   */
  admit(kind: number, socket: boolean): number {
    const { bounds } = this;
    if (!bounds.admit(kind, socket)) return -1;
    const flow = this.#take(kind);
    if (flow >= 0) {
      this.#socket[flow] = socket ? 1 : 0;
      return flow;
    }
    bounds.leave(kind);
    if (socket) bounds.give(Bound.sockets);
    bounds.met = Bound.flows;
    return -1;
  }

  /**
   * Takes a free entry, zeroed but for its kind and an fd of -1, for a flow that exists
   * already: it is counted, but no bound refuses it.
   *
   * @param moved it comes from another thread, and is counted
   * @returns -1 if all entries are in use
   */
  allocate(kind: number, moved = false): number {
    const flow = this.#take(kind);
    if (flow < 0) return -1;
    this.#socket[flow] = 0;
    if (!moved) this.bounds.enter(kind);
    return flow;
  }

  /** Notes that a flow of {@link allocate} has a socket; `moved`: which is counted. */
  ownSocket(flow: number, moved = false): void {
    if (this.#socket[flow] !== 0) return;
    this.#socket[flow] = 1;
    if (!moved) this.bounds.add(Bound.sockets);
  }

  #take(kind: number): number {
    let flow = this.#firstFree;
    if (flow >= 0) this.#firstFree = this.#nextFree[flow];
    else if (this.#neverUsed < this.capacity) flow = this.#neverUsed++;
    else return -1;
    const at = flow * FLOW_WORDS;
    this.words.fill(0, at, at + FLOW_WORDS);
    this.words[at + FlowWord.kind] = kind;
    this.words[at + FlowWord.fd] = -1;
    this.#generation[flow] = (this.#generation[flow] + 1) >>> 0;
    this.count++;
    return flow;
  }

  /**
   * Frees an entry, whose sides have been {@link remove}d from the hash.
   *
   * @param moved it goes to another thread, and stays counted
   */
  release(flow: number, moved = false): void {
    this.waiting.leave(flow);
    if (!moved) {
      this.bounds.leave(this.kind(flow));
      if (this.#socket[flow] !== 0) this.bounds.give(Bound.sockets);
    }
    this.#socket[flow] = 0;
    this.words[flow * FLOW_WORDS + FlowWord.kind] = FlowKind.free;
    this.#nextFree[flow] = this.#firstFree;
    this.#firstFree = flow;
    this.count--;
  }

  /** Changes each time an entry is taken: tells a late event from a current one. */
  generation(flow: number): number {
    return this.#generation[flow];
  }
  /** A flow's kind, one of {@link FlowKind}. */
  kind(flow: number): number {
    return this.words[flow * FLOW_WORDS + FlowWord.kind] & 0xff;
  }
  /** The descriptor of a flow's socket. */
  fd(flow: number): number {
    return this.words[flow * FLOW_WORDS + FlowWord.fd];
  }

  /** One past the highest entry ever in use, for going through all of them. */
  get limit(): number {
    return this.#neverUsed;
  }

  #hashOf(flow: number, side: number): number {
    const at = flow * FLOW_WORDS + SIDE_WORD[side];
    const key = this.key;
    key[0] = (this.kind(flow) << 8) | side;
    for (let i = 0; i < SIDE_WORDS; i++) key[1 + i] = this.words[at + i];
    return this.#hash.hash(this.#keyWords, KEY_WORDS);
  }

  /**
   * Makes a flow findable by a side's ports and addresses. Overwrites {@link key}.
   *
   * @param moved it comes from another thread, which has told the others
   */
  insert(flow: number, side: number, moved = false): void {
    const hash = this.#hashOf(flow, side);
    if (side === Side.guest && !moved) this.ownership?.enter(hash);
    const reference = flow * 2 + side + 1;
    this.#hashes[reference - 1] = hash;
    let slot = hash & this.#slotMask;
    while (this.#slots[slot] !== 0) slot = (slot + 1) & this.#slotMask;
    this.#slots[slot] = reference;
  }

  /** Hash of the key of a flow's side, which was inserted. */
  hash(flow: number, side: number): number {
    return this.#hashes[flow * 2 + side] | 0;
  }

  /**
   * Undoes {@link insert}; later entries of the run move up, so no tombstones stay.
   *
   * @param moved it goes to another thread, which the others are told elsewhere
   */
  remove(flow: number, side: number, moved = false): void {
    const reference = flow * 2 + side + 1;
    const mask = this.#slotMask;
    let slot = this.#hashes[reference - 1] & mask;
    while (this.#slots[slot] !== reference) {
      if (this.#slots[slot] === 0) return;
      slot = (slot + 1) & mask;
    }
    this.#lastFound = -1;
    if (side === Side.guest && !moved) this.ownership?.leave(this.hash(flow, side));
    let hole = slot;
    for (
      let next = (slot + 1) & mask;
      this.#slots[next] !== 0;
      next = (next + 1) & mask
    ) {
      const home = this.#hashes[this.#slots[next] - 1] & mask;
      // It may move to the hole unless its home lies between the hole and itself.
      if (((next - home) & mask) >= ((next - hole) & mask)) {
        this.#slots[hole] = this.#slots[next];
        hole = next;
      }
    }
    this.#slots[hole] = 0;
  }

  /** The flow whose `side` has the ports and addresses in {@link key}, or -1. */
  find(kind: number, side: number): number {
    const key = this.key;
    const last = this.#lastFound;
    key[0] = (kind << 8) | side;
    if (last >= 0 && this.#matches(last)) return last >> 1;
    const mask = this.#slotMask;
    const hash = this.#hash.hash(this.#keyWords, KEY_WORDS);
    let slot = hash & mask;
    for (;;) {
      const reference = this.#slots[slot];
      if (reference === 0) {
        this.missed = hash;
        return -1;
      }
      if (this.#matches(reference - 1)) {
        this.#lastFound = reference - 1;
        return (reference - 1) >> 1;
      }
      slot = (slot + 1) & mask;
    }
  }

  /** Makes {@link lastFound} -1. */
  forget(): void {
    this.#lastFound = -1;
  }

  /** The flow that was found last since {@link forget}, unless it has gone; or -1. */
  get lastFound(): number {
    return this.#lastFound >> 1;
  }

  /** Whether {@link key} is that of `flow * 2 + side`. */
  #matches(reference: number): boolean {
    const flow = reference >> 1;
    const key = this.key;
    if (key[0] !== ((this.kind(flow) << 8) | (reference & 1))) return false;
    const at = flow * FLOW_WORDS + SIDE_WORD[reference & 1] - 1;
    for (let i = 1; i < KEY_WORDS; i++) {
      if (this.words[at + i] !== key[i]) return false;
    }
    return true;
  }
}
