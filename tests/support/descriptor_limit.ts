/** A process that has run out of descriptors, for the length of a function. */
import { checked } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";

const sys = libc({
  /** int getrlimit(int resource, struct rlimit *limit) */
  getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  /** int setrlimit(int resource, const struct rlimit *limit) */
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
});
const RLIMIT_NOFILE = 7;

/** Runs `body`, synchronous, while every call that makes a descriptor fails (EMFILE). */
export function withoutDescriptors(body: () => void): void {
  const limit = new BigUint64Array(2);
  checked(sys.getrlimit(RLIMIT_NOFILE, limit), "getrlimit");
  const none = BigUint64Array.of(0n, limit[1]);
  checked(sys.setrlimit(RLIMIT_NOFILE, none), "setrlimit");
  try {
    body();
  } finally {
    checked(sys.setrlimit(RLIMIT_NOFILE, limit), "setrlimit");
  }
}
