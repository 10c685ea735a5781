/** Queues by the form of their rings. */
import type { GuestMemory } from "./guest_memory.ts";
import { PackedQueue } from "./packed_queue.ts";
import { SplitQueue } from "./split_queue.ts";
import type { Virtqueue } from "./virtqueue.ts";

/** A queue that is not started, for a packed ring or a split one. */
export function makeQueue(memory: GuestMemory, packed: boolean): Virtqueue {
  return packed ? new PackedQueue(memory) : new SplitQueue(memory);
}
