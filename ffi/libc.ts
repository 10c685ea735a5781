/**
 * The only `Deno.dlopen` of the project: every table of C prototypes in this folder
 * goes through {@link libc}, so that a test can put itself between vuelo and libc.
 *
 * How prototypes are written here, and why:
 * - A constant address that the kernel reads or fills is a `"pointer"`: passing one
 *   costs as little as an integer. `"usize"` with a JavaScript number takes V8's slow
 *   way (about 130 ns), so lengths are `"u32"` wherever they fit.
 * - `ssize_t` results are declared `"i32"`: no call of ours moves 2 GiB, and 64-bit
 *   results would come back as BigInt.
 */

/** A library's functions, typed by their table. */
export type Functions<T extends Deno.ForeignLibraryInterface> =
  Deno.StaticForeignLibraryInterface<T>;

/** A function of libc as a wrapper sees it: numbers, pointers and buffers in and out. */
export type Call = (...args: unknown[]) => unknown;

/** Returns what is to be called instead of the function `name`: `call`, or a wrapper. */
export type Wrap = (name: string, call: Call) => Call;

let wrap: Wrap | undefined;
let bound = false;

/**
 * Puts `by` between this process and every function bound from now on, to count, check or
 * fail calls. Wrapped calls are slow: V8 no longer makes them directly.
 *
 * @throws {Error} if a table has been bound already, which would go unseen: import the
 *   modules that bind one after this, with `import()`.
 */
export function interpose(by: Wrap): void {
  if (bound) throw new Error("interpose() comes too late: libc is in use already");
  wrap = by;
}

/**
 * Binds a table of C prototypes to the C library of the process.
 *
 * @throws {Error} if libc lacks one of the functions (glibc 2.34 has all of them).
 */
export function libc<const T extends Deno.ForeignLibraryInterface>(
  table: T,
): Functions<T> {
  bound = true;
  const symbols = Deno.dlopen("libc.so.6", table).symbols;
  return wrap === undefined ? symbols : wrapAll(symbols, wrap);
}

/**
 * As {@link libc}, but each function is bound when it is called for the first time, which
 * takes 0.2 ms, and calls are slower: for what is seldom done, or not in every process.
 */
export function rare<const T extends Deno.ForeignLibraryInterface>(
  table: T,
): Functions<T> {
  const functions = Object.entries(table).map(([name, prototype]) => {
    let call: Call | undefined;
    return [name, (...args: unknown[]) => {
      call ??= (libc({ [name]: prototype }) as Record<string, Call>)[name];
      return call(...args);
    }];
  });
  return Object.fromEntries(functions) as Functions<T>;
}

function wrapAll<S extends object>(symbols: S, by: Wrap): S {
  const wrapped = Object.entries(symbols).map(([name, call]) => [
    name,
    typeof call === "function" ? by(name, call as Call) : call,
  ]);
  return Object.fromEntries(wrapped) as S;
}
