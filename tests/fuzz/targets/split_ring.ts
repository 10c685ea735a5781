/** A split ring that changes while it is read and written (src/virtio/split_queue.ts). */
import type { Target } from "../engine/target.ts";
import { ringTarget } from "../rings.ts";

const target: Target = ringTarget(false);
export default target;
