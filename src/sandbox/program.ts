/** From the table of calls to the program by which the kernel decides (seccomp(2)). */
import { Errno } from "../../ffi/errno.ts";
import { Action, INSTRUCTION_SIZE } from "../../ffi/seccomp.ts";
import {
  allowedFor,
  type Condition,
  DEADLY,
  type Maker,
  MISSING,
  NEWEST_CALL,
  type Numbers,
} from "./calls.ts";

/** Instructions of classic BPF (linux/bpf_common.h): BPF_LD | BPF_W | BPF_ABS and so on. */
const LOAD = 0x20;
const AND = 0x54;
const EQUAL = 0x15;
const ABOVE = 0x25;
const AT_LEAST = 0x35;
const RETURN = 0x06;

/** struct seccomp_data { int nr; u32 arch; u64 instruction_pointer, args[6]; } */
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const ARGUMENTS_AT = 16;

/** AUDIT_ARCH_*, of which each has numbers of its own (linux/audit.h). */
const ARCHITECTURES = { x86_64: 0xc000_003e, aarch64: 0xc000_00b7 } as const;
/** Calls of the x32 interface, which no program of ours has. */
const X32 = 0x4000_0000;

/** A processor that there are numbers of system calls for. */
export type Architecture = keyof typeof ARCHITECTURES;

/** Whether the table has the numbers of an architecture. */
export function isKnown(architecture: string): architecture is Architecture {
  return Object.hasOwn(ARCHITECTURES, architecture);
}

/** What becomes of a call that is not in the table. */
export const REFUSED: number = Action.error + Errno.EPERM;
const UNKNOWN = Action.error + Errno.ENOSYS;

class Program {
  readonly #words: number[] = [];

  /** @param yes,no instructions to pass over */
  add(code: number, value: number, yes = 0, no = 0): void {
    this.#words.push(code | yes << 16 | no << 24, value);
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.#words.length / 2 * INSTRUCTION_SIZE);
    const view = new DataView(bytes.buffer);
    this.#words.forEach((word, i) => view.setUint32(4 * i, word >>> 0, true));
    return bytes;
  }
}

/** The conditions under which each call is allowed; undefined: under none. */
type Conditions = readonly (readonly Condition[])[];

/** Entries of the table by number, in order; those of one call added up. */
function chosen(
  makers: readonly Maker[],
  number: (numbers: Numbers) => number | undefined,
): Map<number, Conditions | undefined> {
  const calls = new Map<number, Conditions | undefined>();
  for (const entry of allowedFor(makers)) {
    const key = number(entry.numbers);
    if (key === undefined) continue;
    const before = calls.has(key) ? calls.get(key) : [];
    const both = before === undefined || entry.when === undefined
      ? undefined
      : [...before, ...entry.when];
    calls.set(key, both);
  }
  return calls;
}

function sizeOf(condition: Condition): number {
  return condition.mask === undefined ? 2 : 3;
}

function sizeOfAll(conditions: readonly Condition[]): number {
  return conditions.reduce((sum, condition) => sum + sizeOf(condition), 1);
}

/** Allows the call if all conditions hold, else goes on after this. */
function allowIf(program: Program, all: readonly Condition[], process: number): void {
  let left = sizeOfAll(all);
  for (const condition of all) {
    const { argument, high, mask, equals } = condition;
    program.add(LOAD, ARGUMENTS_AT + 8 * argument + (high ? 4 : 0));
    if (mask !== undefined) program.add(AND, mask);
    left -= sizeOf(condition);
    program.add(EQUAL, equals === "this process" ? process : equals, 0, left);
  }
  program.add(RETURN, Action.allow);
}

/**
 * Makes the program. Calls that are allowed whatever their arguments come at no cost: the
 * kernel finds out once which these are, and asks the program no more (since Linux 5.11).
 *
 * @param makers whose calls are allowed
 * @param process number of the process, which may send signals to its own threads
 * @param refused what becomes of a call that is not in the table
 */
export function makeProgram(
  makers: readonly Maker[],
  process: number,
  architecture: Architecture = Deno.build.arch as Architecture,
  refused: number = REFUSED,
): Uint8Array<ArrayBuffer> {
  const program = new Program();
  const column = architecture === "x86_64" ? 0 : 1;
  const number = (numbers: Numbers) => numbers[column];
  const decide = (call: number | undefined, action: number) => {
    if (call === undefined) return;
    program.add(EQUAL, call, 0, 1);
    program.add(RETURN, action);
  };
  program.add(LOAD, ARCHITECTURE_AT);
  program.add(EQUAL, ARCHITECTURES[architecture], 1, 0);
  program.add(RETURN, Action.killProcess);
  program.add(LOAD, NUMBER_AT);
  for (const [call, conditions] of chosen(makers, number)) {
    if (conditions === undefined) {
      decide(call, Action.allow);
      continue;
    }
    const size = conditions.reduce((sum, all) => sum + sizeOfAll(all), 1);
    program.add(EQUAL, call, 0, size);
    for (const all of conditions) allowIf(program, all, process);
    program.add(RETURN, refused);
  }
  for (const { numbers } of MISSING) decide(number(numbers), UNKNOWN);
  for (const { numbers } of DEADLY) decide(number(numbers), Action.killProcess);
  if (architecture === "x86_64") {
    program.add(AT_LEAST, X32, 0, 1);
    program.add(RETURN, Action.killProcess);
  }
  program.add(ABOVE, NEWEST_CALL, 0, 1);
  program.add(RETURN, UNKNOWN);
  program.add(RETURN, refused);
  return program.bytes();
}
