/**
 * The state of each ring, from what messages set piece by piece to a running ring of the
 * backend. A ring runs once its size, addresses and kick are set and memory holds all of
 * it; anything that moves it stops it first and starts it again at the same entry.
 */
import { close, isEventfd, isPollable } from "../../ffi/event.ts";
import { isBlocking, setNonBlocking } from "../../ffi/memory.ts";
import { type Backend, NO_FD, type SessionLog, type Vring } from "./backend.ts";
import { signal } from "./interrupt.ts";
import { ProtocolError, type VringAddresses } from "./message.ts";

const MAX_RING_SIZE = 32768;
const DESC_ALIGN = 16;
const DESC_SIZE = 16;
/** Event suppression structure of a packed ring (virtio 1.3, 2.8.10). */
const EVENT_SIZE = 4;
/** Of the 16 bits for a place in a packed ring; the uppermost is its wrap counter. */
const PLACE_MASK = 0x7fff;

/** Bytes and alignment that the areas after the descriptors have. */
interface Areas {
  readonly avail: number;
  readonly availAlign: number;
  readonly used: number;
  readonly usedAlign: number;
}

/** As virtio 1.3, 2.7 and 2.8 have it. */
function areasOf(packed: boolean, size: number): Areas {
  return packed
    ? { avail: EVENT_SIZE, availAlign: 4, used: EVENT_SIZE, usedAlign: 4 }
    : { avail: 6 + 2 * size, availAlign: 2, used: 6 + 8 * size, usedAlign: 4 };
}

class Ring implements Vring {
  packed = false;
  size = 0;
  descOffset = -1;
  availOffset = -1;
  usedOffset = -1;
  baseIndex = 0;
  kickFd = NO_FD;
  callFd = NO_FD;
  callWaits = false;
  errFd = NO_FD;
  enabled = false;
  usedLogAddress = -1;

  /** As the frontend gave them; undefined before. */
  addresses: VringAddresses | undefined;
  /** SET_VRING_KICK came since the ring was stopped. */
  kickSet = false;
  running = false;

  constructor(readonly index: number) {}
}

/** The rings of a session: what was set of each, and which run. */
export class Rings {
  readonly #backend: Backend;
  readonly #log: SessionLog;
  readonly #rings: readonly Ring[];
  /** VIRTIO_F_RING_PACKED is negotiated: the form of rings that start from now on. */
  #packed = false;
  /** Why the device can serve no ring with what the driver accepted, if so. */
  useless: string | undefined;

