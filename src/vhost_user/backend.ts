/** What a vhost-user session drives: the device, in terms of rings and settings. */
import type { GuestMemory } from "../virtio/guest_memory.ts";
import type { RingLayout } from "../virtio/virtqueue.ts";

/** Features as two words: bits 0 to 31 and bits 32 to 63. */
export interface FeatureBits {
  readonly lo: number;
  readonly hi: number;
}

/** A descriptor that is not there: to be polled, or nobody to be told. */
export const NO_FD = -1;

/**
 * A ring as the frontend set it up. The areas lie within one region each and are aligned
 * (16 for descriptors, 2 for the available ring, 4 for the used ring and for the event
 * suppression areas of a packed ring). Descriptors stay the session's, which closes them.
 */
export interface Vring extends Omit<RingLayout, "eventIdx"> {
  readonly index: number;
  /** Readable when the driver kicks; {@link NO_FD}: poll the ring. Non-blocking. */
  readonly kickFd: number;
  /** To be written to when the driver wants an interrupt, or {@link NO_FD}. */
  readonly callFd: number;
  /** A write to callFd would wait while it is full: to be written to if it is not. */
  readonly callWaits?: boolean;
  /** To be written to when the ring is broken, or {@link NO_FD}. */
  readonly errFd: number;
  /** While false, what the guest sends is discarded and it gets nothing. */
  readonly enabled: boolean;
}

/** Direction of a device's state (VhostDeviceStateDirection). */
export const TransferDirection = { save: 0, load: 1 } as const;
/** One of the values above. */
export type TransferDirection =
  (typeof TransferDirection)[keyof typeof TransferDirection];

/** What a backend says to a request to move its state. */
export interface TransferAnswer {
  readonly accepted: boolean;
  /** Accepted, but through this descriptor: it is sent to the frontend, and closed here. */
  readonly instead?: number;
}

/**
 * A virtio device behind a Session. All calls are synchronous; none but
 * {@link closed} comes after the session is over. Index 2n is the receive ring of queue
 * pair n (the guest receives), 2n + 1 its transmit ring.
 */
export interface Backend {
  /** Virtio features on offer, with VHOST_F_LOG_ALL if every write is logged. */
  readonly deviceFeatures: FeatureBits;
  /** Protocol features on offer (ProtocolFeature bits). */
  readonly protocolFeatures: number;
  /** Rings at most: twice the queue pairs. */
  readonly maxQueues: number;
  /** Filled and emptied by the session. */
  readonly memory: GuestMemory;

  /**
   * The frontend accepted these virtio features; may come again while rings run.
   *
   * @returns why no ring can be served with these, if so: the session starts none then
   */
  setFeatures(features: FeatureBits): string | undefined;
  /**
   * The ring may be processed from now on, once at once as if kicked: a kick may have
   * come and gone before.
   */
  startQueue(ring: Vring): void;
  /**
   * The ring must not be touched any more, nor may offsets taken from it be used. Comes
   * before the memory or the ring's addresses change, and is then followed by
   * startQueue() with what was returned.
   *
   * @returns the base index of what was not used up, see {@link RingLayout}
   */
  stopQueue(index: number): number;
  /** `enabled`, `callFd` or `errFd` of a running ring changed; old ones get closed next. */
  updateQueue(ring: Vring): void;
  /** Announce the guest (SEND_RARP): `mac` is 6 bytes. */
  sendRarp(mac: Uint8Array): void;
  /** The MTU the guest is told; false to refuse it. */
  setMtu(mtu: number): boolean;
  /** `size` bytes of the device's configuration space, or null if it has not as many. */
  getConfig(offset: number, size: number): Uint8Array | null;
  /**
   * The guest (or, if `migrating`, the target of a migration) sets configuration space.
   *
   * @returns false if what lies there is read-only
   */
  setConfig(offset: number, bytes: Uint8Array, migrating: boolean): boolean;
  /** All rings are stopped and disabled: forget what the driver set. */
  resetDevice(): void;
  /**
   * Move the device's state through `fd` (SET_DEVICE_STATE_FD; `phase` 0 is the stopped
   * guest). The transfer itself takes place in later turns of the loop.
   *
   * @param fd the backend's from now on if the answer is that it was accepted
   */
  transferState(direction: number, phase: number, fd: number): TransferAnswer;
  /**
   * The transfer is over as the frontend sees it (CHECK_DEVICE_STATE).
   *
   * @returns 0 if it succeeded, else an error number; undefined while it is not over as
   *   seen from here: the session's transferEnded() is to be called once it is
   */
  checkTransfer(): number | undefined;
  /** The frontend is gone: rings are stopped and memory is unmapped. */
  closed(): void;
}

/** Where sessions write what the operator should know. */
export interface SessionLog {
  warn(message: string): void;
  info(message: string): void;
  debug(message: string): void;
}
