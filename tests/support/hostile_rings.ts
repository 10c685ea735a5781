/**
 * Wrong states of rings for a vuelo process: chains that the specification forbids, words
 * at random, indexes that jump, and all of it changed once more while vuelo looks. It does
 * so right after it has answered a message that was sent after the kick, and has done so
 * when it answers the next one.
 */
import type { Random } from "./dirty_world.ts";
import { captured } from "./dhcp.ts";
import { eventfdRead } from "../../ffi/event.ts";
import {
  GET_FEATURES,
  GUEST,
  HostileLink,
  type HostileRam,
  MARKER,
  message,
  ringAddress,
  type RingPlace,
  SHARED,
} from "./hostile_link.ts";
import { state, u64 } from "./frontend.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;
const LOG_ALL = 1 << 26;
/** RX and TX. */
const PLACES: readonly RingPlace[] = [
  { desc: 0, avail: 0x1000, used: 0x1800 },
  { desc: 0x2000, avail: 0x3000, used: 0x3800 },
];
/** Where tables, frames and receive buffers lie. */
const TABLES = 0x4000;
const FRAMES = 0x8000;
const BUFFERS = 0xa000;
const NET_HEADER = 12;
/** States before the rings start again. */
const LIFE = 12;
/** States on one connection. */
const STATES = 4000;
const END = GUEST + SHARED;

interface Descriptor {
  readonly address: bigint;
  readonly length: number;
  readonly flags: number;
  /** In a list, which of its descriptors is next. */
  readonly next?: number;
}

const describe = (address: number, length: number, flags = 0, next = 0): Descriptor => ({
  address: BigInt(address),
  length,
  flags,
  next,
});

/** An ARP request for 192.0.2.1 by 192.0.2.5. */
const ARP = Uint8Array.fromHex(
  "ffffffffffff52540012345608060001080006040001525400123456c0000205000000000000c0000201",
);
const GOOD_FRAMES: readonly Uint8Array[] = [ARP, captured("udhcpc")];

export class HostileRings {
  readonly #features: number;
  readonly #protocol: number;
  /** Writes are marked in the dirty log. */
  #logged = false;
  readonly #marker = message(MARKER, new Uint8Array(0), 1);
  #link: HostileLink | undefined;
  #packed = false;
  #size = 16;
  /** Available index of split rings; place of packed ones, with the wrap counter. */
  readonly #next = [0, 0];
  readonly #kicks = [-1, -1];
  readonly #errors = [-1, -1];
  #left = 0;
  played = 0;
  /** States after which vuelo wrote to the descriptor for errors. */
  errors = 0;

