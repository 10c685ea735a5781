/** A packed ring of a driver, and the device's side of it. */
import { GuestMemory } from "../../src/virtio/guest_memory.ts";
import { PackedQueue } from "../../src/virtio/packed_queue.ts";
import { GuestRam, type Piece, type RingOptions } from "./mock_driver.ts";
import { PackedDriverRing } from "./packed_driver.ts";

export const memory: GuestMemory = new GuestMemory(2 ** 34);
/** Entries, where a test does not say; no power of two. */
export const RING = 10;

/** Runs `body` with a ring that was just started. */
export function withRing(
  options: RingOptions & { readonly size?: number },
  body: (ring: PackedDriverRing, queue: PackedQueue, ram: GuestRam) => void,
): void {
  const ram = new GuestRam(memory);
  try {
    const ring = new PackedDriverRing(ram, options.size ?? RING, options);
    const queue = new PackedQueue(memory);
    queue.start(ring.layout);
    body(ring, queue, ram);
  } finally {
    ram.close();
  }
}

/** A piece of the guest's memory that nothing else uses. */
export function piece(ram: GuestRam, length = 16): Piece {
  return { address: ram.take(length), length };
}
