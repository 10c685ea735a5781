/** The clock that all threads of a process share: clock_gettime(2). */
import { Arena } from "./arena.ts";
import { checked } from "./errno.ts";
import { libc } from "./libc.ts";

const sys = libc({
  /** int clock_gettime(clockid_t clockid, struct timespec *tp) */
  clock_gettime: { parameters: ["i32", "pointer"], result: "i32" },
});

const CLOCK_MONOTONIC = 1;
const scratch = new Arena(4096);
const SPEC_AT = scratch.take(16);
const spec = scratch.pointer(SPEC_AT);

/** Milliseconds of the monotonic clock, with fractions. */
export function monotonicMs(): number {
  checked(sys.clock_gettime(CLOCK_MONOTONIC, spec), "clock_gettime");
  const seconds = scratch.view.getUint32(SPEC_AT, true) +
    scratch.view.getUint32(SPEC_AT + 4, true) * 0x1_0000_0000;
  return seconds * 1000 + scratch.view.getUint32(SPEC_AT + 8, true) / 1e6;
}