  constructor(
    readonly path: string,
    readonly ram: HostileRam,
    readonly log: HostileRam,
    readonly random: Random,
    /** Queue pair: all but the first are another thread's, with --queues. */
    readonly pair = 0,
  ) {
    const link = new HostileLink(path);
    const [lo, hi] = link.get(GET_FEATURES);
    [this.#protocol] = link.get(MARKER);
    link.close();
    this.#features = (lo & ~LOG_ALL) >>> 0;
    if ((hi & 5) !== 5) throw new Error("no packed rings, or no VERSION_1");
  }

  /** Plays `count` states. */
  play(count: number): void {
    for (const end = this.played + count; this.played < end;) {
      this.#link = new HostileLink(this.path);
      try {
        this.#connect();
        const last = Math.min(end, this.played + STATES);
        while (this.played < last) this.#state();
      } finally {
        this.#link.close();
      }
    }
  }

  #connect(): void {
    const { random, ram } = this;
    const link = this.#link!;
    this.#packed = random.chance(50);
    const eventIdx = random.chance(50) ? 0 : 2 ** 29;
    const mergeable = random.chance(30) ? 2 ** 15 : 0;
    const features = this.#features - eventIdx - mergeable + 2 ** 32 +
      (this.#packed ? 2 ** 34 : 0);
    this.#logged = random.chance(30);
    link.negotiate(features + (this.#logged ? LOG_ALL : 0), this.#protocol, ram);
    if (this.#logged) link.log(this.log);
    this.#size = this.#packed ? 1 + random.below(128) : 1 << random.below(8);
    for (const index of [0, 1]) {
      const base = this.#base(index);
      const queue = 2 * this.pair + index;
      const found = link.ring(queue, this.#size, base, PLACES[index]);
      [this.#kicks[index], this.#errors[index]] = found;
    }
    this.#left = LIFE;
  }

  /** Lets the rings go on somewhere, which they are made to agree with. */
  #base(index: number): number {
    const { random, ram } = this;
    const { avail, used } = PLACES[index];
    if (this.#packed) {
      const place = random.below(this.#size) | (random.chance(50) ? 0x8000 : 0);
      this.#next[index] = place;
      return place + place * 0x1_0000;
    }
    const base = random.chance(30) ? 65536 - random.below(4) : random.below(65536);
    this.#next[index] = base & 0xffff;
    ram.shorts[avail / 2 + 1] = base;
    ram.shorts[used / 2 + 1] = base;
    return base & 0xffff;
  }

  #restart(): void {
    this.#left = LIFE;
    const link = this.#link!;
    const set = (request: number, bytes: Uint8Array) =>
      link.send(message(request, bytes, 1));
    for (const index of [0, 1]) {
      const queue = 2 * this.pair + index;
      set(11, state(queue, 0)); // GET_VRING_BASE stops the ring
      const base = this.#base(index);
      set(10, state(queue, base));
      link.send(message(12, u64(queue), 1), [this.#kicks[index]]);
    }
    this.#settle();
  }

  /** Waits until vuelo has dealt with all that it was sent. */
  #settle(): void {
    this.#link!.send(this.#marker);
    if (!this.#link!.untilMarker()) throw new Error("a state ended the connection");
  }

  #state(): void {
    const { random } = this;
    if (this.#left-- === 0) this.#restart();
    this.#prepare();
    const kind = random.below(10);
    for (const index of [0, 1]) {
      const good = kind < 4 && (index === 1 || random.chance(50));
      for (let i = random.below(3); i >= 0; i--) {
        if (good) this.#offer(index, this.#good(index));
        else if (kind < 8) this.#offer(index, this.#forbidden(index));
      }
    }
    if (kind >= 7) this.#scribble(1 + random.below(12));
    if (random.below(40) === 0) this.#jump();
    if (random.below(60) === 0) this.#move();
    this.#kick();
  }

  /** Memory or the rings' addresses are set anew while the rings run, as they may be. */
  #move(): void {
    const { random, ram } = this;
    const link = this.#link!;
    if (random.chance(50)) link.send(message(5, ram.table, 1), [ram.fd]);
    for (const index of [0, 1]) {
      const log = this.#logged ? GUEST + random.below(2 * SHARED) : undefined;
      const queue = 2 * this.pair + index;
      link.send(message(9, ringAddress(queue, PLACES[index], log), 1));
    }
  }

  #kick(): void {
    const link = this.#link!;
    link.kick(this.#kicks[0]);
    link.kick(this.#kicks[1]);
    this.#settle();
    // What is changed now changes while it looks.
    if (this.random.chance(40)) {
      for (let i = 0; i < 20; i++) this.#scribble(1);
    }
    this.#settle();
    this.played++;
    const errors = eventfdRead(this.#errors[0]) + eventfdRead(this.#errors[1]);
    if (errors > 0) this.errors++;
  }

  /** Frames to transmit, which something is answered to. */
  #prepare(): void {
    GOOD_FRAMES.forEach((frame, i) => {
      const at = FRAMES + i * 0x400;
      this.ram.bytes.fill(0, at, at + NET_HEADER);
      this.ram.bytes.set(frame, at + NET_HEADER);
    });
  }

  #good(index: number): Descriptor[] {
    const { random } = this;
    if (index === 0) {
      const at = GUEST + BUFFERS + 0x800 * random.below(16);
      return [describe(at, random.chance(80) ? 2048 : 12 + random.below(60), WRITE)];
    }
    const which = random.below(GOOD_FRAMES.length);
    const at = GUEST + FRAMES + which * 0x400;
    const length = NET_HEADER + GOOD_FRAMES[which].length;
    return [describe(at, NET_HEADER, NEXT, 1), describe(at + 12, length - 12)];
  }

  /** A chain that there must not be. */
  #forbidden(index: number): Descriptor[] {
    const { random } = this;
    const flags = index === 0 ? WRITE : 0;
    const at = GUEST + BUFFERS;
    const good = describe(at, 64, flags | NEXT, 1);
    const table = GUEST + TABLES + 0x100 * random.below(64);
    const entries = random.below(16);
    this.#table(table - GUEST, index);
    const indirect = (length: number, more = 0) =>
      describe(table, length, INDIRECT | more, 1);
    switch (random.below(18)) {
      case 0: // the other direction
        return [describe(at, 64, flags ^ WRITE)];
      case 1:
        return [good, describe(at, 64, flags ^ WRITE)];
      case 2: // empty
        return [describe(at, 0, flags)];
      case 3:
        return [good, describe(at, 0, flags)];
      case 4: // outside
        return [describe(END - random.below(8), 8 + random.below(100), flags)];
      case 5:
        return [describe(GUEST - 1 - random.below(4096), 1 + random.below(64), flags)];
      case 6: // round the end of all addresses
        return [{ address: 2n ** 64n - 8n, length: 16 + random.below(64), flags }];
      case 7:
        return [{ address: BigInt(GUEST) + 2n ** 63n, length: 64, flags }];
      case 8:
        return [describe(at, 0xffff_ffff - random.below(3), flags)];
      case 9: // a loop
        return [good, describe(at, 64, flags | NEXT, 0)];
      case 10: // a next that there is not
        return [describe(at, 64, flags | NEXT, this.#size + random.below(60_000))];
      case 11: // tables of wrong sizes
        return [indirect([0, 1, 15, 17, 8 + 16 * entries, 0x7fff_fff0][random.below(6)])];
      case 12: // a list with a table amid it
        return [good, indirect(16, NEXT), describe(at, 64, flags)];
      case 13: // a table that goes on
        return [indirect(16 * (1 + entries), NEXT), describe(at, 64, flags)];
      case 14: // a table outside, or at its edge
        return [describe(END - 16 * random.below(2) - 8, 32, INDIRECT)];
      case 15: // too short for a header
        return [describe(at, 1 + random.below(NET_HEADER + 13), flags)];
      case 16: // longer than a frame
        return [describe(at, 0x2_0000 + random.below(0x1000), flags)];
      default: // a table with anything in it
        return [indirect(16 * (1 + entries))];
    }
  }

  /** An indirect table, whose entries point to each other, to itself, or nowhere. */
  #table(at: number, index: number): void {
    const { random } = this;
    const flags = index === 0 ? WRITE : 0;
    for (let i = 0; i < 16; i++) {
      const { address, length } = random.chance(80)
        ? describe(GUEST + BUFFERS, 100)
        : describe(GUEST + random.below(SHARED + 64), random.below(2 ** 32));
      const more = random.chance(70) ? NEXT : 0;
      const other = random.chance(10) ? random.below(8) : flags | more;
      const next = random.chance(70) ? i + 1 : random.below(20);
      this.#write(at + 16 * i, address, length, other | next << 16);
    }
  }

  #write(at: number, address: bigint, length: number, last: number): void {
    const { words } = this.ram;
    words[at / 4] = Number(address & 0xffff_ffffn);
    words[at / 4 + 1] = Number(address >> 32n & 0xffff_ffffn);
    words[at / 4 + 2] = length;
    words[at / 4 + 3] = last;
  }

  /** Makes a chain available. */
  #offer(index: number, chain: readonly Descriptor[]): void {
    if (chain.length > this.#size) return;
    if (this.#packed) this.#offerPacked(index, chain);
    else this.#offerSplit(index, chain);
  }

  #offerSplit(index: number, chain: readonly Descriptor[]): void {
    const { desc, avail, used } = PLACES[index];
    const { shorts } = this.ram;
    const size = this.#size;
    // More than fit would break the ring: that is left to jumps of the index.
    if (((this.#next[index] - shorts[used / 2 + 1]) & 0xffff) >= size) return;
    const head = this.random.below(size);
    chain.forEach(({ address, length, flags, next = 0 }, i) => {
      const to = next >= chain.length ? next : (head + next) % size;
      this.#write(desc + 16 * ((head + i) % size), address, length, flags | to << 16);
    });
    shorts[avail / 2 + 2 + this.#next[index] % size] = head;
    this.#next[index] = (this.#next[index] + 1) & 0xffff;
    shorts[avail / 2 + 1] = this.#next[index];
  }

  /** Descriptors follow each other; in either round, as the device may have gone on. */
  #offerPacked(index: number, chain: readonly Descriptor[]): void {
    const { desc } = PLACES[index];
    const size = this.#size;
    let place = this.#next[index] & 0x7fff;
    let round = (this.#next[index] & 0x8000) !== 0 ? AVAIL : USED;
    chain.forEach(({ address, length, flags }, i) => {
      const more = i + 1 < chain.length ? NEXT : flags & NEXT;
      const last = (flags & ~NEXT) | more | round;
      this.#write(
        desc + 16 * place,
        address,
        length,
        this.random.below(256) | last << 16,
      );
      if (++place === size) {
        place = 0;
        round ^= AVAIL | USED;
      }
    });
    this.#next[index] = place | (round === AVAIL ? 0x8000 : 0);
  }

  /** Words that mean something in a ring, and words that do not. */
  #word(): number {
    const { random } = this;
    switch (random.below(6)) {
      case 0:
        return GUEST % 2 ** 32 + random.below(SHARED + 64) - 32;
      case 1:
        return random.below(this.#size + 2);
      case 2:
        return (random.below(8) | random.below(4) << 7 | random.below(2) << 15) << 16 |
          random.below(this.#size + 1);
      case 3:
        return [16, 32, 48, 64, 1500, 0x7fff_ffff, -1][random.below(7)];
      case 4:
        return 1; // the upper half of guest addresses
      default:
        return random.below(2 ** 32);
    }
  }

  /** Changes words of the rings, now and then of anything else that is shared. */
  #scribble(count: number): void {
    const { random } = this;
    const { words } = this.ram;
    for (let i = 0; i < count; i++) {
      const { desc, avail, used } = PLACES[random.below(2)];
      const place = random.below(20);
      const at = place < 12
        ? desc / 4 + random.below(4 * this.#size)
        : place < 14
        ? avail / 4 + random.below(this.#size / 2 + 2)
        : place < 16
        ? used / 4 + random.below(this.#size)
        : random.below(SHARED / 4);
      words[at] = this.#word();
    }
  }

  /** An available index that cannot be, or descriptors that are all available. */
  #jump(): void {
    const { random, ram } = this;
    const { desc, avail } = PLACES[random.below(2)];
    if (this.#packed) {
      const flags = (random.chance(50) ? AVAIL : USED) | NEXT;
      for (let i = 0; i < this.#size; i++) ram.words[desc / 4 + 4 * i + 3] = flags << 16;
    } else ram.shorts[avail / 2 + 1] = random.below(65536);
    this.#left = 0;
  }
}
