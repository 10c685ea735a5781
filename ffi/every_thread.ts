/**
 * System calls on every thread of the process. Capabilities, and what Landlock restricts,
 * are a thread's own: other threads cannot change them, and those of the runtime are there
 * before the first line of ours. So each one is sent a signal, in whose handler it makes
 * the calls itself: that is how libc changes the user of all threads, and libpsx (of
 * libcap) what libc has no function for. The handler is a few instructions of machine
 * code, as no JavaScript can run on those threads.
 */
import { Arena } from "./arena.ts";
import { Call, rawCall } from "./raw_call.ts";

/** A system call: its number, and up to five arguments. */
export type CallToMake = readonly (number | bigint)[];

/** A real-time signal that nothing else uses. */
const SIGNAL = 50;
const SA_SIGINFO_RESTART_RESTORER = 0x4 | 0x1000_0000 | 0x0400_0000;
const PROT_READ_EXEC = 5;
const PAGE = 4096;
/** How often to look whether all have done it before giving up: some seconds. */
const LOOKS = 200_000;

/** The table that the handler reads: number of calls, threads that are done, calls. */
const DONE_AT = 8;
const CALLS_AT = 64;
const CALL_SIZE = 64;
const MOST_CALLS = 100;
const FAILED_AT = 56;
/** Where the address of the table is in {@link HANDLER}. */
const ADDRESS_AT = 6;

/** void handler(int, siginfo_t *, void *), as assembled for x86-64. */
// deno-fmt-ignore
const HANDLER = [
  0x53,                               //     push %rbx
  0x41, 0x54,                         //     push %r12
  0x55,                               //     push %rbp
  0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, //     movabs $table, %rbx
  0x4c, 0x8b, 0x23,                   //     mov (%rbx), %r12       how many calls
  0x48, 0x8d, 0x6b, 0x40,             //     lea 64(%rbx), %rbp     the first
  0x4d, 0x85, 0xe4,                   // 1:  test %r12, %r12
  0x74, 0x2d,                         //     jz 3f
  0x48, 0x8b, 0x45, 0x00,             //     mov (%rbp), %rax
  0x48, 0x8b, 0x7d, 0x08,             //     mov 8(%rbp), %rdi
  0x48, 0x8b, 0x75, 0x10,             //     mov 16(%rbp), %rsi
  0x48, 0x8b, 0x55, 0x18,             //     mov 24(%rbp), %rdx
  0x4c, 0x8b, 0x55, 0x20,             //     mov 32(%rbp), %r10
  0x4c, 0x8b, 0x45, 0x28,             //     mov 40(%rbp), %r8
  0x0f, 0x05,                         //     syscall
  0x48, 0x85, 0xc0,                   //     test %rax, %rax
  0x79, 0x05,                         //     jns 2f
  0xf0, 0x48, 0xff, 0x45, 0x38,       //     lock incq 56(%rbp)     it failed
  0x48, 0x83, 0xc5, 0x40,             // 2:  add $64, %rbp
  0x49, 0xff, 0xcc,                   //     dec %r12
  0xeb, 0xce,                         //     jmp 1b
  0xf0, 0x48, 0xff, 0x43, 0x08,       // 3:  lock incq 8(%rbx)      one thread more
  0x5d,                               //     pop %rbp
  0x41, 0x5c,                         //     pop %r12
  0x5b,                               //     pop %rbx
  0xc3,                               //     ret
];
/** Where the handler returns to: mov $15, %eax; syscall (rt_sigreturn). */
const RESTORER = [0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];
const RESTORER_AT = 128;

/** Whether this can be done on this machine. */
export const REACHES_THREADS: boolean = Deno.build.arch === "x86_64";

/** Handler, and table; neither is ever freed: a thread may be about to return from it. */
interface Prepared {
  readonly code: Arena;
  readonly table: Arena;
}
let prepared: Prepared | undefined;

function prepare(): Prepared | undefined {
  const table = new Arena(CALLS_AT + MOST_CALLS * CALL_SIZE);
  const code = new Arena(PAGE);
  const bytes = code.bytes(code.take(PAGE), PAGE);
  bytes.set(HANDLER);
  bytes.set(RESTORER, RESTORER_AT);
  code.view.setBigUint64(ADDRESS_AT, BigInt(table.base), true);
  if (rawCall(Call.mprotect, code.base, PAGE, PROT_READ_EXEC) !== 0) return undefined;
  return { code, table };
}

/** Has the signal handled by `handler`, or 0 for what the system does by default. */
function handleBy(handler: number, restorer: number): boolean {
  // struct { void *handler; unsigned long flags; void *restorer; sigset_t mask; }
  const action = new Arena(32);
  action.view.setBigUint64(0, BigInt(handler), true);
  action.view.setBigUint64(8, BigInt(SA_SIGINFO_RESTART_RESTORER), true);
  action.view.setBigUint64(16, BigInt(restorer), true);
  return rawCall(Call.rt_sigaction, SIGNAL, action.base, 0, 8) === 0;
}

function threads(): number[] {
  return [...Deno.readDirSync("/proc/self/task")].map(({ name }) => Number(name));
}

/**
 * Makes the calls, in order, on all threads but the calling one.
 *
 * @param calls at most {@link MOST_CALLS}
 * @returns of each call on how many threads it failed; undefined if threads cannot be
 *   reached, or one did not answer
 */
export function callOnOtherThreads(calls: readonly CallToMake[]): number[] | undefined {
  if (!REACHES_THREADS) return undefined;
  prepared ??= prepare();
  if (prepared === undefined) return undefined;
  const { code, table } = prepared;
  new Uint8Array(table.buffer).fill(0);
  table.view.setBigUint64(0, BigInt(calls.length), true);
  calls.forEach((call, i) =>
    call.forEach((word, k) => {
      const at = CALLS_AT + i * CALL_SIZE + 8 * k;
      table.view.setBigUint64(at, BigInt.asUintN(64, BigInt(word)), true);
    })
  );
  if (!handleBy(code.base, code.base + RESTORER_AT)) return undefined;
  if (!signalAll(new Int32Array(table.buffer, DONE_AT, 1))) return undefined;
  handleBy(0, 0);
  return calls.map((_, i) =>
    table.view.getUint32(CALLS_AT + i * CALL_SIZE + FAILED_AT, true)
  );
}

/** Signals each thread once, and waits until `done` says that all have made the calls. */
function signalAll(done: Int32Array): boolean {
  const seen = new Set<number>([rawCall(Call.gettid)]);
  let signalled = 0;
  // A thread that had not made the calls yet may have made another one meanwhile.
  for (let fresh = true; fresh;) {
    fresh = false;
    for (const thread of threads()) {
      if (seen.has(thread)) continue;
      seen.add(thread);
      fresh = true;
      if (rawCall(Call.tgkill, Deno.pid, thread, SIGNAL) === 0) signalled++;
    }
    for (let looks = 0; Atomics.load(done, 0) < signalled; looks++) {
      if (looks === LOOKS) return false;
      rawCall(Call.sched_yield);
    }
  }
  return true;
}
