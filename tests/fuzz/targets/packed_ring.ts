/** A packed ring that changes while it is read and written (src/virtio/packed_queue.ts). */
import type { Target } from "../engine/target.ts";
import { ringTarget } from "../rings.ts";

const target: Target = ringTarget(true);
export default target;
