/** What another user does: by this thread, for the length of a function. Needs root. */
import { checked } from "../../ffi/errno.ts";
import { libc } from "../../ffi/libc.ts";

const sys = libc({
  /** long syscall(long number, ...); unlike libc's own calls, of this thread alone */
  syscall: { parameters: ["i64", "i64", "buffer", "i64"], result: "i64" },
});
const sysNumbers = libc({
  syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
});

const NUMBERS = Deno.build.arch === "x86_64"
  ? { setgroups: 116n, setresuid: 117n, setresgid: 119n }
  : { setgroups: 159n, setresuid: 147n, setresgid: 149n };
const KEEP = -1n;

function setGroups(groups: readonly number[]): void {
  const list = Uint32Array.from(groups);
  const result = sys.syscall(NUMBERS.setgroups, BigInt(list.length), list, 0n);
  checked(Number(result), "setgroups");
}

function setEffective(call: bigint, id: number): void {
  checked(Number(sysNumbers.syscall(call, KEEP, BigInt(id), KEEP)), "setres[ug]id");
}

/** Runs `body` as another user, with a group and supplementary groups. */
export function asUser<T>(
  uid: number,
  gid: number,
  groups: readonly number[],
  body: () => T,
): T {
  setGroups(groups);
  setEffective(NUMBERS.setresgid, gid);
  setEffective(NUMBERS.setresuid, uid);
  try {
    return body();
  } finally {
    setEffective(NUMBERS.setresuid, 0);
    setEffective(NUMBERS.setresgid, 0);
    setGroups([]);
  }
}