  constructor(backend: Backend, log: SessionLog) {
    this.#backend = backend;
    this.#log = log;
    this.#rings = Array.from(
      { length: backend.maxQueues },
      (_, index) => new Ring(index),
    );
  }

  #ring(index: number): Ring {
    const ring = this.#rings[index];
    if (ring === undefined) {
      throw new ProtocolError(
        `ring ${index}, expected one below ${this.#rings.length}`,
      );
    }
    return ring;
  }

  /** SET_FEATURES: whether rings are packed. @throws {ProtocolError} while one is used. */
  setForm(packed: boolean): void {
    const used = this.#rings.find((ring) => ring.running && ring.enabled);
    if (packed !== this.#packed && used !== undefined) {
      throw new ProtocolError(`ring ${used.index}: is running, its form cannot change`);
    }
    this.#packed = packed;
  }

  /** SET_VRING_NUM. */
  setSize(index: number, size: number): void {
    const ring = this.#ring(index);
    if (!this.#canBe(size)) {
      const kind = this.#packed ? "a number" : "a power of two";
      throw new ProtocolError(
        `ring ${index}: ${size} entries, expected ${kind} up to ${MAX_RING_SIZE}`,
      );
    }
    this.#stopForSetup(ring);
    ring.size = size;
  }

  /** Whether a ring can have as many entries; packed ones need no power of two (2.8). */
  #canBe(size: number): boolean {
    return size >= 1 && size <= MAX_RING_SIZE &&
      (this.#packed || (size & (size - 1)) === 0);
  }

  /** Whether the places in a base index are in the ring. */
  #canStartAt(base: number, size: number): boolean {
    if (!this.#packed) return base <= 0xffff;
    return (base & PLACE_MASK) < size && ((base >>> 16) & PLACE_MASK) < size;
  }

  /** SET_VRING_BASE: where to go on; see RingLayout for what it means. */
  setBase(index: number, base: number): void {
    const ring = this.#ring(index);
    if (base > 0xffff && !this.#packed) {
      throw new ProtocolError(`ring ${index}: starts at ${base}, expected 16 bits`);
    }
    this.#stopForSetup(ring);
    ring.baseIndex = base;
  }

  /**
   * A driver of virtio_uml sets its rings up anew after it disabled them, without
   * stopping them by GET_VRING_BASE.
   */
  #stopForSetup(ring: Ring): void {
    if (!ring.running) return;
    if (ring.enabled) {
      throw new ProtocolError(`ring ${ring.index}: is running, cannot be set up`);
    }
    this.#stop(ring);
  }

  /** SET_VRING_ADDR; a running ring goes on at the new addresses. */
  setAddresses(index: number, addresses: VringAddresses): void {
    const ring = this.#ring(index);
    const { desc, avail, used } = addresses;
    const { availAlign, usedAlign } = areasOf(this.#packed, ring.size);
    if (desc % DESC_ALIGN !== 0 || avail % availAlign !== 0 || used % usedAlign !== 0) {
      throw new ProtocolError(`ring ${index}: addresses are not aligned`);
    }
    const hasMemory = this.#backend.memory.regions.length > 0;
    if (ring.size > 0 && hasMemory && !this.#locate(addresses, ring.size)) {
      throw new ProtocolError(`ring ${index}: does not lie in shared memory`);
    }
    this.#suspend(ring);
    ring.addresses = addresses;
    this.#start(ring);
  }

  /** Offsets of a ring's areas if each lies in one region. */
  #locate(addresses: VringAddresses, size: number) {
    const { desc, avail, used } = addresses;
    const memory = this.#backend.memory;
    const areas = areasOf(this.#packed, size);
    const descOffset = memory.translateUser(desc, DESC_SIZE * size);
    const availOffset = memory.translateUser(avail, areas.avail);
    const usedOffset = memory.translateUser(used, areas.used);
    // Regions need not be aligned themselves, so that the offsets are judged as well.
    const usable = descOffset >= 0 && availOffset >= 0 && usedOffset >= 0 &&
      descOffset % DESC_ALIGN === 0 && availOffset % areas.availAlign === 0 &&
      usedOffset % areas.usedAlign === 0;
    return usable ? { descOffset, availOffset, usedOffset } : undefined;
  }

  /** GET_VRING_BASE: stops the ring; returns where it would have to go on. */
  stop(index: number): number {
    const ring = this.#ring(index);
    this.#stop(ring);
    return ring.baseIndex;
  }

  #stop(ring: Ring): void {
    this.#suspend(ring);
    ring.kickSet = false;
    ring.kickFd = closed(ring.kickFd);
  }

  /**
   * SET_VRING_KICK: all is set up, the ring may run. `fd` is the ring's from now on;
   * {@link NO_FD} asks for polling.
   */
  setKick(index: number, fd: number): void {
    const ring = this.#adopt(index, fd);
    this.#suspend(ring);
    closed(ring.kickFd);
    ring.kickFd = fd;
    ring.kickSet = true;
    this.#start(ring);
  }

  /**
   * SET_VRING_CALL. A running ring's new descriptor is signalled at once: QEMU may have
   * looked at the old one for the last time before it was, and the driver would wait for
   * an interrupt that it has been sent already.
   */
  setCall(index: number, fd: number): void {
    const ring = this.#adopt(index, fd);
    const old = ring.callFd;
    ring.callFd = fd;
    ring.callWaits = fd !== NO_FD && isBlocking(fd);
    this.#update(ring);
    closed(old);
    if (ring.running) signal(fd);
  }

  /** SET_VRING_ERR. */
  setErr(index: number, fd: number): void {
    const ring = this.#adopt(index, fd);
    const old = ring.errFd;
    ring.errFd = fd;
    this.#update(ring);
    closed(old);
  }

  /** Judges a descriptor for a ring; closes it if it is refused. */
  #adopt(index: number, fd: number): Ring {
    try {
      const ring = this.#ring(index);
      if (fd === NO_FD) return ring;
      // A full pipe must not make this process wait. An eventfd stays as it is: the flag
      // belongs to the frontend's end too, which may wait in read(). One that would make
      // a writer wait, too, is looked at before it is written to.
      if (isEventfd(fd)) return ring;
      if (!isPollable(fd)) {
        throw new ProtocolError(`ring ${index}: expected an eventfd or pipe, got a file`);
      }
      setNonBlocking(fd);
      return ring;
    } catch (error) {
      closed(fd);
      throw error;
    }
  }

  /** SET_VRING_ENABLE. */
  enable(index: number, enabled: boolean): void {
    const ring = this.#ring(index);
    if (ring.enabled === enabled) return;
    ring.enabled = enabled;
    this.#update(ring);
  }

  /** Enables or disables all rings. */
  enableAll(enabled: boolean): void {
    for (const ring of this.#rings) this.enable(ring.index, enabled);
  }

  /** Stops all rings. */
  stopAll(): void {
    for (const ring of this.#rings) this.#stop(ring);
  }

  /** RESET_DEVICE: as at first, but interrupts stay where the frontend wants them. */
  reset(): void {
    this.#packed = false;
    this.useless = undefined;
    for (const ring of this.#rings) {
      this.#stop(ring);
      ring.enabled = false;
      ring.size = 0;
      ring.baseIndex = 0;
      ring.addresses = undefined;
      ring.usedLogAddress = -1;
    }
  }

  /** Starts rings that waited for the memory that has been added. */
  startWaiting(): void {
    for (const ring of this.#rings) this.#start(ring);
  }

  /** Runs `change`, which may replace guest memory, while no ring runs. */
  moveMemory(change: () => void): void {
    for (const ring of this.#rings) this.#suspend(ring);
    try {
      change();
    } finally {
      for (const ring of this.#rings) this.#start(ring);
    }
  }

  /** Stops everything and closes all descriptors. */
  close(): void {
    for (const ring of this.#rings) {
      this.#stop(ring);
      ring.callFd = closed(ring.callFd);
      ring.errFd = closed(ring.errFd);
    }
  }

  #update(ring: Ring): void {
    if (ring.running) this.#backend.updateQueue(ring);
  }

  #suspend(ring: Ring): void {
    if (!ring.running) return;
    const base = this.#backend.stopQueue(ring.index);
    ring.baseIndex = ring.packed ? base : base & 0xffff;
    ring.running = false;
  }

  #start(ring: Ring): void {
    if (ring.running || !ring.kickSet || ring.size === 0) return;
    if (ring.addresses === undefined) return;
    if (this.useless !== undefined) {
      this.#log.warn(`ring ${ring.index} does not run: ${this.useless}`);
      return;
    }
    if (!this.#canBe(ring.size) || !this.#canStartAt(ring.baseIndex, ring.size)) {
      this.#log.warn(
        `ring ${ring.index} cannot have ${ring.size} entries and start at ` +
          `0x${ring.baseIndex.toString(16)}: it does not run`,
      );
      return;
    }
    const place = this.#locate(ring.addresses, ring.size);
    if (place === undefined) {
      this.#log.info(`ring ${ring.index} waits for memory that holds it`);
      return;
    }
    ring.descOffset = place.descOffset;
    ring.availOffset = place.availOffset;
    ring.usedOffset = place.usedOffset;
    ring.usedLogAddress = ring.addresses.log;
    ring.packed = this.#packed;
    ring.running = true;
    this.#backend.startQueue(ring);
  }
}

/** Closes a descriptor if there is one; what to note in its place. */
function closed(fd: number): number {
  if (fd !== NO_FD) close(fd);
  return NO_FD;
}
